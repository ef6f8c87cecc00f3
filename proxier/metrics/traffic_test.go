package metrics

import (
	"testing"

	"switchyard/proxier"
)

func TestTraffic(t *testing.T) {
	m := New(Options{Mode: "userspace", Traffic: func() map[proxier.Family][]proxier.Traffic {
		return map[proxier.Family][]proxier.Traffic{proxier.IPv6: {{
			Service:  proxier.ServicePort{Namespace: "shop", Service: "web", Port: "http"},
			Protocol: proxier.TCP,
			Active:   1, Connections: 2, Received: 3, Sent: 4, Retries: 5, Failed: 6, Refused: 7, Evicted: 8, TimedOut: 9,
		}}}
	}})
	const labels = "ip_family=IPv6 namespace=shop port=http protocol=TCP service=web "
	for name, want := range map[string]string{
		"connections": "1", "connections_total": "2", "received_bytes_total": "3", "sent_bytes_total": "4",
		"retries_total": "5", "failures_total": "6", "refusals_total": "7", "evictions_total": "8", "timeouts_total": "9",
	} {
		expect(t, m, "switchyard_relay_"+name, labels+want)
	}
}
