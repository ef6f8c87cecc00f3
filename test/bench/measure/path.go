package measure

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"switchyard/test/bench/contest"
	"switchyard/test/bench/load"
	"switchyard/test/bench/street"
)

// address is where service i is asked: its ClusterIP, or for the direct way its
// first pod.
func (v *Visit) address(i int) netip.AddrPort {
	if v.Contestant.Kind == contest.Direct {
		return netip.AddrPortFrom(v.Load.Pods(i)[0], load.PodPort)
	}
	return load.VIP(i)
}

// connect measures first connects by the position of the service, and connects a
// second by several clients.
func (v *Visit) connect(ctx context.Context) error {
	n := v.Load.Services
	for _, position := range []struct {
		name string
		at   func() int
	}{
		{"first", func() int { return 0 }},
		{"middle", func() int { return n / 2 }},
		{"last", func() int { return n - 1 }},
		{"random", func() int { return v.Random.IntN(n) }},
	} {
		took, err := v.connects(ctx, position.at)
		if err != nil {
			return err
		}
		v.emitQuantiles(Connect, position.name, "us", took)
	}
	return v.rate(ctx)
}

func (v *Visit) connects(ctx context.Context, at func() int) ([]float64, error) {
	took := make([]float64, 0, v.Effort.Connects)
	err := v.Street.Walk(func(w *street.Walker) error {
		for k := -100; k < v.Effort.Connects; k++ { // the first hundred warm the caches
			one, err := w.Connect(v.address(at()))
			if err := errors.Join(err, ctx.Err()); err != nil {
				return err
			}
			if k >= 0 {
				took = append(took, float64(one.Nanoseconds())/1000)
			}
		}
		return nil
	})
	return took, err
}

// clients is how many connect at the same time when the rate is measured.
const clients = 4

func (v *Visit) rate(ctx context.Context) error {
	var made, failed atomic.Int64
	var wait sync.WaitGroup
	end := time.Now().Add(v.Effort.Lasting)
	for range clients {
		random := rand.New(rand.NewPCG(v.Random.Uint64(), 2))
		wait.Go(func() {
			_ = v.Street.Walk(func(w *street.Walker) error {
				for time.Now().Before(end) && ctx.Err() == nil {
					if _, err := w.Ask(v.address(random.IntN(v.Load.Services))); err != nil {
						failed.Add(1)
						continue
					}
					made.Add(1)
				}
				return nil
			})
		})
	}
	wait.Wait()
	v.emit(Connect, "rate", "1/s", float64(made.Load())/v.Effort.Lasting.Seconds())
	v.emit(Connect, "rate, failed", "", float64(failed.Load()))
	return ctx.Err()
}

// throughput sends for a while, over one connection and over fifty.
func (v *Visit) throughput(ctx context.Context) error {
	for _, n := range []int{1, 50} {
		sent, err := v.send(ctx, n)
		if err != nil {
			return err
		}
		v.emit(Throughput, fmt.Sprintf("%d connections", n), "Gbit/s", float64(sent)*8/1e9/v.Effort.Lasting.Seconds())
	}
	return nil
}

func (v *Visit) send(ctx context.Context, n int) (int64, error) {
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range n {
		c, err := v.Street.Client.Dial(ctx, "tcp", netip.AddrPort{}, v.address(v.Random.IntN(v.Load.Services)))
		if err != nil {
			return 0, err
		}
		conns = append(conns, c)
	}
	var sent atomic.Int64
	var wait sync.WaitGroup
	end := time.Now().Add(v.Effort.Lasting)
	for _, c := range conns {
		wait.Go(func() {
			_ = c.SetDeadline(end)
			for buf := make([]byte, 128<<10); ; {
				k, err := c.Write(buf)
				sent.Add(int64(k))
				if err != nil {
					return // the deadline
				}
			}
		})
	}
	wait.Wait()
	return sent.Load(), nil
}

// scheduler counts who answers, over many connects to one service: the largest and
// the smallest share of an endpoint, where 1 is its fair part.
func (v *Visit) scheduler(ctx context.Context) error {
	const each = 200
	i := v.Load.Services / 2
	got := map[netip.Addr]int{}
	err := v.Street.Walk(func(w *street.Walker) error {
		for range each * v.Load.Endpoints {
			met, err := w.Ask(load.VIP(i))
			if err := errors.Join(err, ctx.Err()); err != nil {
				return err
			}
			got[met.Pod]++
		}
		return nil
	})
	if err != nil {
		return err
	}
	least, most := each*v.Load.Endpoints, 0
	for _, pod := range v.Load.Pods(i) {
		least, most = min(least, got[pod]), max(most, got[pod])
	}
	v.emit(Scheduler, "smallest share", "", float64(least)/each)
	v.emit(Scheduler, "largest share", "", float64(most)/each)
	return nil
}
