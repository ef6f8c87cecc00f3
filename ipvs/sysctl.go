package ipvs

import (
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"switchyard/ipvs/vs"
	"switchyard/proxier"
)

// setting is a sysctl as it should be, and why.
type setting struct {
	name, value string
	reason      string
	// needed: nothing works without; else its lack is a warning.
	needed bool
}

// settings are the sysctls for a kernel. Pure.
func settings(kernel string, s proxier.IPVSSettings) []setting {
	list := []setting{
		{"net/ipv4/vs/conntrack", "1", "masquerade needs the connections of IPVS in conntrack", true},
		{"net/ipv4/vs/expire_nodest_conn", "1", "a connection whose endpoint is gone ends at its next packet", false},
		{"net/ipv4/vs/expire_quiescent_template", "1", "a client with affinity leaves an endpoint that gets no new connections", false},
	}
	major, minor := kernelVersion(kernel)
	at := func(a, b int) bool { return major > a || major == a && minor >= b }
	switch {
	case at(5, 9):
		list = append(list, setting{"net/ipv4/vs/conn_reuse_mode", "1",
			"a port that a client uses again is a new connection, scheduled anew at once", false})
	case at(4, 1):
		list = append(list, setting{"net/ipv4/vs/conn_reuse_mode", "0",
			"before 5.9 the kernel drops the first packet of a port used again, which costs a second", false})
	}
	if s.StrictARP {
		list = append(list,
			setting{"net/ipv4/conf/all/arp_ignore", "1", "strict ARP: only the device that has an address answers for it", false},
			setting{"net/ipv4/conf/all/arp_announce", "2", "strict ARP: addresses of kube-ipvs0 are not announced", false})
	}
	return list
}

// kernelVersion reads "6.1.0-13-amd64"; 0, 0 if it is no version.
func kernelVersion(text string) (major, minor int) {
	first, rest, _ := strings.Cut(text, ".")
	major, err := strconv.Atoi(first)
	if err != nil {
		return 0, 0
	}
	end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(rest)
	}
	minor, _ = strconv.Atoi(rest[:end])
	return major, minor
}

// tuner is what the settings are read from and written to; sysctls.
type tuner interface {
	read(name string) (string, error)
	write(name, value string) error
	version() (string, error)
}

// timeouts is the part of the kernel's table that has them; *vs.Kernel.
type timeouts interface {
	Timeouts() (vs.Timeouts, error)
	SetTimeouts(t vs.Timeouts) error
}

// tune writes the settings that differ and tells the log of each, once.
func tune(t tuner, ipvs proxier.IPVSSettings, log *slog.Logger) error {
	kernel, err := t.version()
	if err != nil {
		return err
	}
	for _, s := range settings(kernel, ipvs) {
		was, err := t.read(s.name)
		if err == nil && was == s.value {
			continue
		}
		if err == nil {
			err = t.write(s.name, s.value)
		}
		name := strings.ReplaceAll(s.name, "/", ".")
		switch {
		case err == nil:
			log.Info("sysctl set", "name", name, "was", was, "value", s.value, "because", s.reason)
		case s.needed:
			return fmt.Errorf("%w: set %s=%s, %s", err, name, s.value, s.reason)
		default:
			log.Warn("a sysctl cannot be set", "name", name, "value", s.value, "because", s.reason, "err", err)
		}
	}
	return nil
}

// setTimeouts writes the timeouts that are asked for, where they differ.
func setTimeouts(k timeouts, ipvs proxier.IPVSSettings, log *slog.Logger) error {
	want := vs.Timeouts{TCP: ipvs.TCP, TCPFin: ipvs.TCPFin, UDP: ipvs.UDP}
	if want == (vs.Timeouts{}) {
		return nil
	}
	is, err := k.Timeouts()
	if err != nil {
		return err
	}
	differs := func(want, is time.Duration) bool { return want != 0 && want != is }
	if !differs(want.TCP, is.TCP) && !differs(want.TCPFin, is.TCPFin) && !differs(want.UDP, is.UDP) {
		return nil
	}
	if err := k.SetTimeouts(want); err != nil {
		return err
	}
	log.Info("IPVS timeouts set; 0 leaves a value as it is", "tcp", want.TCP, "tcpfin", want.TCPFin, "udp", want.UDP)
	return nil
}

// established is the sysctl with the time after which conntrack forgets an idle TCP
// connection, in seconds.
const established = "net/netfilter/nf_conntrack_tcp_timeout_established"

// shortTimeout warns of a TCP timeout that cuts idle connections earlier than people
// expect, "" if there is nothing to warn of.
func shortTimeout(k timeouts, t tuner, ipvs proxier.IPVSSettings) string {
	is, err := k.Timeouts()
	text, unread := t.read(established)
	seconds, bad := strconv.Atoi(text)
	if errors.Join(err, unread, bad) != nil {
		return ""
	}
	tcp, limit := is.TCP, time.Duration(seconds)*time.Second
	if ipvs.TCP != 0 {
		tcp = ipvs.TCP
	}
	if tcp >= limit {
		return ""
	}
	return fmt.Sprintf("warning: IPVS forgets a TCP connection that is idle for %s, conntrack only after %s: "+
		"longer idle ones are reset (--ipvs-tcp-timeout)", tcp, limit)
}
