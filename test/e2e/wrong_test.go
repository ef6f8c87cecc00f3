package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"
)

// wrong is one thing that is not as it should be.
type wrong struct {
	name    string
	arrange func(t *testing.T, p *program) // before the start
	// says are words of the one line that tells of it.
	says []string
	// ends: with code 1, and that line as the last. Else it goes on.
	ends bool
	then func(t *testing.T, p *program) // what comes of it
}

// conf is a ConfigMap's config.conf with these lines.
func conf(lines string) func(*testing.T, *program) {
	return func(_ *testing.T, p *program) { p.configure(lines) }
}

// bare is a config.conf with nothing but these lines.
func bare(lines string) func(*testing.T, *program) {
	return func(t *testing.T, p *program) {
		p.config.put(t, "config.conf", "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"+lines)
	}
}

func badInput() []wrong {
	return []wrong{
		{name: "no kubeconfig", arrange: func(t *testing.T, p *program) { check(t, os.Remove(p.config.dir+"/kubeconfig.conf")) },
			says: []string{"run: read kubeconfig", "kubeconfig.conf: no such file or directory"}, ends: true},
		{name: "an unreadable kubeconfig", arrange: func(t *testing.T, p *program) {
			check(t, os.Remove(p.config.dir+"/kubeconfig.conf"))
			check(t, os.Mkdir(p.config.dir+"/kubeconfig.conf", 0o755))
		}, says: []string{"run: read kubeconfig", "is a directory"}, ends: true},
		{name: "a kubeconfig that is no YAML", arrange: func(t *testing.T, p *program) { p.config.put(t, "kubeconfig.conf", "}{") },
			says: []string{"run: read kubeconfig", "kubeconfig.conf"}, ends: true},
		{name: "a kubeconfig without a server", arrange: func(t *testing.T, p *program) {
			p.config.put(t, "kubeconfig.conf", "apiVersion: v1\nkind: Config\n")
		}, says: []string{"run: read kubeconfig", "kubeconfig.conf"}, ends: true},

		{name: "no configuration file", arrange: func(t *testing.T, p *program) { check(t, os.Remove(p.config.dir+"/config.conf")) },
			says: []string{"read configuration: open", "no such file or directory"}, ends: true},
		{name: "a configuration file that is no YAML", arrange: func(t *testing.T, p *program) { p.config.put(t, "config.conf", "}{") },
			says: []string{"config.conf: yaml: "}, ends: true},
		{name: "a wrong type", arrange: conf("oomScoreAdj: much\n"),
			says: []string{`oomScoreAdj: "much": must be a whole number of 32 bits`}, ends: true},
		{name: "a wrong mode", arrange: conf("mode: nfttables\n"),
			says: []string{`mode: "nfttables": must be one of`}, ends: true},
		{name: "two ranges of one family", arrange: bare("clusterCIDR: 10.0.0.0/8,10.1.0.0/16\n"),
			says: []string{`config.conf:3: clusterCIDR: "10.1.0.0/16": one range for each family at most`}, ends: true},
		{name: "an unknown field", arrange: conf("iptables: {maskeradeAll: true}\n"),
			says: []string{"level=WARN", "iptables.maskeradeAll: unknown field, ignored"},
			then: func(t *testing.T, p *program) { p.inSync() }},

		{name: "a token that was never one", arrange: func(t *testing.T, p *program) { p.account.put(t, "token", "nonsense") },
			says: []string{"level=WARN", "waiting for the API server", "reason=Unauthorized", "times=1 "}, then: goodToken},
		{name: "a token that has expired", arrange: func(t *testing.T, p *program) { p.account.put(t, "token", p.c.expired(t)) },
			says: []string{"level=WARN", "waiting for the API server", "reason=Unauthorized", "times=1 "}, then: goodToken},
		{name: "an API server with a wrong certificate", arrange: func(t *testing.T, p *program) { p.account.put(t, "ca.crt", stranger(t)) },
			says: []string{"level=WARN", "waiting for the API server", "x509: certificate signed by unknown authority", "times=1 "},
			then: func(t *testing.T, p *program) {
				if got, want := p.healthCodes(), [2]int{503, 200}; got != want {
					t.Errorf("/healthz and /livez say %v, want %v", got, want)
				}
			}},
	}
}

// goodToken: the program goes on as soon as there is a token that counts.
func goodToken(t *testing.T, p *program) {
	p.account.put(t, "token", p.c.token(t, ""))
	took := p.until("the API server is followed", func() bool { return len(p.log.Lines("has delivered everything once")) > 0 })
	t.Logf("followed %s after it had a good token", took.Round(time.Millisecond))
	p.inSync()
}

// wrongInput: each is one clear line; what only a person can put right ends the
// program with code 1, all else is waited for.
func (c *cluster) wrongInput(t *testing.T) {
	t.Parallel()
	for _, w := range badInput() {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			p := c.program(t, c.addNode(t))
			c.create(t, node(p.host.Name(), "192.168.0.199"))
			w.arrange(t, p)
			p.start()
			p.says(w.says...)
			if w.ends {
				p.endsWith(w.says...)
				return
			}
			if n := len(p.log.Lines(w.says...)); n != 1 {
				t.Errorf("%d lines with %q:\n%s", n, w.says, p.log)
			}
			time.Sleep(time.Second)
			if p.hasEnded() {
				t.Fatalf("it ended:\n%s", p.log)
			}
			w.then(t, p)
		})
	}
}

// endsWith holds that the program has ended with code 1, and that the last line is
// the only one that is an error.
func (p *program) endsWith(words ...string) {
	p.t.Helper()
	if code := p.code(); code != 1 {
		p.t.Errorf("code %d, want 1", code)
	}
	lines := strings.Split(strings.TrimSpace(p.log.String()), "\n")
	last := lines[len(lines)-1]
	for _, word := range words {
		if !strings.Contains(last, word) {
			p.t.Errorf("its last line is %q, without %q", last, word)
		}
	}
	for _, line := range lines[:len(lines)-1] {
		if !strings.HasPrefix(line, "time=") || strings.Contains(line, "level=ERROR") {
			p.t.Errorf("one more line of errors: %q", line)
		}
	}
	if !strings.HasPrefix(last, "kube-proxy: ") {
		p.t.Errorf("its last line is %q", last)
	}
}

// expired is a token that the API server itself might have given, an hour ago.
func (c *cluster) expired(t *testing.T) string {
	t.Helper()
	header, rest, _ := strings.Cut(c.token(t, ""), ".")
	payload, _, _ := strings.Cut(rest, ".")
	raw, err := base64.RawURLEncoding.DecodeString(payload)
	check(t, err)
	claims := map[string]any{}
	check(t, json.Unmarshal(raw, &claims))
	ago := func(d time.Duration) int64 { return time.Now().Add(-d).Unix() }
	claims["iat"], claims["nbf"], claims["exp"] = ago(2*time.Hour), ago(2*time.Hour), ago(time.Hour)
	raw, err = json.Marshal(claims)
	check(t, err)
	signed := header + "." + base64.RawURLEncoding.EncodeToString(raw)

	block, _ := pem.Decode([]byte(text(t, c.dir+"/sa.key")))
	key, err := x509.ParseECPrivateKey(block.Bytes)
	check(t, err)
	sum := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	check(t, err)
	signature := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...) // RFC 7518, section 3.4
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// stranger is the certificate of an authority that nobody here knows.
func stranger(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "stranger"}, SerialNumber: big.NewInt(1), IsCA: true,
		BasicConstraintsValid: true, NotAfter: time.Now().Add(time.Hour)}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	check(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}))
}
