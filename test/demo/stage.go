package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"switchyard/proxier"
	"switchyard/test/netlab"
)

// firstPort is below those that the kernel chooses from. A connection that came
// before the rules is remembered by conntrack as one that is not translated, for
// two minutes; a later one from the same port would share its fate.
const firstPort uint16 = 10000

// stage is everything that has to be taken down again.
type stage struct {
	o       options
	out     *printer
	dir     string // of this run: the copy of the examples
	log     string // the proxy's, kept if something went wrong
	cluster *netlab.Cluster
	states  []*proxier.State
	proxy   *proxy
}

// newStage lays everything out, to the point where the proxy is in sync. What it
// began is taken down if it fails.
func newStage(ctx context.Context, o options, out *printer) (*stage, error) {
	s := &stage{o: o, out: out}
	if err := s.setUp(ctx); err != nil {
		return nil, errors.Join(err, s.close(ctx.Err() == nil))
	}
	return s, nil
}

func (s *stage) setUp(ctx context.Context) (err error) {
	if s.dir, err = os.MkdirTemp("", "switchyard-demo-"); err != nil {
		return err
	}
	s.log = s.dir + ".log"
	if err := copyYAML(s.o.examples, s.manifest()); err != nil {
		return fmt.Errorf("copy the examples: %w", err)
	}
	start := time.Now()
	if s.cluster, err = netlab.NewCluster("demo", netlab.StandardPods()...); err != nil {
		return err
	}
	s.out.step(start, "two nodes, six pods and a client outside, as network namespaces")

	if s.states, err = promise(s.manifest(), s.cluster.Host(netlab.NodeA)); err != nil {
		return err
	}
	if s.o.mode == "userspace" {
		s.states = relayed(s.states)
	}
	if err := s.serve(); err != nil {
		return err
	}
	start = time.Now()
	if s.proxy, err = startProxy(s); err != nil {
		return err
	}
	if err := s.awaitSync(ctx); err != nil {
		return err
	}
	s.out.step(start, fmt.Sprintf("%s on node-a is in sync, mode %s (log: %s)", s.o.binary, s.o.mode, s.log))
	return nil
}

func (s *stage) manifest() string { return filepath.Join(s.dir, "manifest") }

// serve starts a server at every endpoint that a connection might end at.
func (s *stage) serve() error {
	pods := map[netip.Addr]string{}
	for _, p := range netlab.StandardPods() {
		for _, a := range p.Addrs {
			pods[a] = p.Name
		}
	}
	type socket struct {
		proto proxier.Protocol
		addr  netip.AddrPort
	}
	done := map[socket]bool{}
	for _, st := range s.states {
		for _, svc := range st.Services {
			for _, ep := range append(append([]proxier.Endpoint(nil), svc.Cluster...), svc.Local...) {
				at := socket{svc.Protocol, ep.Addr}
				host := s.cluster.Host(pods[ep.Addr.Addr()])
				if done[at] || host == nil {
					continue // nobody has that address: the table will tell
				}
				done[at] = true
				if err := s.cluster.Serve(host, at.proto, at.addr, at.addr.String()); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// awaitSync waits until the proxy calls itself healthy and a connection goes
// through in each family: healthy is also who has not yet been late.
func (s *stage) awaitSync(ctx context.Context) error {
	if err := s.proxy.await(ctx, s.proxy.healthy); err != nil {
		return err
	}
	seen := map[proxier.Family]bool{}
	for _, t := range trials(s.states, s.cluster, 1) {
		family := proxier.FamilyOf(t.packet.Src)
		if t.fate.Verdict != proxier.Forward || t.affinity || seen[family] {
			continue
		}
		seen[family] = true
		port := firstPort
		err := s.proxy.await(ctx, func(ctx context.Context) error {
			port++
			return t.answered(ctx, s.cluster, port)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// perform sends all connections.
func (s *stage) perform(ctx context.Context) ([]row, error) {
	start := time.Now()
	var rows []row
	for _, t := range trials(s.states, s.cluster, s.o.connections) {
		r := t.run(ctx, s.cluster)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err := s.proxy.alive(); err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	s.out.step(start, "real connections to every address of the shop")
	return rows, nil
}

// close takes everything down, and the log too unless it may be needed.
func (s *stage) close(keepLog bool) error {
	var errs []error
	if s.proxy != nil {
		errs = append(errs, s.proxy.stop())
	}
	if s.cluster != nil {
		errs = append(errs, s.cluster.Close())
	}
	if s.dir != "" {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	if s.proxy != nil && keepLog {
		fmt.Fprintf(s.out.w, "the proxy's log is kept: %s\n", s.log)
	} else if s.proxy != nil {
		errs = append(errs, os.Remove(s.log))
	}
	return errors.Join(errs...)
}

func copyYAML(from, to string) error {
	files, err := filepath.Glob(filepath.Join(from, "*.yaml"))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("%s has no .yaml files", from)
	}
	if err := os.Mkdir(to, 0o755); err != nil {
		return err
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, filepath.Base(name)), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}
