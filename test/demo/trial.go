package main

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"switchyard/proxier"
	"switchyard/test/netlab"
	"switchyard/test/uml"
)

// Of packets that are refused a few tell enough; of those that are dropped too,
// and each takes the whole timeout. So does each that should be answered and is
// not: after a few a row is given up, so that a broken proxy is told of within
// the minute.
const (
	refusedProbes = 20
	droppedProbes = 3
	failedProbes  = 2

	answerTimeout = 700 * time.Millisecond // a busy machine is no broken promise
)

// trial is one row before it has been tried: somebody asks an address.
type trial struct {
	service  *proxier.Service
	kind     string
	from     string // a host of the lab
	packet   proxier.Packet
	node     *proxier.Node
	fate     proxier.Fate
	affinity bool
	health   bool // ask the health-check node port instead
	count    int
}

// row is a trial and what came of it.
type row struct {
	trial
	results []netlab.Result
	note    string   // a health check's answer
	wrong   []string // how it differs from what was promised
}

// trials lists who asks what: every address from every place that it is for.
// Cluster addresses are for pods and nodes, all others for clients outside too.
func trials(states []*proxier.State, c *netlab.Cluster, connections int) []trial {
	var all []trial
	for _, pair := range services(states) {
		st, svc := pair.state, pair.service
		for i := range svc.Frontends {
			for _, from := range sources(svc.Frontends[i].Kind) {
				t := trial{service: svc, node: &st.Node, kind: svc.Frontends[i].Kind.String(), from: from}
				t.packet = packet(svc, &svc.Frontends[i], place{c, st.Family, from})
				t.fate = st.Decide(t.packet)
				t.affinity = svc.Affinity > 0
				t.count = probes(t.fate.Verdict, connections)
				all = append(all, t)
			}
		}
		if svc.HealthPort != 0 {
			at := place{c, st.Family, netlab.NodeA}.addr()
			t := trial{service: svc, node: &st.Node, kind: "health check", from: netlab.Outside, health: true, count: 1}
			t.packet.Dst = netip.AddrPortFrom(at, svc.HealthPort)
			all = append(all, t)
		}
	}
	return all
}

type stateService struct {
	state   *proxier.State
	service *proxier.Service
}

// services brings the families of one Service together.
func services(states []*proxier.State) []stateService {
	var names []proxier.ServicePort
	byName := map[proxier.ServicePort][]stateService{}
	for _, st := range states {
		for _, svc := range st.Services {
			if byName[svc.Name] == nil {
				names = append(names, svc.Name)
			}
			byName[svc.Name] = append(byName[svc.Name], stateService{st, svc})
		}
	}
	var all []stateService
	for _, name := range names {
		all = append(all, byName[name]...)
	}
	return all
}

func sources(kind proxier.Kind) []string {
	if kind == proxier.ClusterIP {
		return []string{"pod-a1", netlab.NodeA}
	}
	return []string{"pod-a1", netlab.NodeA, netlab.Outside}
}

func probes(v proxier.Verdict, connections int) int {
	switch v {
	case proxier.Forward:
		return connections
	case proxier.Reject:
		return min(connections, refusedProbes)
	}
	return min(connections, droppedProbes)
}

// place is a host of the lab as one family knows it.
type place struct {
	cluster *netlab.Cluster
	family  proxier.Family
	host    string
}

func (p place) addr() netip.Addr {
	like := netip.IPv4Unspecified()
	if p.family == proxier.IPv6 {
		like = netip.IPv6Unspecified()
	}
	for _, pod := range netlab.StandardPods() {
		for _, a := range pod.Addrs {
			if pod.Name == p.host && a.Is6() == like.Is6() {
				return a
			}
		}
	}
	return p.cluster.Addr(p.host, like)
}

// packet is the first packet of a connection from a place, as node-a sees it.
func packet(svc *proxier.Service, f *proxier.Frontend, from place) proxier.Packet {
	p := proxier.Packet{Protocol: svc.Protocol, Src: from.addr(), Dst: f.Addr}
	if f.Kind == proxier.NodePort {
		p.Dst = netip.AddrPortFrom(place{from.cluster, from.family, netlab.NodeA}.addr(), f.Addr.Port())
	}
	switch from.host {
	case netlab.NodeA:
	case netlab.Outside:
		p.In = netlab.Uplink
	default:
		p.In = netlab.PodBridge
	}
	return p
}

// answered tries one connection from a port.
func (t trial) answered(ctx context.Context, c *netlab.Cluster, port uint16) error {
	r := c.Host(t.from).Probe(ctx, netlab.Probe{
		Protocol: t.packet.Protocol, Src: netip.AddrPortFrom(t.packet.Src, port), Dst: t.packet.Dst, Timeout: uml.Patience() * syncPoll * 5,
	})
	if r.Verdict != netlab.Answered {
		return fmt.Errorf("%s from %s: %s (%w)", t.packet.Dst, t.from, r.Verdict, r.Err)
	}
	return nil
}

// run sends the connections of a trial and judges them.
func (t trial) run(ctx context.Context, c *netlab.Cluster) row {
	r := row{trial: t}
	if t.health {
		r.note, r.wrong = t.checkHealth(ctx, c.Host(t.from))
		return r
	}
	probe := netlab.Probe{Protocol: t.packet.Protocol, Src: netip.AddrPortFrom(t.packet.Src, 0), Dst: t.packet.Dst}
	host := c.Host(t.from)
	switch t.fate.Verdict {
	case proxier.Forward:
		probe.Timeout = uml.Patience() * answerTimeout
		r.results = oneByOne(ctx, host, probe, t.count)
	case proxier.Reject:
		r.results = oneByOne(ctx, host, probe, t.count)
	default:
		r.results = atOnce(ctx, host, probe, t.count)
	}
	r.wrong = judge(&r)
	return r
}

// oneByOne connects n times, less if nothing comes back.
func oneByOne(ctx context.Context, host *netlab.Host, p netlab.Probe, n int) []netlab.Result {
	var all []netlab.Result
	for silent := 0; len(all) < n && silent < failedProbes && ctx.Err() == nil; {
		r := host.Probe(ctx, p)
		if r.Verdict != netlab.Answered && r.Verdict != netlab.Refused {
			silent++
		}
		all = append(all, r)
	}
	return all
}

// atOnce connects n times at the same time: nothing is expected to come back.
func atOnce(ctx context.Context, host *netlab.Host, p netlab.Probe, n int) []netlab.Result {
	results := make([]netlab.Result, n)
	var all sync.WaitGroup
	for i := range results {
		all.Go(func() { results[i] = host.Probe(ctx, p) })
	}
	all.Wait()
	return results
}
