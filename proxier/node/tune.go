package node

import (
	"strconv"
	"time"
)

// Tuning is how the kernel is set up once, at the start. Nil, or 0 where 0 says so,
// leaves alone.
type Tuning struct {
	// MaxPerCore is the connections that conntrack is to have room for, for each
	// CPU; nil or 0: nf_conntrack_max is left alone. Min is the least of them in all.
	MaxPerCore *int
	Min        int

	TCPEstablished, TCPCloseWait *time.Duration
	UDP, UDPStream               *time.Duration
	TCPLiberal                   bool // set nf_conntrack_tcp_be_liberal; false: left alone

	// OOMScore is the process's own /proc/self/oom_score_adj, -1000..1000.
	OOMScore int
}

// maxConntrack bounds what is asked for on machines with very many CPUs; more is
// for their owners to set.
const maxConntrack = 1 << 20

// setting is one value that the kernel is to have.
type setting struct {
	name, value string
	atLeast     bool // a higher one stays
}

// The conntrack settings. The hash has a bucket for four connections, as the kernel
// has by default; it is a module's parameter and no sysctl.
const (
	conntrackMax      = "net.netfilter.nf_conntrack_max"
	conntrackHashsize = "/sys/module/nf_conntrack/parameters/hashsize"
	perBucket         = 4
)

// settings are what a Tuning asks for on a machine with so many CPUs. Pure.
func (t Tuning) settings(cpus int) []setting {
	var all []setting
	if n := t.conntrackMax(cpus); n > 0 {
		// The hash first: a full table with short chains is the better half-way.
		all = append(all,
			setting{conntrackHashsize, strconv.Itoa(n / perBucket), true},
			setting{conntrackMax, strconv.Itoa(n), true})
	}
	for _, timeout := range []struct {
		name string
		is   *time.Duration
	}{
		{"net.netfilter.nf_conntrack_tcp_timeout_established", t.TCPEstablished},
		{"net.netfilter.nf_conntrack_tcp_timeout_close_wait", t.TCPCloseWait},
		{"net.netfilter.nf_conntrack_udp_timeout", t.UDP},
		{"net.netfilter.nf_conntrack_udp_timeout_stream", t.UDPStream},
	} {
		if timeout.is != nil && *timeout.is > 0 {
			seconds := max(1, int64(timeout.is.Round(time.Second)/time.Second))
			all = append(all, setting{name: timeout.name, value: strconv.FormatInt(seconds, 10)})
		}
	}
	if t.TCPLiberal {
		all = append(all, setting{name: conntrackLiberal, value: "1"})
	}
	return append(all, setting{name: oomScore, value: strconv.Itoa(t.OOMScore)})
}

func (t Tuning) conntrackMax(cpus int) int {
	if t.MaxPerCore == nil || *t.MaxPerCore <= 0 {
		return 0
	}
	return min(max(t.Min, *t.MaxPerCore*cpus), maxConntrack)
}

// enough reports whether the value that stands needs no change.
func (s setting) enough(stands string) bool {
	if stands == s.value {
		return true
	}
	is, err := strconv.ParseUint(stands, 10, 64)
	want, err2 := strconv.ParseUint(s.value, 10, 64)
	return s.atLeast && err == nil && err2 == nil && is >= want
}
