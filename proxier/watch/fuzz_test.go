package watch

import (
	"os"
	"path/filepath"
	"testing"
)

// Whatever a kubeconfig holds: a configuration or an error, and files that are named.
func FuzzKubeconfig(f *testing.F) {
	f.Add([]byte("apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: a, user: u}}]\n" +
		"clusters: [{name: a, cluster: {server: 'https://127.0.0.1:6443', certificate-authority: /ca.crt}}]\nusers: [{name: u, user: {tokenFile: /token}}]\n"))
	path := filepath.Join(f.TempDir(), "kubeconfig")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, name := range Files(path, "") {
			if name == "" {
				t.Fatal("a file without a name")
			}
		}
	})
}
