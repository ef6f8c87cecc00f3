package watch

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"switchyard/proxier/cluster"
)

// wire is a TCP relay in front of a server; while it is frozen nothing passes and
// nothing is closed, as with a stopped process or a lost route.
type wire struct {
	net.Listener
	to     string
	mu     sync.Mutex
	frozen chan struct{} // closed by thaw; nil: not frozen
	dialed atomic.Int64
}

func newWire(t *testing.T, to string) *wire {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{Listener: l, to: to}
	t.Cleanup(func() { w.thaw(); l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			w.dialed.Add(1)
			go w.relay(conn)
		}
	}()
	return w
}

func (w *wire) relay(conn net.Conn) {
	server, err := net.Dial("tcp", w.to)
	if err != nil {
		conn.Close()
		return
	}
	for from, to := range map[net.Conn]net.Conn{conn: server, server: conn} {
		go func() {
			defer to.Close()
			b := make([]byte, 1<<16)
			for {
				n, err := from.Read(b)
				w.mu.Lock()
				frozen := w.frozen
				w.mu.Unlock()
				if frozen != nil {
					<-frozen
					return // what a frozen connection held is lost
				}
				if _, werr := to.Write(b[:n]); err != nil || werr != nil {
					return
				}
			}
		}()
	}
}

func (w *wire) freeze() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.frozen = make(chan struct{})
}

func (w *wire) thaw() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.frozen != nil {
		close(w.frozen)
		w.frozen = nil
	}
}

// kubeconfigFor writes a kubeconfig for a TLS server behind a wire.
func kubeconfigFor(t *testing.T, server *httptest.Server, address string) string {
	t.Helper()
	dir := t.TempDir()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	config := "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: \"https://" + address +
		"\", certificate-authority: " + dir + "/ca}}]\ncontexts: [{name: x, context: {cluster: c}}]\ncurrent-context: x\n"
	for name, data := range map[string]string{"ca": string(ca), "config": config} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "config")
}

// The pings of HTTP/2 are client-go's; their times can be set by environment
// only. As they come, 30 s and 15 s, this is what finds a frozen server in 45 s.
func TestFrozenConnectionIsFoundByPings(t *testing.T) {
	t.Setenv("HTTP2_READ_IDLE_TIMEOUT_SECONDS", "1")
	t.Setenv("HTTP2_PING_TIMEOUT_SECONDS", "1")
	a := filled(t)
	server := httptest.NewUnstartedServer(a)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	w := newWire(t, server.Listener.Addr().String())
	client, err := NewClient(kubeconfigFor(t, server, w.Addr().String()), "", ClientOptions{ContentType: "application/json", AcceptContentTypes: "application/json"})
	if err != nil {
		t.Fatal(err)
	}
	store := cluster.NewStore("node-a")
	r := run(t, New(client, store, Options{Retry: 50 * time.Millisecond}), store)
	r.becomes(atFirst)
	time.Sleep(2500 * time.Millisecond) // no event: only pings tell that the server lives
	if age := r.Age(); age > 1500*time.Millisecond {
		t.Errorf("age %v with a ping each second", age)
	}
	dialed := w.dialed.Load()
	w.freeze()
	froze := time.Now()
	until(t, "another connection", func() bool { return w.dialed.Load() > dialed })
	if took := time.Since(froze); took > 4*time.Second {
		t.Errorf("the frozen connection was found after %v, want within 3 s", took)
	}
	if age := r.Age(); age < 1500*time.Millisecond {
		t.Errorf("age %v while the server is frozen", age)
	}
	if text(store) != atFirst {
		t.Errorf("the frozen server changed the Store: %s", text(store))
	}
	r.does(func() { w.thaw(); a.put(service("web", "172.30.0.88")) }, strings.Replace(atFirst, ".41", ".88", 1))
}

func TestRequestsAreProtobuf(t *testing.T) {
	var accept, agent atomic.Value
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		accept.Store(r.Header.Get("Accept"))
		agent.Store(r.UserAgent())
	}))
	defer server.Close()
	client, err := NewClient("", server.URL, ClientOptions{UserAgent: "kube-proxy/test"})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = client.CoreV1().Nodes().List(context.Background(), metav1.ListOptions{})
	if got := accept.Load(); got != "application/vnd.kubernetes.protobuf,application/json" {
		t.Errorf("accepts %q", got)
	}
	if got := agent.Load(); got != "kube-proxy/test" {
		t.Errorf("user agent %q", got)
	}
}

// A token that is refused is read again for the next request, and not within a
// minute.
func TestRefusedTokenIsReadAgain(t *testing.T) {
	const old, new = "Bearer old", "Bearer new"
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != new {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer server.Close()
	kubeconfig := kubeconfigFor(t, server, server.Listener.Addr().String())
	token := filepath.Join(filepath.Dir(kubeconfig), "token")
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	write(kubeconfig, strings.Replace(string(text), "cluster: c}", "cluster: c, user: u}", 1)+
		"users: [{name: u, user: {tokenFile: "+token+"}}]\n")
	write(token, strings.TrimPrefix(old, "Bearer "))
	client, err := NewClient(kubeconfig, "", ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ask := func() error {
		return client.CoreV1().RESTClient().Get().AbsPath("/version").Do(t.Context()).Error()
	}
	if err := ask(); !apierrors.IsUnauthorized(err) {
		t.Fatalf("with the old token: %v", err)
	}
	write(token, strings.TrimPrefix(new, "Bearer "))
	_ = ask() // with what was read before; that it is refused makes it be read again
	if err := ask(); err != nil {
		t.Errorf("with the new token: %v", err)
	}
}

func TestClientRefusals(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(bad, []byte("clusters: 7"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, kubeconfig, master, want string }{
		{"not in a pod", "", "", "find the API server as a pod does, since neither kubeconfig nor master is given: "},
		{"no such file", "/no/such/file", "", `read kubeconfig "/no/such/file": `},
		{"not a kubeconfig", bad, "", `read kubeconfig "` + bad + `": `},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("KUBERNETES_SERVICE_HOST", "")
			if _, err := NewClient(c.kubeconfig, c.master, ClientOptions{}); err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("%v, want %s…", err, c.want)
			}
		})
	}
}

func TestCauseIsTheSameForAllRequests(t *testing.T) {
	from := func(port int) error {
		return &url.Error{Op: "Get", URL: "https://10.0.0.1/api/v1/services?x=1", Err: &net.OpError{Op: "read", Net: "tcp",
			Source: &net.TCPAddr{Port: port}, Addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 6443}, Err: io.ErrUnexpectedEOF}}
	}
	for _, c := range []struct {
		err  error
		want string
	}{
		{from(40001), "read tcp 10.0.0.1:6443: unexpected EOF"},
		{from(40002), "read tcp 10.0.0.1:6443: unexpected EOF"},
		{errSilent, "nothing was heard for too long"},
		{&url.Error{Op: "Get", URL: "https://x", Err: errors.New("x509: signed by unknown authority")}, "x509: signed by unknown authority"},
	} {
		if got := cause(c.err); got != c.want {
			t.Errorf("%v: %q, want %q", c.err, got, c.want)
		}
	}
}
