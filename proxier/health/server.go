package health

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"switchyard/proxier"
)

const (
	// A health check is one small request; a client that takes longer is not one.
	requestTimeout = 5 * time.Second
	idleTimeout    = 60 * time.Second
	maxHeader      = 16 << 10
)

// Options are what a Server needs beside its log. The zero Options will do.
type Options struct {
	// Listen opens a listener; network is "tcp4" or "tcp6". nil: net.Listen.
	Listen func(network, address string) (net.Listener, error)
}

// ListenError tells which Service's health check port is not answered, and why.
// Addr lacks the address if the port is refused at all of them.
type ListenError struct {
	Namespace, Service string
	Addr               netip.AddrPort
	Err                error
}

func (e *ListenError) Error() string {
	at := e.Addr.String()
	if !e.Addr.Addr().IsValid() {
		at = strconv.Itoa(int(e.Addr.Port()))
	}
	return fmt.Sprintf("listen on health check node port %s of Service %s/%s: %v", at, e.Namespace, e.Service, e.Err)
}

func (e *ListenError) Unwrap() error { return e.Err }

// Server answers at the healthCheckNodePorts of Services.
type Server struct {
	log     *slog.Logger
	listen  func(network, address string) (net.Listener, error)
	healthy atomic.Pointer[func() bool]

	mu     sync.Mutex
	open   map[netip.AddrPort]*listener
	closed bool
}

type listener struct {
	net.Listener
	server http.Server
	answer atomic.Pointer[answer]
}

// New returns a Server without a listener. It takes the proxy for healthy until
// SetHealthy.
func New(log *slog.Logger, o Options) *Server {
	if o.Listen == nil {
		o.Listen = net.Listen
	}
	return &Server{log: log, listen: o.Listen, open: map[netip.AddrPort]*listener{}}
}

// SetHealthy sets the function that tells whether the proxy itself is healthy;
// it is called for each request.
func (s *Server) SetHealthy(healthy func() bool) { s.healthy.Store(&healthy) }

// Apply answers for the Services of these States from now on, one State a family,
// and for no others: a family that is left out loses its listeners. Only what
// changed is opened or closed. Each error is a *ListenError; everything else is
// in place, and the next Apply tries what failed again.
func (s *Server) Apply(states ...*proxier.State) []error {
	want, errs := wanted(states)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return append(errs, errors.New("answer health checks: the server is closed"))
	}
	// Closing comes first: the unspecified address and a particular one exclude
	// each other.
	for addr, l := range s.open {
		if _, ok := want[addr]; !ok {
			s.close(addr, l)
		}
	}
	for _, addr := range slices.SortedFunc(maps.Keys(want), netip.AddrPort.Compare) {
		a := want[addr]
		if l, ok := s.open[addr]; ok {
			l.answer.Store(&a)
			continue
		}
		if err := s.start(addr, a); err != nil {
			errs = append(errs, &ListenError{a.Namespace, a.Name, addr, err})
		}
	}
	return errs
}

func (s *Server) start(addr netip.AddrPort, a answer) error {
	network := "tcp4"
	if addr.Addr().Is6() {
		network = "tcp6" // so that [::] leaves IPv4 alone
	}
	ln, err := s.listen(network, addr.String())
	if err != nil {
		return err
	}
	l := &listener{Listener: ln}
	l.answer.Store(&a)
	l.server = http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { s.serve(w, *l.answer.Load()) }),
		ReadHeaderTimeout: requestTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      requestTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	s.open[addr] = l
	s.log.Debug("health check node port opened", "addr", addr.String(), "service", a.Namespace+"/"+a.Name)
	go s.run(addr, l)
	return nil
}

// run forgets a listener that ended by itself, so that the next Apply opens it
// again.
func (s *Server) run(addr netip.AddrPort, l *listener) {
	err := l.server.Serve(l.Listener)
	if errors.Is(err, http.ErrServerClosed) {
		return
	}
	s.log.Warn("health check node port failed, it will be opened again", "addr", addr.String(), "err", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[addr] == l {
		delete(s.open, addr)
	}
}

func (s *Server) close(addr netip.AddrPort, l *listener) {
	delete(s.open, addr)
	// The server knows its listener only once its goroutine runs, and the port must
	// be free at once.
	err := l.server.Close()
	if again := l.Listener.Close(); !errors.Is(again, net.ErrClosed) {
		err = errors.Join(err, again)
	}
	if err != nil {
		s.log.Warn("closing a health check node port failed", "addr", addr.String(), "err", err)
		return
	}
	s.log.Debug("health check node port closed", "addr", addr.String())
}

// Close closes all listeners and their connections; every Apply after it fails.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for addr, l := range s.open {
		s.close(addr, l)
	}
}

// body has upstream's field names, in its order.
type body struct {
	Service        serviceName `json:"service"`
	LocalEndpoints int         `json:"localEndpoints"`
	ProxyHealthy   bool        `json:"serviceProxyHealthy"`
}

type serviceName struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

func (s *Server) serve(w http.ResponseWriter, a answer) {
	healthy := true
	if f := s.healthy.Load(); f != nil && *f != nil {
		healthy = (*f)()
	}
	text, err := json.MarshalIndent(body{serviceName{a.Namespace, a.Name}, a.Endpoints, healthy}, "", "\t")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(a.Endpoints))
	reply(w, a.Endpoints > 0 && healthy, text)
}

func reply(w http.ResponseWriter, ok bool, text []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if ok {
		w.WriteHeader(http.StatusOK)
	} else {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = w.Write(append(text, '\n')) // the client went away
}
