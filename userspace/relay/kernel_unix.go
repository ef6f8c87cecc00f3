package relay

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// sendSockets gives the listeners to a process of the same user.
func sendSockets(c *net.UnixConn, r *Relay) error {
	if err := sameUser(c); err != nil {
		return err
	}
	udp, err := r.udp.conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("hand over sockets: %w", err)
	}
	var sent error
	err = udp.Control(func(fd uintptr) {
		_, _, sent = c.WriteMsgUnix([]byte{0}, unix.UnixRights(int(r.tcp), int(fd)), nil)
	})
	return errors.Join(err, sent)
}

// receiveSockets gets the listeners: TCP, UDP.
func receiveSockets(c *net.UnixConn) ([]int, error) {
	if err := sameUser(c); err != nil {
		return nil, err
	}
	if err := c.SetReadDeadline(time.Now().Add(handPatience)); err != nil {
		return nil, err
	}
	buf, control := make([]byte, 1), make([]byte, 64)
	_, n, _, _, err := c.ReadMsgUnix(buf, control)
	if err != nil {
		return nil, fmt.Errorf("take over sockets: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("take over sockets: %d messages: %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, fmt.Errorf("take over sockets: %w", err)
	}
	if len(fds) != 2 {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
		return nil, fmt.Errorf("take over sockets: %d were sent, not 2", len(fds))
	}
	return fds, c.SetReadDeadline(time.Time{})
}

// sameUser keeps strangers from our listeners, and us from theirs: anybody on the node
// may use the name.
func sameUser(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) {
		peer, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if failed != nil {
		return fmt.Errorf("ask who is there: %w", failed)
	}
	if int(peer.Uid) != os.Geteuid() {
		return fmt.Errorf("user %d is there, not %d", peer.Uid, os.Geteuid())
	}
	return nil
}
