package keeper

import (
	"errors"
	"fmt"
	"net"
	"time"
)

// answerTime bounds what a proxy waits for a keeper's answer.
const answerTime = 2 * time.Second

// Line is a proxy's connection with the keeper, about one set of sockets. That it stands
// tells the keeper that the proxy lives.
type Line struct {
	conn *net.UnixConn
	set  byte
}

// Dial finds the keeper of the calling thread's network namespace. set tells the sets of
// sockets of one port apart. An error means mostly that there is none.
func Dial(port uint16, set byte) (*Line, error) {
	c, err := net.DialUnix("unixpacket", nil, address(port))
	if err != nil {
		return nil, fmt.Errorf("find the keeper: %w", err)
	}
	if err := sameUser(c); err != nil {
		return nil, errors.Join(fmt.Errorf("find the keeper: %w", err), c.Close())
	}
	return &Line{c, set}, nil
}

// Ask returns the sockets that are kept, in the order in which they were given; none if
// there are none. They are the caller's.
func (l *Line) Ask() ([]int, error) {
	_ = l.conn.SetReadDeadline(time.Now().Add(answerTime))
	if err := send(l.conn, message{word: ask, set: l.set}); err != nil {
		return nil, fmt.Errorf("ask the keeper: %w", err)
	}
	m, err := receive(l.conn)
	if err != nil {
		return nil, fmt.Errorf("ask the keeper: %w", err)
	}
	if m.word != have || m.set != l.set {
		m.drop()
		return nil, fmt.Errorf("ask the keeper: it says %q", m.word)
	}
	return m.files, l.conn.SetReadDeadline(time.Time{})
}

// Keep gives sockets to the keeper, in place of those that it has.
func (l *Line) Keep(sockets ...int) error {
	return send(l.conn, message{keep, l.set, sockets})
}

// Serve tells that this proxy accepts from the sockets: another one that did retires.
func (l *Line) Serve() error { return send(l.conn, message{word: serve, set: l.set}) }

// Retire waits until another proxy serves. An error means that the keeper is gone, or
// the line was closed.
func (l *Line) Retire() error {
	for {
		m, err := receive(l.conn)
		if err != nil {
			return err
		}
		m.drop()
		if m.word == retire && m.set == l.set {
			return nil
		}
	}
}

// Close ends the line. The keeper goes on for a while.
func (l *Line) Close() { _ = l.conn.Close() }

// Dismiss ends the keeper, and reports whether there was one.
func Dismiss(port uint16) bool {
	l, err := Dial(port, 0)
	if err != nil {
		return false
	}
	defer l.Close()
	if send(l.conn, message{word: quit}) != nil {
		return false
	}
	_ = l.conn.SetReadDeadline(time.Now().Add(answerTime))
	_, err = receive(l.conn) // its end
	return err != nil
}
