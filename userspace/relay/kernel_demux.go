package relay

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// earlyDemux is a switch of the network namespace, for both families.
const earlyDemux = "/proc/sys/net/ipv4/tcp_early_demux"

// LetPortsClash makes connects safe that come to the one listener from the same address
// and port, as of a client that asks two services: conntrack gives the second one
// another port, but kernels before 6.4 have found the first one's socket by then
// ("early demux"), which does not answer a SYN, and the connect times out. It turns that
// look-up off, which saves a kernel a little of the time for each packet. did says what
// was done; "" if nothing had to be.
func LetPortsClash() (did string, err error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "", fmt.Errorf("ask for the kernel's version: %w", err)
	}
	if !clashes(unix.ByteSliceToString(name.Release[:])) {
		return "", nil
	}
	text, err := os.ReadFile(earlyDemux)
	if err != nil || strings.TrimSpace(string(text)) == "0" {
		return "", nil // it has none, or it is off
	}
	if err := os.WriteFile(earlyDemux, []byte("0"), 0); err != nil {
		return "", fmt.Errorf("connects of clients that use one port for two services may time out: set sysctl net.ipv4.tcp_early_demux to 0: %w", err)
	}
	return "sysctl net.ipv4.tcp_early_demux is 0", nil
}

// clashes reports whether a release of the kernel is older than 6.4.
func clashes(release string) bool {
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return true
	}
	return major < 6 || major == 6 && minor < 4
}
