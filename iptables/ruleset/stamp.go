package ruleset

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"switchyard/proxier"
)

// Stamp is a fingerprint of the kernel's tables. Two stamps of one Tool compare
// with ==. Reading one costs a few microseconds at any size of the tables.
//
// nft: equal stamps mean that nobody wrote. The generation counts every transaction
// on any nftables table of the namespace, of both families and of other programs,
// so a different stamp only means that somebody may have written ours.
//
// legacy: the size and the hooks of tables nat, filter and mangle of the family. An
// insert, a delete or a flush shows; the replacement of a rule by one of equal size
// does not, nor do two changes that undo each other's size.
type Stamp struct {
	generation uint32
	tables     [3]xtTable
}

// xtTable is struct ipt_getinfo without its name (linux/netfilter_ipv4/ip_tables.h);
// that of IPv6 is the same. All zero if the kernel has not made the table yet.
type xtTable struct {
	validHooks uint32
	hookEntry  [5]uint32
	underflow  [5]uint32
	numEntries uint32
	size       uint32 // bytes
}

// stampTables are the tables that a legacy stamp covers.
var stampTables = [3]string{"nat", "filter", "mangle"}

// Stamp reads the fingerprint of the calling thread's network namespace. It changes
// nothing, needs NET_ADMIN, and runs no program.
func (t *Tool) Stamp() (Stamp, error) {
	if t.flavour == NFT {
		generation, err := nftGeneration()
		if err != nil {
			return Stamp{}, fmt.Errorf("read nftables generation: %w", err)
		}
		return Stamp{generation: generation}, nil
	}
	tables, err := xtTables(t.family)
	if err != nil {
		return Stamp{}, fmt.Errorf("read sizes of legacy tables: %w", err)
	}
	return Stamp{tables: tables}, nil
}

// nfHeader is the length of struct nlmsghdr with struct nfgenmsg after it.
const nfHeader = unix.SizeofNlMsghdr + 4

// nftGeneration asks for the namespace's generation id: one NFT_MSG_GETGEN.
func nftGeneration() (uint32, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return 0, fmt.Errorf("open netlink socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	// The kernel answers within the send; the bound is for a kernel that does not.
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		return 0, fmt.Errorf("set time-out: %w", err)
	}
	request := make([]byte, nfHeader)
	binary.NativeEndian.PutUint32(request, uint32(len(request)))
	binary.NativeEndian.PutUint16(request[4:], unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN)
	binary.NativeEndian.PutUint16(request[6:], unix.NLM_F_REQUEST)
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, fmt.Errorf("send: %w", err)
	}
	var buf [512]byte
	n, _, err := unix.Recvfrom(fd, buf[:], 0)
	if err != nil {
		return 0, fmt.Errorf("receive: %w", err)
	}
	return parseGeneration(buf[:n])
}

// parseGeneration reads NFTA_GEN_ID from the answer, or the kernel's error.
func parseGeneration(msg []byte) (uint32, error) {
	if len(msg) < nfHeader {
		return 0, fmt.Errorf("answer of %d bytes is too short", len(msg))
	}
	if binary.NativeEndian.Uint16(msg[4:]) == unix.NLMSG_ERROR {
		errno := unix.Errno(-int32(binary.NativeEndian.Uint32(msg[unix.SizeofNlMsghdr:])))
		if errno == unix.EPERM {
			return 0, fmt.Errorf("the capability NET_ADMIN is needed: %w", errno)
		}
		return 0, fmt.Errorf("answer: %w", errno)
	}
	attrs := msg[nfHeader:]
	for len(attrs) >= unix.SizeofNlAttr {
		size := int(binary.NativeEndian.Uint16(attrs))
		if size < unix.SizeofNlAttr || size > len(attrs) {
			break
		}
		if binary.NativeEndian.Uint16(attrs[2:]) == unix.NFTA_GEN_ID && size >= 8 {
			return binary.BigEndian.Uint32(attrs[4:]), nil
		}
		attrs = attrs[min(len(attrs), (size+3)&^3):]
	}
	return 0, errors.New("answer has no generation id")
}

// getInfoOption is IPT_SO_GET_INFO and IP6T_SO_GET_INFO.
const getInfoOption = 64

// xtTables reads the three tables of a family, leaving out those that the kernel has
// not made: to ask for one would make it.
func xtTables(family proxier.Family) (tables [3]xtTable, err error) {
	domain, level, names := unix.AF_INET, unix.SOL_IP, "ip_tables_names"
	if family == proxier.IPv6 {
		domain, level, names = unix.AF_INET6, unix.SOL_IPV6, "ip6_tables_names"
	}
	// Not /proc/net, which is the namespace of the process's first thread.
	text, err := os.ReadFile("/proc/thread-self/net/" + names)
	if errors.Is(err, fs.ErrNotExist) {
		return tables, nil
	}
	if err != nil {
		return tables, err
	}
	present := strings.Fields(string(text))
	if len(present) == 0 {
		return tables, nil
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return tables, fmt.Errorf("open socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	for i, name := range stampTables {
		if !slices.Contains(present, name) {
			continue
		}
		if tables[i], err = getInfo(fd, level, name); err != nil {
			return tables, fmt.Errorf("table %s: %w", name, err)
		}
	}
	return tables, nil
}

// getInfo is getsockopt IPT_SO_GET_INFO: the kernel reads the name from the buffer
// and writes the rest.
func getInfo(fd, level int, table string) (xtTable, error) {
	var info struct {
		name [32]byte
		xtTable
	}
	copy(info.name[:31], table)
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), getInfoOption,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno == unix.EPERM {
		return xtTable{}, fmt.Errorf("the capability NET_ADMIN is needed: %w", errno)
	}
	if errno != 0 {
		return xtTable{}, errno
	}
	return info.xtTable, nil
}

// LegacyTables reports whether the kernel has made one of some legacy tables, which
// may then hold rules. To look into one that it has not made would make it.
func LegacyTables(family proxier.Family, tables ...string) bool {
	name := "ip_tables_names"
	if family == proxier.IPv6 {
		name = "ip6_tables_names"
	}
	// Not /proc/net, which is the namespace of the process's first thread.
	text, err := os.ReadFile("/proc/thread-self/net/" + name)
	if err != nil {
		return false // the kernel has no legacy tables at all
	}
	present := strings.Fields(string(text))
	return slices.ContainsFunc(tables, func(t string) bool { return slices.Contains(present, t) })
}
