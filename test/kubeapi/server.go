package kubeapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"switchyard/test/netlab"
)

// Options say where a Server is and what it is made of.
type Options struct {
	Host *netlab.Host
	// Addr is the address that the API server listens at and advertises: one of
	// the host's, not loopback, or it would not make the Service kubernetes.
	Addr netip.Addr
	// Dir is an existing folder, absolute, for data, keys and logs.
	Dir string
	// Binary is the kube-apiserver that test/apiserver builds.
	Binary string
	// ServiceCIDRs is the value of --service-cluster-ip-range; default
	// 172.30.0.0/16.
	ServiceCIDRs string
	// Flags are passed to the API server besides.
	Flags []string
}

// Server is an API server with its etcd.
type Server struct {
	options Options
	keys    *keys
	running []*process // in the order of their start
}

// process is a program that was started.
type process struct {
	name string
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{} // closed when it has ended
}

// stopWithin is how long a program may take to end by itself.
const stopWithin = 10 * time.Second

// Start starts etcd and the API server and waits until it is ready or ctx ends.
// If it fails nothing runs any more, and the error names the log.
func Start(ctx context.Context, o Options) (*Server, error) {
	if o.ServiceCIDRs == "" {
		o.ServiceCIDRs = "172.30.0.0/16"
	}
	k, err := makeKeys(o.Dir, o.Addr)
	if err != nil {
		return nil, fmt.Errorf("start API server: %w", err)
	}
	s := &Server{options: o, keys: k}
	if err := errors.Join(s.start("etcd", s.etcd()), s.StartAPI(ctx)); err != nil {
		return nil, errors.Join(fmt.Errorf("start API server: %w; logs in %s", err, o.Dir), s.Close())
	}
	return s, nil
}

// StartAPI starts the API server again after StopAPI and waits until it is ready.
func (s *Server) StartAPI(ctx context.Context) error {
	if err := s.start("kube-apiserver", s.apiserver()); err != nil {
		return err
	}
	return s.ready(ctx, s.running[len(s.running)-1])
}

// StopAPI stops the API server; etcd keeps running.
func (s *Server) StopAPI() error {
	last := len(s.running) - 1
	if last < 0 || s.running[last].name != "kube-apiserver" {
		return errors.New("stop API server: it does not run")
	}
	p := s.running[last]
	s.running = s.running[:last]
	return p.stop()
}

// Pid is the number of the process of the API server, for signals such as SIGSTOP;
// 0 if it does not run.
func (s *Server) Pid() int {
	if n := len(s.running); n > 0 && s.running[n-1].name == "kube-apiserver" {
		return s.running[n-1].cmd.Process.Pid
	}
	return 0
}

// Kubeconfig is the path of a kubeconfig of an administrator (group
// system:masters). Its address is that of Options.
func (s *Server) Kubeconfig() string { return s.keys.kubeconfig }

// Close stops both programs and waits for their end.
func (s *Server) Close() error {
	var errs []error
	for len(s.running) > 0 {
		last := len(s.running) - 1
		errs = append(errs, s.running[last].stop())
		s.running = s.running[:last]
	}
	return errors.Join(errs...)
}

func (s *Server) etcd() []string {
	return []string{"etcd", "--data-dir", filepath.Join(s.options.Dir, "etcd"),
		"--listen-client-urls", "http://127.0.0.1:2379", "--advertise-client-urls", "http://127.0.0.1:2379",
		"--listen-peer-urls", "http://127.0.0.1:2380", "--unsafe-no-fsync"}
}

func (s *Server) apiserver() []string {
	return append([]string{s.options.Binary,
		"--etcd-servers", "http://127.0.0.1:2379",
		"--bind-address", s.options.Addr.String(), "--advertise-address", s.options.Addr.String(),
		"--secure-port", "6443",
		"--tls-cert-file", s.keys.path("server.crt"), "--tls-private-key-file", s.keys.path("server.key"),
		"--client-ca-file", s.keys.path("ca.crt"),
		"--service-account-issuer", "https://kubernetes.default.svc",
		"--service-account-key-file", s.keys.path("sa.key"),
		"--service-account-signing-key-file", s.keys.path("sa.key"),
		"--service-cluster-ip-range", s.options.ServiceCIDRs,
		"--authorization-mode", "Node,RBAC",
		"--allow-privileged=true",
	}, s.options.Flags...)
}

// start runs a program on the host, with its output in a file beside its data.
func (s *Server) start(name string, args []string) error {
	log, err := os.OpenFile(filepath.Join(s.options.Dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	p := &process{name: name, log: log, done: make(chan struct{})}
	p.cmd = s.options.Host.Command(context.Background(), args[0], args[1:]...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.Dir = s.options.Dir
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // no Ctrl-C meant for the test
	if err := p.cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("%s: %w", name, err), log.Close())
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // how it ended is in its log
	}()
	s.running = append(s.running, p)
	return nil
}

// stop ends a program, by force if it takes too long.
func (p *process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGCONT)
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails only if it has ended
	select {
	case <-p.done:
	case <-time.After(stopWithin):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
	return p.log.Close()
}

// ready waits until the API server says so.
func (s *Server) ready(ctx context.Context, p *process) error {
	client := s.client()
	defer client.CloseIdleConnections()
	var last error
	for {
		if last = s.askReady(ctx, client); last == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s has ended", p.name)
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w (%w)", p.name, ctx.Err(), last)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// client speaks to the server from within its namespace.
func (s *Server) client() *http.Client {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.keys.ca)
	return &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		DialContext:     s.dial,
	}}
}

func (s *Server) dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	err = s.options.Host.Do(func() error {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// url is the server's address.
func (s *Server) url() string {
	return "https://" + netip.AddrPortFrom(s.options.Addr, 6443).String()
}

func (s *Server) askReady(ctx context.Context, client *http.Client) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url()+"/readyz", nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<10))
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("/readyz: %s: %s", answer.Status, body)
	}
	return nil
}
