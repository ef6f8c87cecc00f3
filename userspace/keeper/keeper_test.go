package keeper

import (
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// open starts a keeper in this process, on a name of its own. ended is closed at its end.
func open(t *testing.T, patience time.Duration) (port uint16, ended chan struct{}) {
	t.Helper()
	port = uint16(20000 + os.Getpid()%20000)
	door, err := Listen(port)
	if err != nil {
		t.Fatal(err)
	}
	ended = make(chan struct{})
	go func() {
		Serve(door, patience)
		close(ended)
	}()
	t.Cleanup(func() { _ = door.Close(); <-ended })
	return port, ended
}

func dial(t *testing.T, port uint16) *Line {
	t.Helper()
	l, err := Dial(port, 4)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// TestSuccession: what one proxy gives, another gets, after the first is gone: the
// listener takes connections all the time. The one that served before is told when
// another does.
func TestSuccession(t *testing.T) {
	port, _ := open(t, time.Minute)
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	file, err := ln.File()
	if err != nil {
		t.Fatal(err)
	}
	first := dial(t, port)
	if fds, err := first.Ask(); err != nil || len(fds) != 0 {
		t.Fatalf("a new keeper has %v, %v", fds, err)
	}
	if err := first.Keep(int(file.Fd())); err != nil {
		t.Fatal(err)
	}
	if err := first.Serve(); err != nil {
		t.Fatal(err)
	}
	second := dial(t, port)
	fds, err := second.Ask()
	for end := time.Now().Add(5 * time.Second); err == nil && len(fds) == 0 && time.Now().Before(end); fds, err = second.Ask() {
		time.Sleep(10 * time.Millisecond) // what the first said may still be on its way
	}
	if err != nil || len(fds) != 1 {
		t.Fatalf("it gives %v, %v", fds, err)
	}
	(&message{files: fds}).drop()
	if err := second.Serve(); err != nil {
		t.Fatal(err)
	}
	if err := first.Retire(); err != nil {
		t.Errorf("the first is not told: %v", err)
	}
	first.Close()
	second.Close()
	_, _ = file.Close(), ln.Close()
	if _, err := net.DialTimeout("tcp", ln.Addr().String(), time.Second); err != nil {
		t.Fatalf("while no proxy is there: %v", err)
	}
	fds, err = dial(t, port).Ask()
	if err != nil || len(fds) != 1 {
		t.Fatalf("the third gets %v, %v", fds, err)
	}
	defer unix.Close(fds[0])
	if c, _, err := unix.Accept(fds[0]); err != nil {
		t.Errorf("what waited is not there: %v", err)
	} else {
		_ = unix.Close(c)
	}
}

// TestEnd: a keeper ends when nobody is there for its patience, and not while a proxy
// is; and when it is told to.
func TestEnd(t *testing.T) {
	port, ended := open(t, 200*time.Millisecond)
	l := dial(t, port)
	select {
	case <-ended:
		t.Fatal("it ended while a proxy is there")
	case <-time.After(500 * time.Millisecond):
	}
	l.Close()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Fatal("it does not end")
	}
	port, ended = open(t, time.Minute)
	if !Dismiss(port) {
		t.Error("there was none to dismiss")
	}
	<-ended
	if Dismiss(port) {
		t.Error("there are two")
	}
}

// TestStranger: another user of the node is not answered.
func TestStranger(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to become another user")
	}
	port, _ := open(t, time.Minute)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	owner := dial(t, port)
	if err := owner.Keep(int(null.Fd())); err != nil {
		t.Fatal(err)
	}
	got := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
			t.Error(errno)
		}
		got <- askAs(t, port)
	}()
	if err := <-got; err == nil {
		t.Error("a stranger was answered")
	}
	fds, err := owner.Ask()
	if err != nil || len(fds) != 1 {
		t.Errorf("the owner gets %v, %v", fds, err)
	}
	(&message{files: fds}).drop()
}

// askAs asks without a look at who is there: a stranger does not care.
func askAs(t *testing.T, port uint16) error {
	c, err := net.DialUnix("unixpacket", nil, address(port))
	if err != nil {
		t.Errorf("anybody may use the name: %v", err)
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	_ = send(c, message{word: ask, set: 4})
	m, err := receive(c)
	if err == nil || os.IsTimeout(err) {
		t.Errorf("it says %q, with %d sockets, %v", m.word, len(m.files), err)
	}
	m.drop()
	return err
}
