package netlab

import (
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Alone puts the test's thread into a network namespace of its own, with lo up,
// until the test ends. The namespace has no name. Programs that the test starts
// inherit it; subtests and goroutines stay outside. Skips where it may not.
func Alone(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces")
	}
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Set(home); err != nil {
			t.Errorf("return from the test's namespace: %v", err)
			return // the thread stays locked and dies with its goroutine
		}
		_, _ = fresh.Close(), home.Close()
		runtime.UnlockOSThread()
	})
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
}
