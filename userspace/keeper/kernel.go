package keeper

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Verb is the argument that makes the program a keeper. It is no verb for people.
const Verb = "keep-sockets"

// Command is how the running program starts a keeper: itself, also if its file has been
// replaced since.
func Command() []string { return []string{"/proc/self/exe", Verb} }

// doorFile is the number under which a keeper finds its door.
const doorFile = 3

// Listen makes the door in the calling thread's network namespace. The error is
// EADDRINUSE if there is a keeper.
func Listen(port uint16) (*net.UnixListener, error) {
	return net.ListenUnix("unixpacket", address(port))
}

// Start starts a keeper with a command, unless there is one. It has no file of the
// caller but the door, its own session, and little memory.
func Start(port uint16, command []string) error {
	door, err := Listen(port)
	if errors.Is(err, unix.EADDRINUSE) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("start a keeper: %w", err)
	}
	defer door.Close()
	file, err := door.File()
	if err != nil {
		return fmt.Errorf("start a keeper: %w", err)
	}
	defer file.Close()
	p, err := os.StartProcess(command[0], append([]string{"kube-proxy-keeper"}, command[1:]...), &os.ProcAttr{
		Dir: "/", Files: []*os.File{nil, nil, nil, file}, Sys: &syscall.SysProcAttr{Setsid: true},
		Env: []string{"GOMAXPROCS=1", "GOGC=20", "GOMEMLIMIT=8MiB"},
	})
	if err != nil {
		return fmt.Errorf("start a keeper: %w", err)
	}
	go func() { _, _ = p.Wait() }()
	return nil
}

// Main is the whole life of a keeper's process.
func Main() error {
	if err := closeInherited(); err != nil {
		return fmt.Errorf("keep sockets: %w", err)
	}
	file := os.NewFile(doorFile, "door")
	l, err := net.FileListener(file)
	_ = file.Close()
	if err != nil {
		return fmt.Errorf("keep sockets: this is done by the proxy in userspace mode, not by hand: %w", err)
	}
	door, ok := l.(*net.UnixListener)
	if !ok {
		return errors.Join(errors.New("keep sockets: the door is none"), l.Close())
	}
	dropPrivileges()
	Serve(door, Patience)
	return nil
}

// closeInherited closes what the proxy got from whoever started it, and did not open
// itself: that does not pass an exec.
func closeInherited() error {
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, entry := range open {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil || fd <= doorFile {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			_ = unix.Close(fd)
		}
	}
	return nil
}

// dropPrivileges gives up every capability, in all threads, for good. Holding a socket
// takes none. It is a precaution: where the kernel does not let it, it goes without.
func dropPrivileges() {
	_, _, _ = syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	for c := range uintptr(unix.CAP_LAST_CAP + 1) {
		_, _, _ = syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var nothing [2]unix.CapUserData
	_, _, _ = syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&nothing)), 0)
}
