package ruleset

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// DeleteTable deletes a table of nftables of the tool's family, with all that is in it,
// and reports whether there was one. The name is that of a table which no iptables
// program made. Legacy: ErrUnsupported.
func (t *Tool) DeleteTable(name string) (deleted bool, err error) {
	err = t.query(func(q *query) error {
		if there, err := q.hasTable(name); !there || err != nil {
			return err
		}
		err := q.deleteTable(name)
		deleted = err == nil
		if errors.Is(err, unix.ENOENT) {
			return nil // somebody was faster
		}
		return err
	})
	if err != nil {
		return false, fmt.Errorf("delete table %s %s: %w", t.family, name, err)
	}
	return deleted, nil
}

func (q *query) hasTable(name string) (bool, error) {
	err := q.talk(unix.NFT_MSG_GETTABLE, unix.NLM_F_ACK, []string{name}, func([]byte) {})
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, err
}

// deleteTable is a transaction of its own: a write stands between two marks.
func (q *query) deleteTable(name string) error {
	q.seq += 3
	b := appendMessage(nil, message{kind: unix.NFNL_MSG_BATCH_BEGIN, seq: q.seq - 2, resource: unix.NFNL_SUBSYS_NFTABLES})
	b = appendMessage(b, message{kind: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELTABLE, flags: unix.NLM_F_ACK,
		seq: q.seq - 1, family: q.family, attrs: appendName(nil, unix.NFTA_TABLE_NAME, name)})
	b = appendMessage(b, message{kind: unix.NFNL_MSG_BATCH_END, seq: q.seq, resource: unix.NFNL_SUBSYS_NFTABLES})
	if _, err := unix.Write(q.fd, b); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	n, err := unix.Read(q.fd, q.answer)
	if err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	got := answers{seq: q.seq - 1, each: func([]byte) {}}
	if err := got.read(q.answer[:n]); err != nil || got.done {
		return err
	}
	return errors.New("the transaction was refused")
}

// message is one of a transaction.
type message struct {
	kind, flags uint16
	seq         uint32
	family      byte
	resource    uint16
	attrs       []byte
}

func appendMessage(b []byte, m message) []byte {
	order := binary.NativeEndian
	b = order.AppendUint32(b, uint32(nfHeader+len(m.attrs)))
	b = order.AppendUint16(b, m.kind)
	b = order.AppendUint16(b, unix.NLM_F_REQUEST|m.flags)
	b = order.AppendUint32(b, m.seq)
	b = order.AppendUint32(b, 0) // from nobody in particular
	b = append(b, m.family, unix.NFNETLINK_V0)
	b = binary.BigEndian.AppendUint16(b, m.resource)
	return append(b, m.attrs...)
}
