package relay

import (
	"net/netip"
	"sync"
	"time"
)

// maxPins is how many clients one service remembers: 65,536 take about 6 MiB.
const maxPins = 1 << 16

// affinity remembers which endpoint a client had. Its zero value is empty.
type affinity struct {
	mu   sync.Mutex
	pins map[netip.Addr]pin
}

type pin struct {
	endpoint *endpoint
	since    time.Time // the client's last connection
}

// get returns the endpoint of a client whose last connection was less than timeout
// ago, nil if there is none.
func (a *affinity) get(client netip.Addr, now time.Time, timeout time.Duration) *endpoint {
	a.mu.Lock()
	defer a.mu.Unlock()
	p, ok := a.pins[client]
	if !ok || now.Sub(p.since) >= timeout {
		return nil
	}
	return p.endpoint
}

// set remembers a client's endpoint. Where there are too many clients those go whose
// time is over, else any.
func (a *affinity) set(client netip.Addr, e *endpoint, now time.Time, timeout time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pins == nil {
		a.pins = map[netip.Addr]pin{}
	}
	if _, known := a.pins[client]; !known && len(a.pins) >= maxPins {
		a.makeRoom(now, timeout)
	}
	a.pins[client] = pin{e, now}
}

// makeRoom looks at a few pins only, in the order of the map, which is random: the
// cost of one more client stays small.
func (a *affinity) makeRoom(now time.Time, timeout time.Duration) {
	const look = 64
	n, over := 0, 0
	var any netip.Addr
	for client, p := range a.pins {
		any = client
		if now.Sub(p.since) >= timeout {
			delete(a.pins, client)
			over++
		}
		if n++; n == look {
			break
		}
	}
	if over == 0 {
		delete(a.pins, any)
	}
}
