package deploy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// privileges are what a container is given, and what comes of it.
type privileges struct {
	name         string
	flavours     []string // in the image
	kubelet      string   // the flavour that the kubelet uses on this node; "": none yet
	capabilities []corev1.Capability
	rules        string // the flavour whose tables get the rules
	says         string // or why there are none
}

const netAdmin, netRaw = corev1.Capability("NET_ADMIN"), corev1.Capability("NET_RAW")

// table is the table of docs/privileges.md, tried.
func table(pod []corev1.Capability) []privileges {
	both := []string{"nft", "legacy"}
	return []privileges{
		{name: "as in the pod, nft", flavours: []string{"nft"}, capabilities: pod, rules: "nft"},
		{name: "as in the pod, legacy", flavours: []string{"legacy"}, capabilities: pod, rules: "legacy"},
		{name: "as in the pod, fresh node", flavours: both, capabilities: pod, rules: "nft"},
		{name: "as in the pod, node with legacy", flavours: both, kubelet: "legacy", capabilities: pod, rules: "legacy"},
		{name: "NET_ADMIN is enough for nft", flavours: []string{"nft"}, capabilities: []corev1.Capability{netAdmin}, rules: "nft"},
		{name: "legacy needs NET_RAW", flavours: []string{"legacy"}, capabilities: []corev1.Capability{netAdmin},
			says: "the capabilities NET_ADMIN and NET_RAW are needed"},
		// The danger of leaving out NET_RAW: what cannot be read looks unused.
		{name: "without NET_RAW a node with legacy is not recognised", flavours: both, kubelet: "legacy",
			capabilities: []corev1.Capability{netAdmin}, rules: "nft"},
		{name: "nothing goes without NET_ADMIN", flavours: both, capabilities: []corev1.Capability{netRaw},
			says: "the capability NET_ADMIN is needed"},
	}
}

// TestImageWithThePodsPrivileges starts the program in the root that the
// Dockerfile's script makes, which is read-only as in the pod, /proc/sys too, with
// no capabilities but those of the row. What it did, `cleanup` takes back likewise.
func TestImageWithThePodsPrivileges(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("missing: root, for namespaces")
	}
	binary := root + "/bin/kube-proxy"
	if _, err := os.Stat(binary); err != nil {
		t.Skip("missing: bin/kube-proxy; make build")
	}
	if _, err := exec.LookPath("kmod"); err != nil {
		t.Skip("missing: kmod; install the package of that name")
	}
	image := collect(t, binary)
	pod := container(t, build(t, "iptables")).SecurityContext.Capabilities.Add
	for _, p := range table(pod) {
		t.Run(p.name, func(t *testing.T) {
			ended := make(chan error, 1)
			go func() {
				runtime.LockOSThread() // for good: the thread ends with the goroutine
				ended <- p.try(image)
			}()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}

// collect makes the image's root by the Dockerfile's script, with the manifests of
// the shop.
func collect(t *testing.T, binary string) string {
	t.Helper()
	image := t.TempDir()
	if out, err := exec.Command("sh", root+"/deploy/image/collect.sh", image).CombinedOutput(); err != nil {
		t.Fatalf("collect.sh: %v\n%s", err, out)
	}
	program, err := os.ReadFile(binary)
	check(t, err)
	check(t, os.MkdirAll(image+"/usr/local/bin", 0o755))
	check(t, os.WriteFile(image+"/usr/local/bin/kube-proxy", program, 0o755))
	check(t, os.CopyFS(image+"/var/lib/kube-proxy/shop", os.DirFS(root+"/examples/shop")))
	// To mount over: a container runtime makes them.
	check(t, os.WriteFile(image+"/run/xtables.lock", nil, 0o600))
	check(t, os.WriteFile(image+"/dev/null", nil, 0o600))
	return image
}

// try runs the program in namespaces of the calling thread, which is spoilt.
func (p privileges) try(image string) error {
	if err := p.enter(image); err != nil {
		return fmt.Errorf("prepare the container: %w", err)
	}
	if p.kubelet != "" {
		hint := exec.Command("iptables-"+p.kubelet, "-t", "mangle", "-N", "KUBE-IPTABLES-HINT")
		if out, err := hint.CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w: %s", hint.Args, err, out)
		}
	}
	if err := bound(p.capabilities); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	var log bytes.Buffer
	cmd := inside(image, &log, "--manifest=/var/lib/kube-proxy/shop",
		"--hostname-override=node-a", "--cluster-cidr=10.180.0.0/16")
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // the log says how it ended
	}()
	programmed := p.awaitRules(ended)
	_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	<-ended
	if err := p.judge(programmed, log.String()); err != nil || p.rules == "" {
		return err
	}
	if err := inside(image, &log, "cleanup").Run(); err != nil {
		return fmt.Errorf("cleanup: %w:\n%s", err, log.String())
	}
	if four, six := standing(p.rules); four || six {
		return fmt.Errorf("rules stand after cleanup: IPv4 %v, IPv6 %v:\n%s", four, six, log.String())
	}
	return nil
}

// inside is the program in the image.
func inside(image string, log io.Writer, args ...string) *exec.Cmd {
	cmd := exec.Command("/usr/local/bin/kube-proxy", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: image}
	cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Stdout, cmd.Stderr = log, log
	return cmd
}

// standing tells whether a flavour's tables hold rules for Services. It looks with
// the machine's own programs.
func standing(flavour string) (four, six bool) {
	hold := func(program string) bool {
		out, _ := exec.Command(program, "-t", "nat").Output() // fails where there is no table
		return bytes.Contains(out, []byte("-A KUBE-SERVICES "))
	}
	return hold("iptables-" + flavour + "-save"), hold("ip6tables-" + flavour + "-save")
}

// awaitRules waits until some flavour's tables hold rules for Services in both
// families, or the program has ended. It returns the flavour.
func (p privileges) awaitRules(ended <-chan struct{}) string {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		for _, flavour := range []string{"nft", "legacy"} {
			if four, six := standing(flavour); four && six {
				return flavour
			}
		}
		select {
		case <-ended:
			return ""
		case <-time.After(50 * time.Millisecond):
		}
	}
	return ""
}

func (p privileges) judge(programmed, log string) error {
	switch {
	case programmed != p.rules:
		return fmt.Errorf("rules are in the tables of %q, want %q; its log:\n%s", programmed, p.rules, log)
	case p.says != "" && !strings.Contains(log, p.says):
		return fmt.Errorf("it does not say %q; its log:\n%s", p.says, log)
	}
	return nil
}

// mount is one call of mount(2).
type mount struct {
	from, to, kind string
	flags          uintptr
}

// enter puts the calling thread into a network of its own, and makes of the image a
// container's root: nothing in it can be written but the xtables lock. Flavours that
// are not wanted are hidden.
func (p privileges) enter(image string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWNET); err != nil {
		return err
	}
	bind := func(from, to string) mount { return mount{from, image + to, "", unix.MS_BIND} }
	readOnly := func(at string) mount {
		return mount{"", image + at, "", unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY}
	}
	mounts := []mount{
		{"none", "/", "", unix.MS_REC | unix.MS_PRIVATE},
		bind(image, ""),
		bind(image+"/run/xtables.lock", "/run/xtables.lock"),
		bind("/dev/null", "/dev/null"),
		{"proc", image + "/proc", "proc", 0},
		bind(image+"/proc/sys", "/proc/sys"),
		readOnly("/proc/sys"),
	}
	for _, flavour := range []string{"nft", "legacy"} {
		if !slices.Contains(p.flavours, flavour) {
			mounts = append(mounts, bind("/dev/null", "/usr/sbin/xtables-"+flavour+"-multi"))
		}
	}
	for _, m := range append(mounts, readOnly("")) {
		if err := unix.Mount(m.from, m.to, m.kind, m.flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.to, err)
		}
	}
	if err := os.WriteFile(image+"/written", nil, 0o600); !errors.Is(err, unix.EROFS) {
		return fmt.Errorf("the root is not read-only: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// numbers are the kernel's numbers of the capabilities that rows name.
var numbers = map[corev1.Capability]uintptr{netAdmin: unix.CAP_NET_ADMIN, netRaw: unix.CAP_NET_RAW}

// bound leaves the programs that the calling thread starts no other capabilities,
// and no way to more: what a container runtime does for a container that drops ALL
// and may not escalate.
func bound(keep []corev1.Capability) error {
	last, err := lastCapability()
	if err != nil {
		return err
	}
	for c := range last + 1 {
		kept := slices.ContainsFunc(keep, func(k corev1.Capability) bool { n, ok := numbers[k]; return ok && n == c })
		if kept {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			return fmt.Errorf("capability %d: %w", c, err)
		}
	}
	return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
}

func lastCapability() (n uintptr, err error) {
	f, err := os.Open("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	if err != nil {
		return 0, err
	}
	_, err = fmt.Sscan(string(text), &n)
	return n, err
}
