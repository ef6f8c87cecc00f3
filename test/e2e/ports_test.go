package e2e

import (
	"testing"
	"time"
)

// taken is a port of the program's that somebody else has.
type taken struct {
	name, port, server, reason string
}

var ports = []taken{
	{"health check", "10256", healthServer + "/livez", "FailedToStartProxierHealthcheck"},
	{"metrics", "10249", metricsServer + "/healthz", "FailedToStartMetricServer"},
}

// portsTaken: bindAddressHardFail decides whether a port that is taken ends the
// program. If not, it serves as soon as the port is free. There is an Event in
// either case.
func (c *cluster) portsTaken(t *testing.T) {
	t.Parallel()
	for _, w := range ports {
		for _, hard := range []bool{true, false} {
			name := w.name + ", waited for"
			if hard {
				name = w.name + ", hard fail"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				began := time.Now().Add(-time.Second)
				p := c.program(t, c.addNode(t))
				c.create(t, node(p.host.Name(), "192.168.0.199"))
				other, err := p.host.Listen("tcp", "127.0.0.1:"+w.port)
				check(t, err)
				t.Cleanup(func() { other.Close() })
				if hard {
					p.configure("bindAddressHardFail: true\n")
					p.start()
					p.endsWith("the "+w.name+" server cannot listen", w.port, "address already in use", "bindAddressHardFail")
				} else {
					p.start()
					p.says("level=ERROR", "a server cannot listen; trying again in 5 s", w.port, "address already in use")
					check(t, other.Close())
					took := p.until("the port is served", func() bool { return p.get(w.server).code == 200 })
					t.Logf("served %s after the port was free", took.Round(time.Millisecond))
				}
				c.event(t, began, w.reason, "Node "+p.host.Name())
			})
		}
	}
}
