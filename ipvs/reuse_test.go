package ipvs

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"switchyard/proxier"
	"switchyard/test/netlab"
)

// A connect that waits for a lost packet takes a second, TCP's first time-out. maxWait
// is between that and 50 ms, which is promised, because this kernel shares a machine.
const maxWait = 500 * time.Millisecond

// testReuse: a client that uses few ports again and again. No connect waits, and from
// the moment that an endpoint is gone none ends there.
func testReuse(t *testing.T) {
	netlab.Alone(t)
	hall(t)
	b := realBackend(t)
	apply(t, b, stateOf(clusterIP("web", "172.30.0.1:80", proxier.TCP, endpointsOfHall...)))
	var took, direct []time.Duration
	got := map[string]int{}
	for i := range 600 {
		if i == 300 {
			apply(t, b, stateOf(clusterIP("web", "172.30.0.1:80", proxier.TCP, endpointsOfHall[1:]...)))
			t.Logf("with three endpoints: %v", got)
			clear(got)
		}
		port := uint16(41000 + i%20)
		start := time.Now()
		who, err := ask(t, port, "172.30.0.1:80")
		took = append(took, time.Since(start))
		start = time.Now()
		_, err2 := ask(t, port+1000, endpointsOfHall[1]) // of whose ports IPVS knows nothing
		direct = append(direct, time.Since(start))
		if err := errors.Join(err, err2); err != nil {
			t.Fatalf("connect %d: %v", i, err)
		}
		got[who]++
	}
	t.Logf("with two: %v; by IPVS %s; to an endpoint itself %s", got, figures(took), figures(direct))
	if n, slowest := got[endpointsOfHall[0]], slices.Max(took); n > 0 || slowest > maxWait {
		t.Errorf("%d connections to the endpoint that is gone, the slowest took %s", n, slowest)
	}
}

// figures are the middle and the longest of some times, and how many are long.
func figures(took []time.Duration) string {
	slices.Sort(took)
	slow, _ := slices.BinarySearch(took, 50*time.Millisecond)
	return fmt.Sprintf("a connect took %s, the slowest %s, %d of %d more than 50 ms",
		took[len(took)/2], took[len(took)-1], len(took)-slow, len(took))
}

// ask connects from a port and has the endpoint hang up first, so that the port is free
// at once and IPVS keeps the connection in TIME_WAIT.
func ask(t *testing.T, from uint16, to string) (who string, err error) {
	t.Helper()
	d := net.Dialer{Timeout: 10 * time.Second, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr("10.181.1.1"), from))}
	c, who, err := greeted(d, to)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	_, err = c.Write([]byte{1})
	if err == nil {
		_, _ = c.Read(make([]byte, 1)) // the end
	}
	return who, err
}

// testAffinityEnds: a client with affinity stays where it is, also over a restart, and
// leaves an endpoint that is gone at once, while its connection there lives on.
func testAffinityEnds(t *testing.T) {
	netlab.Alone(t)
	hall(t)
	web := func(endpoints ...string) *proxier.State {
		s := clusterIP("web", "172.30.0.1:80", proxier.TCP, endpoints...)
		s.Affinity = time.Hour
		return stateOf(s)
	}
	apply(t, realBackend(t), web(endpointsOfHall...))
	old, at, err := dial(addr("10.181.1.1"), "172.30.0.1:80", 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = old.Close() }()
	b := realBackend(t)
	apply(t, b, web(endpointsOfHall...))
	for range 5 {
		if who, err := ask(t, 0, "172.30.0.1:80"); err != nil || who != at {
			t.Errorf("reached %s, %v, want %s by affinity", who, err, at)
		}
	}
	left := slices.DeleteFunc(slices.Clone(endpointsOfHall), func(ep string) bool { return ep == at })
	apply(t, b, web(left...))
	for range 5 {
		if who, err := ask(t, 0, "172.30.0.1:80"); err != nil || who == at {
			t.Errorf("reached %s, %v, and that endpoint is gone", who, err)
		}
	}
	if _, err := old.Write([]byte{1}); err != nil {
		t.Error(err)
	}
	if _, err := old.Read(make([]byte, 1)); err == nil || err.Error() != "EOF" {
		t.Errorf("the connection that it had ended with %v, want the endpoint's own end", err)
	}
}
