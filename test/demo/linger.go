package main

import (
	"bufio"
	"context"
	"fmt"
	"os"

	"github.com/jedib0t/go-pretty/v6/text"

	"switchyard/test/netlab"
)

// linger tells how to look around and waits for Enter or Ctrl-C, or for the
// proxy's end.
func (s *stage) linger(ctx context.Context) {
	on := func(host string) string { return "ip netns exec " + s.cluster.Host(host).Namespace() + " " }
	fmt.Fprintf(s.out.w, "\n%s\n", s.out.paint(text.Bold, "The lab stays up. Look around from another terminal, as root:"))
	for _, c := range []struct{ what, command string }{
		{"where the kernel looks services up", on(netlab.NodeA) + "iptables -t nat -L KUBE-SERVICES -n"},
		{"all rules", on(netlab.NodeA) + "iptables-save -c"},
		{"connections and their translation", on(netlab.NodeA) + "conntrack -L"},
		{"ask the shop from outside", on(netlab.Outside) + "bash -c 'head -1 < /dev/tcp/192.168.0.2/30080'"},
		{"ask web from a pod", on("pod-a1") + "bash -c 'head -1 < /dev/tcp/172.30.0.10/80'"},
		{"edit a Service: it takes effect within a second", s.manifest() + "/"},
		{"what the proxy says", "tail -f " + s.log},
	} {
		fmt.Fprintf(s.out.w, "  %s\n    %s\n", s.out.paint(text.FgHiBlack, c.what), c.command)
	}
	fmt.Fprintln(s.out.w, "Enter or Ctrl-C ends it and removes everything.")
	select {
	case <-enter():
	case <-ctx.Done():
	case <-s.proxy.done:
		fmt.Fprintln(os.Stderr, s.proxy.alive())
	}
}

// enter tells of a line on standard input; never, if that is closed already.
func enter() <-chan struct{} {
	pressed := make(chan struct{})
	go func() {
		if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err == nil {
			close(pressed)
		}
	}()
	return pressed
}
