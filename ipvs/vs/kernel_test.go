package vs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"switchyard/ipvs/vs"
	"switchyard/proxier"
	"switchyard/test/netlab"
	"switchyard/test/uml"
)

// TestInUML runs what needs IPVS in a kernel that has it.
func TestInUML(t *testing.T) {
	uml.Tests(t, uml.Options{},
		uml.Case{Name: "ServersAreReadBackAsWritten", Test: testServersAreReadBackAsWritten},
		uml.Case{Name: "OneChangesIntoAnyOther", Test: testOneChangesIntoAnyOther},
		uml.Case{Name: "DestinationsAreReadBackAsWritten", Test: testDestinationsAreReadBackAsWritten},
		uml.Case{Name: "Twice", Test: testTwice},
		uml.Case{Name: "Refusals", Test: testRefusals},
		uml.Case{Name: "ForeignOptionsAreNoticed", Test: testForeignOptionsAreNoticed},
		uml.Case{Name: "ForeignForwardingIsNoticed", Test: testForeignForwardingIsNoticed},
		uml.Case{Name: "Timeouts", Test: testTimeouts},
		uml.Case{Name: "Operations", Test: testOperations},
		uml.Case{Name: "Batch", Test: testBatch},
		uml.Case{Name: "WithoutPermission", Test: testWithoutPermission},
		uml.Case{Name: "AddSpeed", Test: testAddSpeed},
		uml.Case{Name: "ReadSpeed", Test: testReadSpeed},
		uml.Case{Name: "TheModuleComesAgain", Test: testTheModuleComesAgain}, // the last: see there
	)
}

// alone opens IPVS in a network namespace of the test's own.
func alone(t testing.TB) *vs.Kernel {
	t.Helper()
	netlab.Alone(t)
	k, err := vs.Open(vs.Options{})
	if errors.Is(err, vs.ErrNoModule) {
		t.Skip("needs IPVS in the kernel; load the module ip_vs: ", err)
	}
	must(t, err)
	t.Cleanup(k.Close)
	return k
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ipvsadm runs ipvsadm(8).
func ipvsadm(t testing.TB, line string) string {
	t.Helper()
	out, err := exec.Command("ipvsadm", strings.Fields(line)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ipvsadm %s: %v: %s", line, err, out)
	}
	return string(out)
}

func tcp(addr string) vs.Key { return vs.At(proxier.TCP, netip.MustParseAddrPort(addr)) }

func to(addr string, weight int) vs.Destination {
	return vs.Destination{Addr: netip.MustParseAddrPort(addr), Weight: weight}
}

// keys are one server of each kind, and how ipvsadm -Sn prints them.
var keys = []struct {
	key  vs.Key
	text string
}{
	{tcp("172.30.0.1:443"), "-t 172.30.0.1:443"},
	{vs.At(proxier.UDP, netip.MustParseAddrPort("172.30.0.1:443")), "-u 172.30.0.1:443"},
	{vs.At(proxier.SCTP, netip.MustParseAddrPort("172.30.0.1:443")), "--sctp-service 172.30.0.1:443"},
	{tcp("[fd00::1]:443"), "-t [fd00::1]:443"},
	{vs.At(proxier.UDP, netip.MustParseAddrPort("[fd00::1]:53")), "-u [fd00::1]:53"},
	{vs.At(proxier.SCTP, netip.MustParseAddrPort("[fd00::1]:65535")), "--sctp-service [fd00::1]:65535"},
	{vs.Marked(proxier.IPv4, 7), "-f 7"},
	{vs.Marked(proxier.IPv6, 7), "-f 7 -6"},
	{vs.Marked(proxier.IPv4, 0x7fffffff), "-f 2147483647"}, // ipvsadm prints higher ones as negative
}

// servers are every scheduler, flag and persistence.
func servers() map[vs.Server]string {
	all := map[vs.Server]string{
		{Scheduler: "sh", Flags: vs.Fallback}:                                     "-s sh -b sh-fallback",
		{Scheduler: "sh", Flags: vs.Port}:                                         "-s sh -b sh-port",
		{Scheduler: "sh", Flags: vs.Port | vs.Fallback}:                           "-s sh -b sh-fallback,sh-port",
		{Scheduler: "mh", Flags: vs.Fallback}:                                     "-s mh -b mh-fallback",
		{Scheduler: "mh", Flags: vs.Port}:                                         "-s mh -b mh-port",
		{Scheduler: "mh", Flags: vs.Port | vs.Fallback, Persistence: time.Minute}: "-s mh -p 60 -b mh-fallback,mh-port",
		{Scheduler: "rr", Persistence: time.Second}:                               "-s rr -p 1",
		{Scheduler: "rr", Persistence: 3 * time.Hour}:                             "-s rr -p 10800",
		{Scheduler: "rr", Persistence: 31 * 24 * time.Hour}:                       "-s rr -p 2678400",
	}
	for _, name := range vs.Schedulers() {
		all[vs.Server{Scheduler: name}] = "-s " + name
	}
	return all
}

func testServersAreReadBackAsWritten(t *testing.T) {
	k := alone(t)
	for server, options := range servers() {
		for _, c := range keys {
			must(t, k.Add(c.key, server))
			got, err := k.Servers(c.key.Family)
			if want := map[vs.Key]vs.Server{c.key: server}; err != nil || !maps.Equal(got, want) {
				t.Errorf("read %v, %v; want %v", got, err, want)
			}
			want := "-A " + c.text + " " + options + "\n"
			if text := saved(t); text != want {
				t.Errorf("ipvsadm prints %q, want %q", text, want)
			}
			must(t, k.Delete(c.key))
		}
	}
}

// saved is ipvsadm -Sn without the netmask of IPv6, which it prints where it is whole.
func saved(t *testing.T) string {
	return strings.ReplaceAll(ipvsadm(t, "-Sn"), " -M 128", "")
}

func testOneChangesIntoAnyOther(t *testing.T) {
	k := alone(t)
	for _, c := range keys {
		must(t, k.Add(c.key, vs.Server{Scheduler: "rr"}))
		must(t, k.AddDestination(c.key, destinationOf(c.key)))
		for server := range servers() {
			must(t, k.Update(c.key, server))
			got, err := k.Servers(c.key.Family)
			if err != nil || got[c.key] != server {
				t.Errorf("%s: read %v, %v; want %v", c.key, got, err, server)
			}
		}
		if list, err := k.Destinations(c.key); err != nil || len(list) != 1 {
			t.Errorf("%s: destinations after updates: %v, %v", c.key, list, err)
		}
	}
}

func destinationOf(key vs.Key) vs.Destination {
	if key.Family == proxier.IPv6 {
		return to("[fd00:1::2]:8080", 1)
	}
	return to("10.180.0.2:8080", 1)
}

func testDestinationsAreReadBackAsWritten(t *testing.T) {
	k := alone(t)
	for _, c := range keys {
		must(t, k.Add(c.key, vs.Server{Scheduler: "wrr"}))
		d := destinationOf(c.key)
		for _, d.Weight = range []int{1, 0, 2, 100, 65535} {
			must(t, k.UpdateDestination(c.key, d))
			got, err := k.Destinations(c.key)
			if want := []vs.Counted{{Destination: d}}; err != nil || !slices.Equal(got, want) {
				t.Errorf("%s: read %v, %v; want %v", c.key, got, err, want)
			}
			want := fmt.Sprintf("-a %s -r %s -m -w %d\n", c.text, d.Addr, d.Weight)
			if text := saved(t); !strings.Contains(text, want) {
				t.Errorf("ipvsadm prints %q without %q", text, want)
			}
		}
	}
}

// Each operation twice: the second finds that it is done.
func testTwice(t *testing.T) {
	k := alone(t)
	for _, c := range keys {
		d := destinationOf(c.key)
		heavy := d
		heavy.Weight = 9
		for _, step := range []struct {
			what  string
			do    func() error
			state string
		}{
			{"add", func() error { return k.Add(c.key, vs.Server{Scheduler: "rr"}) }, "rr []"},
			{"add as another", func() error { return k.Add(c.key, vs.Server{Scheduler: "wlc"}) }, "wlc []"},
			{"add destination", func() error { return k.AddDestination(c.key, d) }, "wlc [1]"},
			{"add destination as another", func() error { return k.AddDestination(c.key, heavy) }, "wlc [9]"},
			{"delete destination", func() error { return k.DeleteDestination(c.key, d) }, "wlc []"},
			{"update destination that is gone", func() error { return k.UpdateDestination(c.key, d) }, "wlc [1]"},
			{"delete", func() error { return k.Delete(c.key) }, "gone []"},
			{"delete destination of what is gone", func() error { return k.DeleteDestination(c.key, d) }, "gone []"},
			{"update what is gone", func() error { return k.Update(c.key, vs.Server{Scheduler: "rr"}) }, "rr []"},
			{"delete again", func() error { return k.Delete(c.key) }, "gone []"},
		} {
			for range 2 {
				if err := step.do(); err != nil {
					t.Errorf("%s %s: %v", step.what, c.key, err)
				}
				if got := state(t, k, c.key); got != step.state {
					t.Errorf("%s %s: it is %s, want %s", step.what, c.key, got, step.state)
				}
			}
		}
	}
}

// state is the scheduler and the weights of a server.
func state(t *testing.T, k *vs.Kernel, key vs.Key) string {
	t.Helper()
	all, err := k.Servers(key.Family)
	must(t, err)
	list, err := k.Destinations(key)
	must(t, err)
	scheduler := "gone"
	if s, ok := all[key]; ok {
		scheduler = s.String()
	}
	weights := []int{}
	for _, d := range list {
		weights = append(weights, d.Weight)
	}
	slices.Sort(weights)
	return fmt.Sprint(scheduler, " ", weights)
}

func testRefusals(t *testing.T) {
	k := alone(t)
	key := tcp("172.30.0.1:443")
	must(t, k.Add(key, vs.Server{Scheduler: "rr"}))
	gone := tcp("172.30.0.2:443")
	for _, c := range []struct {
		do   func() error
		is   error
		want string
	}{
		{func() error { return k.Add(gone, vs.Server{Scheduler: "nonesuch"}) }, vs.ErrNoScheduler,
			`ipvs: add server TCP 172.30.0.2:443: the kernel has no such scheduler: "nonesuch": load the module ip_vs_nonesuch: no such file or directory`},
		{func() error { return k.Update(key, vs.Server{Scheduler: "nonesuch"}) }, vs.ErrNoScheduler, "ipvs: update server TCP 172.30.0.1:443: "},
		{func() error { return k.Add(key, vs.Server{Scheduler: "nonesuch"}) }, syscall.ENOENT, "ip_vs_nonesuch"},
		{func() error { return k.AddDestination(gone, to("10.0.0.1:80", 1)) }, vs.ErrNoServer,
			"ipvs: add destination 10.0.0.1:80 of TCP 172.30.0.2:443: no such virtual server: no such process"},
		{func() error { return k.UpdateDestination(gone, to("10.0.0.1:80", 1)) }, syscall.ESRCH, "ipvs: update destination"},
		{func() error { return k.AddDestination(key, to("10.0.0.1:80", 65536)) }, nil, "weight 65536: it is 0 to 65535"},
		{func() error { return k.AddDestination(key, to("10.0.0.1:80", -1)) }, nil, "weight -1"},
		{func() error { return k.AddDestination(key, to("[fd00::1]:80", 1)) }, nil, "destination [fd00::1]:80 is not IPv4"},
		{func() error { return k.Add(vs.Key{}, vs.Server{Scheduler: "rr"}) }, nil, "server has no family"},
		{func() error { return k.Add(vs.Key{Family: proxier.IPv4}, vs.Server{Scheduler: "rr"}) }, nil, "that is not IPv4"},
		{func() error {
			return k.Add(vs.Key{Family: proxier.IPv4, Mark: 1, Addr: key.Addr}, vs.Server{Scheduler: "rr"})
		}, nil, "server has a mark, 1, and an address"},
		{func() error { return k.Add(key, vs.Server{Scheduler: "rr", Persistence: 1500 * time.Millisecond}) }, nil, "persistence 1.5s: it is whole seconds"},
		{func() error { return k.SetTimeouts(vs.Timeouts{TCP: -time.Second}) }, nil, "ipvs: set timeouts: TCP timeout -1s: it is whole seconds"},
	} {
		err := c.do()
		var op *vs.OpError
		if !errors.As(err, &op) || !strings.Contains(err.Error(), c.want) || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("error %v, want %q and %v", err, c.want, c.is)
		}
	}
	if got := state(t, k, key); got != "rr []" {
		t.Errorf("after refusals it is %s", got)
	}
}

// What cannot be said in a Server or a Destination differs from all that can, and
// becomes what is wanted by an update.
func testForeignOptionsAreNoticed(t *testing.T) {
	key := tcp("172.30.0.1:443")
	plain := vs.Server{Scheduler: "rr"}
	persistent := vs.Server{Scheduler: "rr", Persistence: 5 * time.Minute}
	d := to("10.180.0.2:8080", 1)
	for _, c := range []struct {
		server, destination string
		want                vs.Server
		same, sameD         bool
	}{
		{"-A -t 172.30.0.1:443 -s rr", "-m", plain, true, true},
		{"-A -t 172.30.0.1:443 -s rr -b flag-3", "-m", plain, false, true},
		{"-A -t 172.30.0.1:443 -s rr -p 300", "-m", persistent, true, true},
		{"-A -t 172.30.0.1:443 -s rr -p 300 -M 255.255.255.0", "-m", persistent, false, true},
		{"-A -t 172.30.0.1:443 -s rr", "-m -x 100 -y 10", plain, true, false},
	} {
		t.Run(c.server+" "+c.destination, func(t *testing.T) {
			k := alone(t)
			ipvsadm(t, c.server)
			ipvsadm(t, "-a -t 172.30.0.1:443 -r 10.180.0.2:8080 "+c.destination)
			all, err := k.Servers(proxier.IPv4)
			must(t, err)
			list, err := k.Destinations(key)
			must(t, err)
			if (all[key] == c.want) != c.same || (list[0].Destination == d) != c.sameD {
				t.Errorf("read %+v, %+v", all, list)
			}
			must(t, k.Update(key, c.want))
			must(t, k.UpdateDestination(key, d))
			all, err = k.Servers(proxier.IPv4)
			must(t, err)
			list, err = k.Destinations(key)
			must(t, err)
			if all[key] != c.want || list[0].Destination != d {
				t.Errorf("after updates %+v, %+v", all, list)
			}
		})
	}
}

// Direct routing and tunnels, too; ports must be equal there.
func testForeignForwardingIsNoticed(t *testing.T) {
	k := alone(t)
	key, d := tcp("172.30.0.1:443"), to("10.180.0.2:443", 1)
	must(t, k.Add(key, vs.Server{Scheduler: "rr"}))
	for _, way := range []string{"-g", "-i"} {
		ipvsadm(t, "-a -t 172.30.0.1:443 -r 10.180.0.2:443 "+way)
		list, err := k.Destinations(key)
		must(t, err)
		if len(list) != 1 || list[0].Destination == d || list[0].Addr != d.Addr {
			t.Errorf("%s: read %+v", way, list)
		}
		must(t, k.UpdateDestination(key, d))
		if text := ipvsadm(t, "-Sn"); !strings.Contains(text, "-r 10.180.0.2:443 -m -w 1\n") {
			t.Errorf("%s: after an update %s", way, text)
		}
		must(t, k.DeleteDestination(key, d))
	}
}

func testTimeouts(t *testing.T) {
	k := alone(t)
	for _, c := range []struct{ set, want vs.Timeouts }{
		{vs.Timeouts{}, vs.Timeouts{TCP: 15 * time.Minute, TCPFin: 2 * time.Minute, UDP: 5 * time.Minute}},
		{vs.Timeouts{TCP: time.Hour}, vs.Timeouts{TCP: time.Hour, TCPFin: 2 * time.Minute, UDP: 5 * time.Minute}},
		{vs.Timeouts{TCPFin: 3 * time.Second, UDP: time.Second}, vs.Timeouts{TCP: time.Hour, TCPFin: 3 * time.Second, UDP: time.Second}},
	} {
		must(t, k.SetTimeouts(c.set))
		if got, err := k.Timeouts(); err != nil || got != c.want {
			t.Errorf("after setting %v: %v, %v; want %v", c.set, got, err, c.want)
		}
	}
	if text := ipvsadm(t, "-L --timeout"); !strings.Contains(text, "3600 3 1") {
		t.Error(text)
	}
}

func testOperations(t *testing.T) {
	k := alone(t)
	key, d := tcp("172.30.0.1:443"), to("10.0.0.1:80", 1)
	for _, c := range []struct {
		what string
		do   func() error
		want int64
	}{
		{"add", func() error { return k.Add(key, vs.Server{Scheduler: "rr"}) }, 1},
		{"add destination", func() error { return k.AddDestination(key, d) }, 1},
		{"update destination", func() error { return k.UpdateDestination(key, d) }, 1},
		{"update", func() error { return k.Update(key, vs.Server{Scheduler: "wrr"}) }, 1},
		{"read", func() error { _, err := k.Servers(proxier.IPv4); return err }, 0},
		{"read destinations", func() error { _, err := k.Destinations(key); return err }, 0},
		{"add again", func() error { return k.Add(key, vs.Server{Scheduler: "rr"}) }, 2},
		{"delete", func() error { return k.Delete(key) }, 1},
	} {
		before := k.Operations()
		must(t, c.do())
		if got := k.Operations() - before; got != c.want {
			t.Errorf("%s: %d writes, want %d", c.what, got, c.want)
		}
	}
}

func testBatch(t *testing.T) {
	k := alone(t)
	web, dns, gone := tcp("172.30.0.1:80"), tcp("172.30.0.2:53"), tcp("172.30.0.3:1")
	rr := vs.Server{Scheduler: "rr"}
	must(t, k.Add(web, vs.Server{Scheduler: "wlc"}))
	must(t, k.AddDestination(web, to("10.0.0.1:80", 5)))
	failures := k.Batch([]vs.Write{
		{Op: vs.AddServer, Key: web, Server: rr},                                  // exists
		{Op: vs.AddDestination, Key: web, Destination: to("10.0.0.1:80", 1)},      // exists
		{Op: vs.UpdateDestination, Key: web, Destination: to("10.0.0.2:80", 2)},   // is missing
		{Op: vs.UpdateServer, Key: dns, Server: rr},                               // is missing,
		{Op: vs.AddDestination, Key: dns, Destination: to("10.0.0.3:53", 3)},      // and with it the server of this
		{Op: vs.AddServer, Key: gone, Server: vs.Server{Scheduler: "nonesuch"}},   // fails,
		{Op: vs.AddDestination, Key: gone, Destination: to("10.0.0.4:1", 1)},      // and with it this
		{Op: vs.AddDestination, Key: web, Destination: to("10.0.0.5:80", 70_000)}, // is not even sent
		{Op: vs.DeleteDestination, Key: gone, Destination: to("10.0.0.4:1", 1)},   // is done already
	})
	var text []string
	for _, err := range failures {
		var op *vs.OpError
		if !errors.As(err, &op) {
			t.Errorf("%v is no OpError", err)
		}
		text = append(text, err.Error())
	}
	want := []string{
		`ipvs: add server TCP 172.30.0.3:1: the kernel has no such scheduler: "nonesuch": load the module ip_vs_nonesuch: no such file or directory`,
		"ipvs: add destination 10.0.0.4:1 of TCP 172.30.0.3:1: no such virtual server: no such process",
		"ipvs: add destination 10.0.0.5:80 of TCP 172.30.0.1:80: destination 10.0.0.5:80 has weight 70000: it is 0 to 65535",
	}
	if !slices.Equal(text, want) {
		t.Errorf("failures %q", text)
	}
	for _, c := range []struct {
		key  vs.Key
		want string
	}{{web, "rr [1 2]"}, {dns, "rr [3]"}, {gone, "gone []"}} {
		if got := state(t, k, c.key); got != c.want {
			t.Errorf("%s is %s, want %s", c.key, got, c.want)
		}
	}
	if n := k.Operations(); n != 2+8+5 {
		t.Errorf("%d writes", n)
	}
}

func testWithoutPermission(t *testing.T) {
	if os.Getenv("VS_TEST_CHILD") != "" {
		_, err := vs.Open(vs.Options{})
		fmt.Println(errors.Is(err, fs.ErrPermission), err)
		return
	}
	alone(t)
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestInUML$/^WithoutPermission$")
	cmd.Env = append(os.Environ(), "VS_TEST_CHILD=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if text := string(out); err != nil || !strings.Contains(text, "true ") || !strings.Contains(text, "needs CAP_NET_ADMIN") {
		t.Errorf("%v: %s", err, out)
	}
}

// A kernel without IPVS is told apart from one that refuses.
func TestWithoutModule(t *testing.T) {
	netlab.Alone(t)
	k, err := vs.Open(vs.Options{})
	if err == nil {
		k.Close()
		t.Skip("needs a kernel without IPVS; unload the module ip_vs")
	}
	if !errors.Is(err, vs.ErrNoModule) || !strings.Contains(err.Error(), "load the module ip_vs") {
		t.Errorf("open: %v", err)
	}
}

// A module that was unloaded and loaded again answers under another number. The
// library keeps the first one for ever, so this is a process of its own.
func testTheModuleComesAgain(t *testing.T) {
	if os.Getenv("VS_TEST_CHILD") != "" {
		k := alone(t)
		modules := []string{"-r", "xt_ipvs", "ip_vs_pe_sip"}
		for _, name := range vs.Schedulers() {
			modules = append(modules, "ip_vs_"+name)
		}
		for _, args := range [][]string{append(modules, "ip_vs_ftp", "ip_vs"), {"ip_vs"}} {
			modprobe(t, args)
		}
		_, err := k.Servers(proxier.IPv4)
		fmt.Println("servers:", errors.Is(err, vs.ErrNoModule), err)
		err = k.DeleteDestination(tcp("172.30.0.1:443"), to("10.0.0.1:80", 1))
		fmt.Println("delete:", errors.Is(err, vs.ErrNoModule), err)
		return
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestInUML$/^TheModuleComesAgain$")
	cmd.Env = append(os.Environ(), "VS_TEST_CHILD=1")
	out, err := cmd.CombinedOutput()
	for _, want := range []string{"servers: true", "delete: true", "it was unloaded since this program started"} {
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%v: %s: want %q", err, out, want)
		}
	}
}

// modprobe tries for a while: a namespace that is gone still holds the module then.
func modprobe(t *testing.T, args []string) {
	t.Helper()
	var out []byte
	err := errors.New("not tried")
	for try := 0; err != nil && try < 50; try++ {
		if out, err = exec.Command("modprobe", args...).CombinedOutput(); err != nil {
			time.Sleep(100 * time.Millisecond)
		}
	}
	if err != nil {
		t.Errorf("modprobe %s: %v: %s", args, err, out)
	}
}
