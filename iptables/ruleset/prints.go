package ruleset

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"iter"

	"golang.org/x/sys/unix"

	"switchyard/proxier"
)

// Prints reads a fingerprint of the rules of each chain, in order, as the kernel
// holds them; a chain that does not exist is not in the map. Two prints of a chain
// are equal if its rules are: counters, handles and what a match keeps while packets
// pass are left out. Prints of two chains are not to be compared.
//
// It runs no program and takes 20 us for a chain of three rules at any size of the table, since the
// kernel finds a chain that is asked for by name in a hash table
// (nf_tables_dump_rules in net/netfilter/nf_tables_api.c). The legacy kernel only
// gives whole tables, which is what Save does: there the error is ErrUnsupported.
func (t *Tool) Prints(table string, chains []string) (map[string]uint64, error) {
	prints := make(map[string]uint64, len(chains))
	err := t.query(func(q *query) error {
		h := fnv.New64a()
		for _, chain := range chains {
			rules := 0
			err := q.dump(unix.NFT_MSG_GETRULE, []string{table, chain}, func() { h.Reset(); rules = 0 },
				func(rule []byte) { hashRule(h, rule); rules++ })
			if err != nil {
				return fmt.Errorf("chain %s: %w", chain, err)
			}
			stands := rules > 0
			if !stands { // the kernel answers alike for a chain that does not exist
				if stands, err = q.hasChain(table, chain); err != nil {
					return fmt.Errorf("chain %s: %w", chain, err)
				}
			}
			if stands {
				prints[chain] = h.Sum64()
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read prints of table %s: %w", table, err)
	}
	return prints, nil
}

// RulePrints is Prints of each rule of one chain, in order; nil if there is none.
func (t *Tool) RulePrints(table, chain string) (prints []uint64, err error) {
	err = t.query(func(q *query) error {
		return q.dump(unix.NFT_MSG_GETRULE, []string{table, chain}, func() { prints = nil }, func(rule []byte) {
			h := fnv.New64a()
			hashRule(h, rule)
			prints = append(prints, h.Sum64())
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read prints of chain %s %s: %w", table, chain, err)
	}
	return prints, nil
}

// Chains lists the chains of a table, in the kernel's order: 2 us for each chain of
// the family. Legacy: ErrUnsupported, as with Prints.
func (t *Tool) Chains(table string) (chains []string, err error) {
	err = t.query(func(q *query) error {
		return q.dump(unix.NFT_MSG_GETCHAIN, nil, func() { chains = nil }, func(chain []byte) {
			if text(chain, unix.NFTA_CHAIN_TABLE) == table {
				chains = append(chains, text(chain, unix.NFTA_CHAIN_NAME))
			}
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list chains of table %s: %w", table, err)
	}
	return chains, nil
}

// query is a conversation with nf_tables about one family.
type query struct {
	fd     int
	family byte
	seq    uint32
	ask    []byte
	answer []byte
}

// query opens a conversation in the calling thread's network namespace.
func (t *Tool) query(talk func(*query) error) error {
	if t.flavour != NFT {
		return fmt.Errorf("flavour %s: %w", t.flavour, errors.ErrUnsupported)
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("open netlink socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	// The kernel answers within the call; the bound is for a kernel that does not.
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		return fmt.Errorf("set time-out: %w", err)
	}
	// The kernel fills at most 32 KiB of what it is offered (netlink_recvmsg).
	q := &query{fd: fd, family: unix.NFPROTO_IPV4, answer: make([]byte, 64<<10)}
	if t.family == proxier.IPv6 {
		q.family = unix.NFPROTO_IPV6
	}
	return talk(q)
}

// maxInterrupted is how often a dump is asked for anew because somebody wrote
// meanwhile. One of a chain takes 20 us, one of all chains 50 ms at 30,000.
const maxInterrupted = 20

var errInterrupted = errors.New("somebody writes to the tables all the time")

// dump asks for what the names select, calling start, and then each with the
// attributes of every object; both again if somebody wrote meanwhile.
func (q *query) dump(kind int, names []string, start func(), each func(attrs []byte)) error {
	err := errInterrupted
	for i := 0; i < maxInterrupted && errors.Is(err, errInterrupted); i++ {
		start()
		err = q.talk(kind, unix.NLM_F_DUMP, names, each)
	}
	return err
}

// hasChain reports whether a chain exists.
func (q *query) hasChain(table, chain string) (bool, error) {
	err := q.talk(unix.NFT_MSG_GETCHAIN, unix.NLM_F_ACK, []string{table, chain}, func([]byte) {})
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, err
}

// talk sends one request and reads its answers to the end. names are the attributes
// 1, 2, …: the table and the name of a chain in both, NFTA_RULE_ and NFTA_CHAIN_.
func (q *query) talk(kind, flags int, names []string, each func(attrs []byte)) error {
	q.seq++
	names = names[:min(len(names), 2)]
	b := append(q.ask[:0], make([]byte, nfHeader)...)
	binary.NativeEndian.PutUint16(b[4:], uint16(unix.NFNL_SUBSYS_NFTABLES<<8|kind))
	binary.NativeEndian.PutUint16(b[6:], uint16(unix.NLM_F_REQUEST|flags))
	binary.NativeEndian.PutUint32(b[8:], q.seq)
	b[unix.SizeofNlMsghdr] = q.family
	for i, name := range names {
		b = appendName(b, nameAttrs(kind)[i], name)
	}
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	q.ask = b
	if _, err := unix.Write(q.fd, b); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	interrupted := false
	for {
		n, err := unix.Read(q.fd, q.answer)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		got := answers{seq: q.seq, each: each}
		err = got.read(q.answer[:n])
		interrupted = interrupted || got.interrupted
		switch {
		case err != nil:
			return err
		case got.done && interrupted:
			return errInterrupted
		case got.done:
			return nil
		}
	}
}

// nameAttrs are the attributes for the table's and the chain's name.
func nameAttrs(kind int) [2]uint16 {
	if kind == unix.NFT_MSG_GETRULE {
		return [2]uint16{unix.NFTA_RULE_TABLE, unix.NFTA_RULE_CHAIN}
	}
	return [2]uint16{unix.NFTA_CHAIN_TABLE, unix.NFTA_CHAIN_NAME}
}

// appendName appends an attribute with a string.
func appendName(b []byte, kind uint16, name string) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofNlAttr+len(name)+1))
	b = append(append(binary.NativeEndian.AppendUint16(b, kind), name...), 0)
	for len(b)%unix.NLA_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

// answers reads the messages of a receive that answer one request.
type answers struct {
	seq  uint32
	each func(attrs []byte)

	done        bool // the last one was there
	interrupted bool // the tables changed since the one before
}

func (a *answers) read(b []byte) error {
	for len(b) > 0 && !a.done {
		if len(b) < unix.SizeofNlMsghdr {
			return errors.New("answer is cut short")
		}
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return errors.New("answer is cut short")
		}
		if binary.NativeEndian.Uint32(b[8:]) == a.seq {
			if err := a.message(b[:size]); err != nil {
				return err
			}
		}
		b = b[min(len(b), (size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
	}
	return nil
}

// message reads one message, of the size that its header says.
func (a *answers) message(msg []byte) error {
	kind, flags := binary.NativeEndian.Uint16(msg[4:]), binary.NativeEndian.Uint16(msg[6:])
	a.interrupted = a.interrupted || flags&unix.NLM_F_DUMP_INTR != 0
	if len(msg) < nfHeader {
		return errors.New("answer is cut short")
	}
	if kind != unix.NLMSG_ERROR && kind != unix.NLMSG_DONE {
		a.each(msg[nfHeader:])
		return nil
	}
	// Both begin with an error, 0 for none.
	errno := unix.Errno(-int32(binary.NativeEndian.Uint32(msg[unix.SizeofNlMsghdr:])))
	a.done = true
	switch errno {
	case 0:
		return nil
	case unix.EINTR: // a change of the kernel's own while it read
		return errInterrupted
	case unix.EPERM:
		return fmt.Errorf("the capability NET_ADMIN is needed: %w", errno)
	}
	return fmt.Errorf("answer: %w", errno)
}

// hashRule writes the content of a rule. Its handle, the one before it, and counters
// change without it.
func hashRule(h interface{ Write([]byte) (int, error) }, rule []byte) {
	for kind, attr := range attributes(rule) {
		switch kind {
		case unix.NFTA_RULE_HANDLE, unix.NFTA_RULE_POSITION:
		case unix.NFTA_RULE_EXPRESSIONS:
			for _, expr := range attributes(attr[unix.SizeofNlAttr:]) {
				if string(body(expr[unix.SizeofNlAttr:], unix.NFTA_EXPR_NAME)) != "counter" {
					_, _ = h.Write(expr)
				}
			}
		default:
			_, _ = h.Write(attr)
		}
	}
	_, _ = h.Write([]byte{0}) // no attribute begins so: lengths are 4 or more
}

// attributes yields kind and bytes, the header included, of each attribute.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofNlAttr {
			size := int(binary.NativeEndian.Uint16(b))
			if size < unix.SizeofNlAttr || size > len(b) {
				return
			}
			kind := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
			if !yield(kind, b[:size]) {
				return
			}
			b = b[min(len(b), (size+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1)):]
		}
	}
}

// text is the string of one attribute, "" if there is none.
func text(attrs []byte, kind uint16) string { return string(body(attrs, kind)) }

// body is text without a copy.
func body(attrs []byte, kind uint16) []byte {
	for k, attr := range attributes(attrs) {
		if b := attr[unix.SizeofNlAttr:]; k == kind && len(b) > 0 {
			return b[:len(b)-1]
		}
	}
	return nil
}
