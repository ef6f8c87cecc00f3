package e2e

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"switchyard/test/netlab"
)

// configChanges: a ConfigMap that cannot be taken is told and not followed; one that
// can ends the program with success, for the kubelet to start it again. The rules
// stay in either case.
func (c *cluster) configChanges(t *testing.T) {
	began := time.Now().Add(-time.Second)
	c.registerNodeA(t)
	c.create(t, web)
	c.create(t, slice("web", podA1))
	p := c.program(t, c.lab.Host(netlab.NodeA))
	p.start()
	p.inSync()
	c.reaches(t, netlab.Outside, "172.30.0.41:80", podA1)

	p.configure("mode: nfttables\n")
	const fault = `mode: "nfttables": must be one of`
	p.says("level=ERROR", "the configuration file is not valid: the old configuration stays", "nfttables")
	if e := c.event(t, began, "InvalidConfiguration", "Node node-a"); e.Type != "Warning" || !strings.Contains(e.Note, fault) {
		t.Errorf("the Event says %q", e.Note)
	}
	c.point(t, "web", podA2)
	c.reaches(t, netlab.Outside, "172.30.0.41:80", podA2)
	if p.hasEnded() {
		t.Fatal("a bad configuration ended it")
	}

	p.configure("iptables: {masqueradeAll: true}\n")
	if code := p.code(); code != 0 {
		t.Errorf("a new configuration ended it with code %d", code)
	}
	p.says("stopped to be started again with the new configuration")
	if got := c.ask(netlab.Outside, "172.30.0.41:80"); got != podA2.String() {
		t.Errorf("while it does not run the Service answers with %s", got)
	}
	if seen := c.seenAs(t, "pod-a1", "172.30.0.41:80"); seen != podA1 {
		t.Errorf("before the restart the server sees %s", seen)
	}
	p.start()
	p.until("the new configuration is in force", func() bool { return c.seenAs(t, "pod-a1", "172.30.0.41:80") != podA1 })
	if code := p.signal(syscall.SIGTERM); code != 0 {
		t.Errorf("SIGTERM ended it with code %d", code)
	}
	c.writtenConfig(t, p)
	c.cleanedUp(t, p)
}

// writtenConfig: what --write-config-to writes means what it was written from: a
// start with it has nothing to change in the kernel.
func (c *cluster) writtenConfig(t *testing.T, p *program) {
	t.Helper()
	written := t.TempDir() + "/config.conf"
	p.start("--write-config-to=" + written)
	if code := p.code(); code != 0 {
		t.Fatalf("--write-config-to ended with code %d", code)
	}
	for _, line := range []string{"kind: KubeProxyConfiguration", "hostnameOverride: node-a", "  masqueradeAll: true", "  syncPeriod: 30s"} {
		if !strings.Contains(text(t, written), line+"\n") {
			t.Errorf("no %q in\n%s", line, text(t, written))
		}
	}
	before := len(p.log.Lines("msg=applied", "family=IPv4"))
	p.run("--config=" + written)
	var applied []string
	p.until("a sync", func() bool {
		applied = p.log.Lines("msg=applied", "family=IPv4")
		return len(applied) > before
	})
	if !strings.Contains(applied[before], "operations=0") {
		t.Errorf("with the configuration that it wrote it changes the kernel: %s", applied[before])
	}
	p.signal(syscall.SIGTERM)
}

// localnet is what lets NodePorts answer at 127.0.0.1.
const localnet = "net/ipv4/conf/all/route_localnet"

// cleanedUp: --cleanup takes everything away, and the sysctl back.
func (c *cluster) cleanedUp(t *testing.T, p *program) {
	t.Helper()
	if got := sysctl(t, p.host, localnet); got != "1" {
		t.Errorf("%s=%s before the cleanup, want 1", localnet, got)
	}
	p.run("--cleanup")
	if code := p.code(); code != 0 {
		t.Errorf("--cleanup ended with code %d", code)
	}
	if rules := p.rules(); strings.Contains(rules, "KUBE-") {
		t.Errorf("--cleanup left\n%s", rules)
	}
	if got := sysctl(t, p.host, localnet); got != "0" {
		t.Errorf("%s=%s after the cleanup, want 0", localnet, got)
	}
}

// initOnly: what needs full root is done, and no Service is programmed: there need
// be no API server.
func (c *cluster) initOnly(t *testing.T) {
	t.Parallel()
	p := c.program(t, c.addNode(t))
	p.account.put(t, "token", "")
	p.start("--init-only")
	if code := p.code(); code != 0 {
		t.Errorf("--init-only ended with code %d", code)
	}
	for path, want := range map[string]string{"net/netfilter/nf_conntrack_tcp_timeout_established": "86400", localnet: "1"} {
		if got := sysctl(t, p.host, path); got != want {
			t.Errorf("%s=%s, want %s", path, got, want)
		}
	}
	if rules := p.rules(); strings.Contains(rules, "KUBE-SERVICES") || !strings.Contains(rules, "block incoming localnet connections") {
		t.Errorf("the rules are to guard loopback addresses, and nothing else:\n%s", rules)
	}
}

// sysctl is the value of a sysctl on a host.
func sysctl(t *testing.T, host *netlab.Host, path string) string {
	t.Helper()
	out, err := host.Output(t.Context(), "cat", "/proc/sys/"+path)
	check(t, err)
	return strings.TrimSpace(out)
}
