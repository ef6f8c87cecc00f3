package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"switchyard/proxier"
	"switchyard/proxier/proxiertest"
	"switchyard/test/netlab"
)

// stage is a node with all that is around it, and all that must be taken down again.
type stage struct {
	dir     string
	lab     *netlab.Cluster
	kernel  kernel
	pace    pace
	wrap    *wrap
	proxy   *proxy
	source  source
	promise *promiser
	world   *world
	history *history

	serving sync.WaitGroup
	servers []io.Closer
}

// clients are the hosts that connect, by the name that the laboratory has for them.
var clients = []proxiertest.Host{proxiertest.FromOutside, proxiertest.FromPodA, proxiertest.FromNode}

// logFile is the proxy's log, of all its lives.
const logFile = "proxy.log"

// clientPod is the pod that is no endpoint.
const clientPod = "client"

func newStage(s Script, o options) (st *stage, err error) {
	st = &stage{world: newWorld(), pace: thisPace()}
	if o.light {
		st.pace = st.pace.light()
	}
	st.history = &history{pace: st.pace}
	defer func() {
		if err != nil {
			err = errors.Join(err, st.close())
		}
	}()
	if st.kernel, err = newKernel(s.Mode, s.Flavour); err != nil {
		return st, err
	}
	if st.dir, err = os.MkdirTemp("", "switchyard-torture-"); err != nil {
		return st, err
	}
	files, err := newFiles(filepath.Join(st.dir, "proxy"))
	if err != nil {
		return st, err
	}
	copy, err := newFiles(filepath.Join(st.dir, "promise"))
	if err != nil {
		return st, err
	}
	if st.promise, err = newPromiser(s.Mode, copy); err != nil {
		return st, err
	}
	if st.wrap, err = newWrap(filepath.Join(st.dir, "wrap"), st.kernel.programs()); err != nil {
		return st, err
	}
	if err := st.layOut(); err != nil {
		return st, err
	}
	st.source = files
	if s.API {
		if err := st.serveAPI(o.apiserver); err != nil {
			return st, err
		}
	}
	if st.proxy, err = newProxy(st.lab.Host(netlab.NodeA), o.binary, filepath.Join(st.dir, logFile)); err != nil {
		return st, err
	}
	st.proxy.env = st.wrap.env()
	st.proxy.args = append(append([]string{"run", "--profiling", "--iptables-min-sync-period", "0s", "--ipvs-min-sync-period", "0s", "--userspace-drain", "2s"}, common(s.Mode)...), st.source.args()...)
	return st, st.publishAll()
}

// layOut makes the hosts, and a server for every endpoint that a slot may have: an
// endpoint that is gone answers still, so that whoever is sent there can be told.
func (st *stage) layOut() (err error) {
	pods := netlab.StandardPods()
	lab4, lab6 := proxiertest.LabOf(proxier.IPv4), proxiertest.LabOf(proxier.IPv6)
	all := append(pods, netlab.Pod{Name: clientPod, Node: netlab.NodeA, Addrs: []netip.Addr{lab4.PodA, lab6.PodA}})
	if st.lab, err = netlab.NewCluster("torture", all...); err != nil {
		return err
	}
	for _, pod := range pods {
		for i := range slots {
			for _, addr := range pod.Addrs {
				at := netip.AddrPortFrom(addr, uint16(firstTarget+i))
				err := errors.Join(st.serve(st.lab.Host(pod.Name), at),
					st.lab.Serve(st.lab.Host(pod.Name), proxier.UDP, at, at.String()))
				if err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// serve starts a server that tells who it is and whom it sees, as netlab's do, and
// then says again whatever it is told.
func (st *stage) serve(host *netlab.Host, at netip.AddrPort) error {
	ln, err := host.Listen("tcp", at.String())
	if err != nil {
		return err
	}
	st.servers = append(st.servers, ln)
	st.serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return // closed
			}
			go echo(conn, at)
		}
	})
	return nil
}

func echo(conn net.Conn, at netip.AddrPort) {
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "%s %s\n", at, conn.RemoteAddr()); err == nil {
		_, _ = io.Copy(conn, conn) // until the client hangs up
	}
}

// client is the host of the laboratory's name.
func (st *stage) client(h proxiertest.Host) *netlab.Host {
	switch h {
	case proxiertest.FromOutside:
		return st.lab.Host(netlab.Outside)
	case proxiertest.FromPodA:
		return st.lab.Host(clientPod)
	}
	return st.lab.Host(netlab.NodeA)
}

// publish tells the source of one slot, or of the node if it is -1. The history
// learns of it first.
func (st *stage) publish(i int) error {
	name, objects := "node", []any{st.world.node()}
	if i >= 0 {
		name, objects = fmt.Sprintf("slot-%02d", i), st.world.objects(i)
	}
	if a, ok := st.source.(*api); ok && a.replaces(name, objects) {
		// What files change in one piece takes two events here.
		if err := errors.Join(st.foresee(name, nil), a.put(name)); err != nil {
			return err
		}
	}
	if err := st.foresee(name, objects); err != nil {
		return err
	}
	return st.source.put(name, objects...)
}

// serveAPI has the proxy's objects come from an API server.
func (st *stage) serveAPI(binary string) error {
	dir := filepath.Join(st.dir, "api")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	a, err := newAPI(st.lab, dir, binary)
	if err != nil {
		return err
	}
	st.source, st.servers = a, append(st.servers, closer(a.close))
	own, cidr, err := a.own()
	if err != nil {
		return err
	}
	st.promise.cidr = cidr
	return st.promise.copy.put("kubernetes", own...)
}

// closer is a function that closes something.
type closer func() error

func (c closer) Close() error { return c() }

// foresee notes what the node is to do once it was told.
func (st *stage) foresee(name string, objects []any) error {
	if err := st.promise.copy.put(name, objects...); err != nil {
		return err
	}
	want, err := st.promise.promise(st.lab.Host(netlab.NodeA))
	if err != nil {
		return err
	}
	st.history.add(want)
	return nil
}

func (st *stage) publishAll() error {
	for i := -1; i < slots; i++ {
		if err := st.publish(i); err != nil {
			return err
		}
	}
	return nil
}

func (st *stage) close() error {
	var errs []error
	if st.proxy != nil {
		errs = append(errs, st.proxy.stop(9), st.proxy.log.Close())
	}
	for _, s := range st.servers {
		errs = append(errs, s.Close())
	}
	st.serving.Wait()
	if st.lab != nil {
		errs = append(errs, st.lab.Close())
	}
	if st.dir != "" {
		errs = append(errs, os.RemoveAll(st.dir))
	}
	return errors.Join(errs...)
}

// freshDump is what the mode makes of the wanted states on a host that holds
// nothing.
func (st *stage) freshDump(ctx context.Context, want states) (ours []string, err error) {
	lab, err := netlab.New("fresh")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	host, err := lab.AddHost("node")
	if err != nil {
		return nil, err
	}
	if err := st.kernel.fresh(ctx, host, want, st.promise.options.Backend); err != nil {
		return nil, fmt.Errorf("program an empty node: %w", err)
	}
	ours, _, err = st.kernel.dump(host)
	return ours, err
}
