package kubeapi

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// Account is a service account. The API server authorizes it by RBAC; its
// built-in roles are there once Start has returned.
type Account struct {
	Namespace, Name string
	// Lifetime is how long a token of it lasts: at least 10 minutes, which the API
	// server insists on; 0: an hour.
	Lifetime time.Duration
}

// Config returns the configuration of a client that reaches the server from
// anywhere, with the identity of a kubeconfig, such as Kubeconfig or one that
// WriteKubeconfig wrote.
func (s *Server) Config(kubeconfig string) (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	config.Dial = s.dial
	config.QPS = -1 // no limit
	return config, nil
}

// WriteKubeconfig writes a kubeconfig as a pod of the account has it, with a
// token of its own in a file beside, as the kubelet gives it. It returns the paths
// of both. The account must exist. Each call asks for a new token and puts it in
// place of the old one at once, as a rotation does.
func (s *Server) WriteKubeconfig(ctx context.Context, a Account) (kubeconfig, token string, err error) {
	dir := filepath.Join(s.options.Dir, "accounts", a.Namespace+"."+a.Name)
	kubeconfig, token = filepath.Join(dir, "kubeconfig.conf"), filepath.Join(dir, "token")
	text, err := s.token(ctx, a)
	if err != nil {
		return "", "", fmt.Errorf("token of %s/%s: %w", a.Namespace, a.Name, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", "", err
	}
	if err := replace(token, []byte(text)); err != nil {
		return "", "", err
	}
	config := api.NewConfig()
	config.Clusters["default"] = &api.Cluster{Server: s.url(), CertificateAuthority: s.keys.path("ca.crt")}
	config.AuthInfos["default"] = &api.AuthInfo{TokenFile: token}
	config.Contexts["default"] = &api.Context{Cluster: "default", AuthInfo: "default", Namespace: "default"}
	config.CurrentContext = "default"
	return kubeconfig, token, clientcmd.WriteToFile(*config, kubeconfig)
}

// token asks the API server for one, as the kubelet does for a pod.
func (s *Server) token(ctx context.Context, a Account) (string, error) {
	config, err := s.Config(s.Kubeconfig())
	if err != nil {
		return "", err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return "", err
	}
	lifetime := a.Lifetime
	if lifetime == 0 {
		lifetime = time.Hour
	}
	seconds := int64(lifetime.Seconds())
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}
	answer, err := client.CoreV1().ServiceAccounts(a.Namespace).CreateToken(ctx, a.Name, request, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return answer.Status.Token, nil
}

// replace writes a file in one step: a reader sees the old content or the new.
func replace(path string, content []byte) error {
	fresh := path + ".new"
	if err := os.WriteFile(fresh, content, 0o600); err != nil {
		return err
	}
	return os.Rename(fresh, path)
}
