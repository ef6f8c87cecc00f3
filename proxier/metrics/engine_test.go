package metrics

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"switchyard/proxier"
	"switchyard/proxier/cluster"
	"switchyard/proxier/engine"
)

// backend fails the first time; each Apply takes a second.
type backend struct{ calls int }

func (b *backend) Apply(context.Context, *proxier.State) (proxier.Report, error) {
	time.Sleep(time.Second)
	if b.calls++; b.calls == 1 {
		return proxier.Report{}, errors.New("exit status 4")
	}
	return proxier.Report{Full: true, Operations: 1, Took: time.Second}, nil
}

func (b *backend) Close() error { return nil }

// The whole way, with a real engine: a change, a failure, and recovery.
func TestWithTheEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e *engine.Engine
		m := New(Options{
			Mode: "iptables", Families: []proxier.Family{proxier.IPv4},
			Status: func() []engine.Status { return e.Status() },
		})
		target := engine.Target{Family: proxier.IPv4, Backend: &backend{}, Compile: func(cluster.Snapshot) *proxier.State {
			m.Look(proxier.IPv4)
			return &proxier.State{Family: proxier.IPv4, Services: []*proxier.Service{service("a"), service("b")}}
		}}
		snapshot := func() cluster.Snapshot { return cluster.Snapshot{} }
		e = engine.New(snapshot, []engine.Target{target}, []engine.Observer{m}, engine.Options{}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- e.Run(ctx) }()

		countChanges(m, 2, 2)
		e.Changed()
		time.Sleep(1500 * time.Millisecond) // failed at 1 s, next attempt at 2 s
		expect(t, m, "switchyard_services_differing", "ip_family=IPv4 1")
		expect(t, m, "switchyard_oldest_change_age_seconds", "ip_family=IPv4 1.5")
		expect(t, m, "kubeproxy_sync_proxy_rules_service_changes_pending", "2")
		expect(t, m, "kubeproxy_sync_proxy_rules_iptables_restore_failures_total", "ip_family=IPv4 1")
		expect(t, m, "kubeproxy_sync_proxy_rules_last_timestamp_seconds")
		time.Sleep(2 * time.Second)
		expect(t, m, "switchyard_services_differing", "ip_family=IPv4 0")
		expect(t, m, "switchyard_oldest_change_age_seconds", "ip_family=IPv4 0")
		expect(t, m, "kubeproxy_sync_proxy_rules_service_changes_pending", "0")
		expect(t, m, "kubeproxy_sync_proxy_rules_duration_seconds", "ip_family=IPv4 1 1")
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
