package health

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"switchyard/proxier"
)

var localhost = proxier.NodePorts{Localhost: true}

func server(t *testing.T, o Options) *Server {
	s := New(slog.New(slog.DiscardHandler), o)
	t.Cleanup(s.Close)
	return s
}

// freePort returns a port that nobody listens on at that moment.
func freePort(t *testing.T) uint16 {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return uint16(ln.Addr().(*net.TCPAddr).Port)
}

var client = http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}

func ask(t *testing.T, method, host string, port uint16) (*http.Response, string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, fmt.Sprintf("http://%s:%d/any/path", host, port), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp, string(text), err
}

func wantCode(t *testing.T, why string, port uint16, code int) {
	t.Helper()
	resp, _, err := ask(t, "GET", "127.0.0.1", port)
	switch {
	case code == 0 && err == nil:
		t.Errorf("%s: port %d still answers", why, port)
	case code != 0 && err != nil:
		t.Errorf("%s: %v", why, err)
	case code != 0 && resp.StatusCode != code:
		t.Errorf("%s: %s, want %d", why, resp.Status, code)
	}
}

func noErrors(t *testing.T, errs []error) {
	t.Helper()
	if len(errs) > 0 {
		t.Error(errs)
	}
}

func TestAnswer(t *testing.T) {
	port := freePort(t)
	s := server(t, Options{})
	var healthy atomic.Bool
	for _, c := range []struct {
		endpoints []string
		healthy   bool
		code      int
		weight    string
		text      string
	}{
		{[]string{"10.244.0.1:80", "10.244.0.2:80"}, true, 200, "2",
			"{\n\t\"service\": {\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}\n"},
		{nil, true, 503, "0",
			"{\n\t\"service\": {\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 0,\n\t\"serviceProxyHealthy\": true\n}\n"},
		{[]string{"10.244.0.1:80"}, false, 503, "1",
			"{\n\t\"service\": {\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 1,\n\t\"serviceProxyHealthy\": false\n}\n"},
		{[]string{"-10.244.0.1:80"}, true, 503, "0", ""},
	} {
		healthy.Store(c.healthy)
		s.SetHealthy(healthy.Load)
		noErrors(t, s.Apply(family(4, localhost, web("web", port, c.endpoints...))))
		for _, method := range []string{"GET", "POST"} {
			resp, text, err := ask(t, method, "127.0.0.1", port)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != c.code || c.text != "" && text != c.text {
				t.Errorf("%s %v: %s %q, want %d %q", method, c.endpoints, resp.Status, text, c.code, c.text)
			}
			for header, want := range map[string]string{
				"Content-Type": "application/json", "X-Content-Type-Options": "nosniff", "X-Load-Balancing-Endpoint-Weight": c.weight,
			} {
				if got := resp.Header.Get(header); got != want {
					t.Errorf("%v: %s is %q, want %q", c.endpoints, header, got, want)
				}
			}
		}
	}
}

func TestListenersFollowTheState(t *testing.T) {
	one, two := freePort(t), freePort(t)
	s := server(t, Options{})
	const pod = "10.244.0.1:80"
	noErrors(t, s.Apply(family(4, localhost, web("web", one, pod))))
	wantCode(t, "opened", one, 200)
	noErrors(t, s.Apply(family(4, localhost, web("web", two, pod))))
	wantCode(t, "renumbered, old", one, 0)
	wantCode(t, "renumbered, new", two, 200)
	noErrors(t, s.Apply(family(4, localhost, web("zoo", two))))
	wantCode(t, "moved to another Service", two, 503)
	noErrors(t, s.Apply(family(4, localhost, web("web", two, pod), web("zoo", one, pod))))
	wantCode(t, "swapped", two, 200)
	noErrors(t, s.Apply(family(4, proxier.NodePorts{Any: true}, web("web", two, pod))))
	wantCode(t, "all addresses", two, 200)
	noErrors(t, s.Apply(family(4, localhost, web("web", two, pod))))
	wantCode(t, "one address again", two, 200)
	noErrors(t, s.Apply(family(4, proxier.NodePorts{}, web("web", two, pod))))
	wantCode(t, "address not chosen any more", two, 0)
	noErrors(t, s.Apply(family(4, localhost, web("web", two, pod))))
	noErrors(t, s.Apply())
	wantCode(t, "no State", two, 0)
}

func TestBothFamiliesHaveTheSamePort(t *testing.T) {
	if ln, err := net.Listen("tcp6", "[::1]:0"); err != nil {
		t.Skip("needs ::1; set the sysctl net.ipv6.conf.lo.disable_ipv6 to 0: ", err)
	} else {
		ln.Close()
	}
	port := freePort(t)
	s := server(t, Options{})
	any := proxier.NodePorts{Any: true}
	noErrors(t, s.Apply(family(4, any, web("web", port, "10.244.0.1:80")), family(6, any, web("web", port))))
	wantCode(t, "IPv4", port, 200)
	if resp, _, err := ask(t, "GET", "[::1]", port); err != nil || resp.StatusCode != 503 {
		t.Errorf("IPv6: %v, %v; want 503", resp, err)
	}
	six := proxier.NodePorts{Addrs: []netip.Addr{netip.IPv6Loopback()}}
	noErrors(t, s.Apply(family(6, six, web("web", port, "[fd00::1]:80"))))
	wantCode(t, "IPv4 gone", port, 0)
	if resp, _, err := ask(t, "GET", "[::1]", port); err != nil || resp.StatusCode != 200 {
		t.Errorf("IPv6: %v, %v; want 200", resp, err)
	}
}

func TestUnchangedOpensNothing(t *testing.T) {
	opened := 0
	s := server(t, Options{Listen: func(network, address string) (net.Listener, error) {
		opened++
		return net.Listen(network, address)
	}})
	port := freePort(t)
	for _, endpoints := range [][]string{nil, {"10.244.0.1:80"}, {"10.244.0.2:80"}} {
		noErrors(t, s.Apply(family(4, localhost, web("web", port, endpoints...))))
	}
	if opened != 1 {
		t.Errorf("%d listeners opened, want 1", opened)
	}
}

func TestBusyPort(t *testing.T) {
	busy, free := freePort(t), freePort(t)
	holder, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", busy))
	if err != nil {
		t.Fatal(err)
	}
	s := server(t, Options{})
	state := family(4, localhost, web("web", free, "10.244.0.1:80"), web("app", busy, "10.244.0.1:80"))
	for range 2 {
		errs := s.Apply(state)
		var e *ListenError
		if len(errs) != 1 || !errors.As(errs[0], &e) || e.Namespace != "shop" || e.Service != "app" || e.Addr.Port() != busy {
			t.Fatalf("errors %v, want one of Service shop/app and port %d", errs, busy)
		}
		wantCode(t, "the other Service", free, 200)
	}
	holder.Close()
	noErrors(t, s.Apply(state))
	wantCode(t, "port free again", busy, 200)
}

func TestClose(t *testing.T) {
	s := server(t, Options{})
	port := freePort(t)
	state := family(4, localhost, web("web", port, "10.244.0.1:80"))
	noErrors(t, s.Apply(state))
	s.Close()
	wantCode(t, "closed", port, 0)
	if errs := s.Apply(state); len(errs) == 0 {
		t.Error("Apply after Close")
	}
}
