package metrics

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func get(t *testing.T, h http.Handler, path string) (*http.Response, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	body, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Result(), string(body)
}

func TestServer(t *testing.T) {
	const text = "text/plain; charset=utf-8"
	config := func() (any, error) { return map[string]any{"mode": "iptables"}, nil }
	plain := NewServer(ServerOptions{Metrics: New(Options{}).Handler(), Mode: "iptables", Config: config})
	profiling := NewServer(ServerOptions{Mode: "ipvs", Profiling: true})
	broken := NewServer(ServerOptions{Config: func() (any, error) { return nil, errors.New("no") }})
	unprintable := NewServer(ServerOptions{Config: func() (any, error) { return make(chan int), nil }})
	for _, c := range []struct {
		name        string
		server      http.Handler
		path        string
		code        int
		contentType string
		body        string // the whole of it, or with … the start
	}{
		{"metrics", plain, "/metrics", 200, "text/plain; version=0.0.4; charset=utf-8; escaping=underscores", "# HELP …"},
		{"healthz", plain, "/healthz", 200, text, "ok"},
		{"ping", plain, "/healthz/ping", 200, text, "ok"},
		{"mode", plain, "/proxyMode", 200, text, "iptables"},
		{"other mode", profiling, "/proxyMode", 200, text, "ipvs"},
		{"config", plain, "/configz", 200, "application/json", `{"kubeproxy.config.k8s.io":{"mode":"iptables"}}`},
		{"config cannot be read", broken, "/configz", 500, text, "read the configuration: no\n"},
		{"config cannot be printed", unprintable, "/configz", 500, text, "print the configuration: …"},
		{"no config", profiling, "/configz", 404, text, "404 page not found\n"},
		{"no metrics", profiling, "/metrics", 404, text, "404 page not found\n"},
		{"profiles", profiling, "/debug/pprof/goroutine?debug=1", 200, text, "goroutine profile: …"},
		{"command line", profiling, "/debug/pprof/cmdline", 200, text, "…"},
		{"no profiling", plain, "/debug/pprof/", 404, text, "404 page not found\n"},
		{"no livez", plain, "/livez", 404, text, "404 page not found\n"},
		{"no readyz", plain, "/readyz", 404, text, "404 page not found\n"},
		{"no index", plain, "/", 404, text, "404 page not found\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, body := get(t, c.server, c.path)
			if r.StatusCode != c.code {
				t.Errorf("code %d, want %d", r.StatusCode, c.code)
			}
			if got := r.Header.Get("Content-Type"); got != c.contentType {
				t.Errorf("Content-Type %q, want %q", got, c.contentType)
			}
			if start, more := strings.CutSuffix(c.body, "…"); !strings.HasPrefix(body, start) || !more && body != start {
				t.Errorf("body %.200q, want %q", body, c.body)
			}
			if c.path != "/metrics" && r.Header.Get("X-Content-Type-Options") != "nosniff" {
				t.Error("X-Content-Type-Options is not nosniff")
			}
		})
	}
}

func TestProbesAreCounted(t *testing.T) {
	m := New(Options{})
	h := m.CountProbes(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.RawQuery {
		case "sick":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "hints":
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusServiceUnavailable)
		case "twice": // the first code is the answer
			w.WriteHeader(http.StatusServiceUnavailable)
			w.WriteHeader(http.StatusOK)
		case "late": // the answer is 200 by then
			_, _ = io.WriteString(w, "ok")
			w.WriteHeader(http.StatusServiceUnavailable)
		case "silent":
		default:
			r.URL.Path = "/rewritten"
			_, _ = io.WriteString(w, "ok")
		}
	}))
	for _, path := range []string{"/healthz", "/healthz?sick", "/healthz?hints", "/healthz?twice", "/healthz?late", "/healthz?silent",
		"/livez", "/livez", "/livez?sick", "/other", "/"} {
		get(t, h, path)
	}
	expect(t, m, "kubeproxy_proxy_healthz_total", "code=200 3", "code=503 3")
	expect(t, m, "kubeproxy_proxy_livez_total", "code=200 2", "code=503 1")
	if r, body := get(t, h, "/livez?sick"); r.StatusCode != 503 || body != "" {
		t.Errorf("the answer is changed: %d %q", r.StatusCode, body)
	}
}

func TestVersionLabels(t *testing.T) {
	for _, c := range []struct{ version, major, minor string }{
		{"v1.37.2", "1", "37"}, {"1.2.3-rc.1", "1", "2"}, {"v0.10.0", "0", "10"},
		{"unreleased", "", ""}, {"v1.2", "", ""}, {"", "", ""}, {"vx.y.z", "", ""}, {"v1..2", "", ""},
	} {
		if major, minor := majorMinor(c.version); major != c.major || minor != c.minor {
			t.Errorf("%q: %q %q, want %q %q", c.version, major, minor, c.major, c.minor)
		}
	}
}
