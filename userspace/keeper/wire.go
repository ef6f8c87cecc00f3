package keeper

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// A message is one packet: what it says, and of which set of sockets; files may come
// with it. Keepers outlive updates: the words stay what they are.
const (
	ask    = 'a' // proxy: which sockets are there? answered by have, with those
	have   = 'h' // keeper
	keep   = 'k' // proxy: hold these
	serve  = 's' // proxy: I accept from now on; who did before may retire
	retire = 'r' // keeper: another proxy accepts
	quit   = 'q' // proxy: let go of all, and end
)

// maxFiles is how many files come with one message: a TCP listener and a UDP socket.
const maxFiles = 2

type message struct {
	word, set byte
	files     []int
}

func address(port uint16) *net.UnixAddr {
	return &net.UnixAddr{Name: fmt.Sprintf("@switchyard-relay-%d", port), Net: "unixpacket"}
}

func send(c *net.UnixConn, m message) error {
	var rights []byte
	if len(m.files) > 0 {
		rights = unix.UnixRights(m.files...)
	}
	if _, _, err := c.WriteMsgUnix([]byte{m.word, m.set}, rights, nil); err != nil {
		return fmt.Errorf("send %q: %w", m.word, err)
	}
	return nil
}

// receive waits for a message. Its files are the caller's.
func receive(c *net.UnixConn) (message, error) {
	var text [2]byte
	control := make([]byte, unix.CmsgSpace(4*maxFiles))
	n, size, _, _, err := c.ReadMsgUnix(text[:], control)
	if err != nil {
		return message{}, err
	}
	files, err := filesIn(control[:size])
	m := message{text[0], text[1], files}
	if err == nil && n != len(text) {
		err = fmt.Errorf("a message of %d bytes", n)
	}
	if err != nil {
		m.drop()
		return message{}, fmt.Errorf("receive: %w", err)
	}
	return m, nil
}

func filesIn(control []byte) (files []int, err error) {
	parts, err := unix.ParseSocketControlMessage(control)
	for i := range parts {
		some, failed := unix.ParseUnixRights(&parts[i])
		files, err = append(files, some...), errors.Join(err, failed)
	}
	for _, f := range files {
		unix.CloseOnExec(f)
	}
	return files, err
}

// drop closes the files of a message that nobody wants.
func (m *message) drop() {
	for _, f := range m.files {
		_ = unix.Close(f)
	}
	m.files = nil
}

// sameUser keeps strangers from our sockets, and us from theirs: anybody on the node
// may use the name.
func sameUser(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		peer, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, failed); err != nil {
		return fmt.Errorf("ask who is there: %w", err)
	}
	if int(peer.Uid) != os.Geteuid() {
		return fmt.Errorf("user %d is there, not %d", peer.Uid, os.Geteuid())
	}
	return nil
}
