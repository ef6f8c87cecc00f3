package kubeapi

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// keys are the files that an API server and its administrator need: a CA, a
// certificate each, and the key that signs service accounts' tokens.
type keys struct {
	dir        string
	ca         []byte // PEM
	kubeconfig string
}

func (k *keys) path(name string) string { return filepath.Join(k.dir, name) }

// authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

const lifetime = 24 * time.Hour

func makeKeys(dir string, addr netip.Addr) (*keys, error) {
	k := &keys{dir: dir}
	ca, err := k.authority()
	if err != nil {
		return nil, fmt.Errorf("make certificates: %w", err)
	}
	for name, template := range map[string]*x509.Certificate{
		"server": {
			Subject:     pkix.Name{CommonName: "kube-apiserver"},
			IPAddresses: []net.IP{addr.AsSlice(), net.IPv4(127, 0, 0, 1)}, // loopback: for relays of tests
			DNSNames:    []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc"},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		},
		"admin": {
			Subject:     pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		},
	} {
		if err := k.issue(name, template, ca); err != nil {
			return nil, fmt.Errorf("make certificate %s: %w", name, err)
		}
	}
	if _, err := k.newKey("sa"); err != nil {
		return nil, fmt.Errorf("make key of service accounts: %w", err)
	}
	k.kubeconfig = k.path("admin.conf")
	return k, os.WriteFile(k.kubeconfig, fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters:
- name: test
  cluster: {server: "https://%s", certificate-authority: %q}
users:
- name: admin
  user: {client-certificate: %q, client-key: %q}
contexts:
- name: test
  context: {cluster: test, user: admin}
current-context: test
`, netip.AddrPortFrom(addr, 6443), k.path("ca.crt"), k.path("admin.crt"), k.path("admin.key")), 0o600)
}

func (k *keys) authority() (*authority, error) {
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "test CA"}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	if err := k.issue("ca", template, nil); err != nil {
		return nil, err
	}
	block, _ := pem.Decode(k.ca)
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(k.path("ca.key"))
	if err != nil {
		return nil, err
	}
	block, _ = pem.Decode(raw)
	key, err := x509.ParseECPrivateKey(block.Bytes)
	return &authority{certificate, key}, err
}

// issue writes a certificate and its key. Without an authority it signs itself.
func (k *keys) issue(name string, template *x509.Certificate, by *authority) error {
	key, err := k.newKey(name)
	if err != nil {
		return err
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(lifetime)
	if by == nil {
		by = &authority{template, key}
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, by.certificate, key.Public(), by.key)
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})
	if name == "ca" {
		k.ca = text
	}
	return os.WriteFile(k.path(name+".crt"), text, 0o600)
}

func (k *keys) newKey(name string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, os.WriteFile(k.path(name+".key"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}), 0o600)
}
