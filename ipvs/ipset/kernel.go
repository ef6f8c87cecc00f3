package ipset

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"switchyard/ipvs/bounded"
)

const defaultTimeout = 5 * time.Second

// Options are those of Open.
type Options struct {
	// Timeout bounds the wait for one answer of the kernel. 0: 5 s.
	Timeout time.Duration
}

// Kernel is the kernel's sets, of the network namespace in which it was opened. Its
// methods may be called from several goroutines; they go to the kernel one after
// the other, and each waits no longer than Options.Timeout for an answer. After
// ErrNoAnswer the next call connects again, in the network namespace of its thread.
type Kernel struct {
	line       *bounded.Line[*bounded.Socket]
	operations atomic.Int64

	mu    sync.Mutex
	known map[string]Set // what was written or read last; spares a question before a change
}

// Open finds ipset in the kernel and writes nothing. ErrNoModule: there is none; an
// error that is fs.ErrPermission: CAP_NET_ADMIN is missing.
func Open(o Options) (*Kernel, error) {
	timeout := o.Timeout
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	k := newKernel(timeout, func() (*bounded.Socket, error) { return bounded.Open(unix.NETLINK_NETFILTER, timeout) })
	if err := k.ask(command(cmdProtocol, 0), func([]byte) {}); err != nil {
		k.Close()
		// Netfilter has nobody who knows such messages, or takes none at all.
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPROTONOSUPPORT) {
			err = fmt.Errorf("%w: %w", ErrNoModule, err)
		}
		return nil, failed("open", "", err)
	}
	return k, nil
}

func newKernel(timeout time.Duration, open func() (*bounded.Socket, error)) *Kernel {
	return &Kernel{line: bounded.NewLine(timeout, open), known: map[string]Set{}}
}

// Close ends the use of the kernel and leaves its sets as they are.
func (k *Kernel) Close() { k.line.Close() }

// Operations is the number of messages that wrote so far, failed ones included.
// One message holds up to 200 entries of one set.
func (k *Kernel) Operations() int64 { return k.operations.Load() }

// Sets returns all sets, sorted by name, foreign ones included. Those of types that
// this package does not know are there, too.
func (k *Kernel) Sets() ([]Set, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	headers, err := k.headers("")
	if err != nil {
		return nil, failed("list", "", err)
	}
	sets := make([]Set, len(headers))
	for i, h := range headers {
		sets[i] = h.Set
	}
	slices.SortFunc(sets, func(a, b Set) int { return cmp.Compare(a.Name, b.Name) })
	return sets, nil
}

// Entries returns the entries of a set, in the kernel's order. ErrNoSet: there is none.
func (k *Kernel) Entries(name string) ([]Entry, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	entries, err := k.entries(name)
	return entries, failed("list", name, err)
}

// Create makes a set. One that exists is kept with its entries; if it is too small,
// or has other options, a new one with the same entries takes its place at once,
// also in the rules that refer to it. ErrForeign: the name belongs to a set of
// another type or family, which is left alone.
func (k *Kernel) Create(s Set) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	s = s.normal()
	err := s.check()
	if err == nil {
		err = k.ensure(s)
	}
	return failed("create", s.Name, err)
}

func (k *Kernel) ensure(s Set) error {
	h, err := k.header(s.Name)
	switch {
	case errors.Is(err, ErrNoSet):
		return k.create(s)
	case err != nil:
		return err
	case !h.sameKind(s):
		return fmt.Errorf("%w: %s %s", ErrForeign, h.Type, h.Family)
	case h.fits(s):
		return nil
	}
	s.MaxElem = max(s.MaxElem, h.MaxElem)
	return k.rebuild(s)
}

func (k *Kernel) create(s Set) error {
	revision, err := k.revision(s)
	if err == nil {
		err = k.write(create(s, revision))
	}
	if errors.Is(err, errFindType) {
		return fmt.Errorf("%w: %s: load the module %s: %w", ErrNoType, s.Type, s.Type.module(), err)
	}
	if err == nil {
		k.known[s.Name] = s
	}
	return err
}

// revision is the lowest revision of a set's type that will do.
func (k *Kernel) revision(s Set) (byte, error) {
	var lowest, highest byte
	err := k.ask(revisions(s), func(data []byte) { lowest, highest = parseRevisions(data) })
	if err != nil {
		return 0, err
	}
	revision := max(s.revision(), lowest)
	if revision > highest {
		return 0, fmt.Errorf("%w: %s needs revision %d, and the kernel has %d", ErrNoType, s.Type, revision, highest)
	}
	return revision, nil
}

// rebuild puts a new set with the same entries into the place of an old one. Packets
// find the old one or the new one, never a part.
func (k *Kernel) rebuild(s Set) error {
	entries, err := k.entries(s.Name)
	if err != nil {
		return err
	}
	fresh := s
	fresh.Name = Temporary(s.Name)
	if !s.SKBInfo {
		for i := range entries {
			entries[i].Mark = 0
		}
	}
	if err := ignore(k.write(named(cmdDestroy, fresh.Name)), ErrNoSet); err != nil {
		return err
	}
	if err := k.create(fresh); err != nil {
		return err
	}
	err = k.send(changes(cmdAdd, fresh, entries), entries).err
	if err == nil {
		err = k.write(swap(fresh.Name, s.Name))
	}
	if err == nil {
		k.known[s.Name] = s
	}
	delete(k.known, fresh.Name)
	return errors.Join(err, k.write(named(cmdDestroy, fresh.Name)))
}

// Change adds and deletes entries. One that is there already, or gone already, is no
// error; adding one with another mark changes its mark. An entry in both lists is
// added. A full set grows. ErrFull: it cannot; all that fits is in, and nothing is
// deleted. An error about one entry names it; the others may be in or not.
func (k *Kernel) Change(name string, add, del []Entry) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	err := k.change(name, add, del)
	if err != nil {
		delete(k.known, name)
	}
	return failed("change", name, err)
}

func (k *Kernel) change(name string, add, del []Entry) error {
	if len(add)+len(del) == 0 {
		return nil
	}
	s, err := k.lookUp(name)
	if err != nil {
		return err
	}
	for _, e := range slices.Concat(add, del) {
		if err := e.check(s); err != nil {
			return err
		}
	}
	if err := k.add(s, add); err != nil {
		return err
	}
	if len(add) > 0 && len(del) > 0 {
		added := make(map[Entry]bool, len(add))
		for _, e := range add {
			added[e.key()] = true
		}
		del = slices.DeleteFunc(slices.Clone(del), func(e Entry) bool { return added[e.key()] })
	}
	return k.send(changes(cmdDel, s, del), del).err
}

// add sends what found no room again once the set has grown.
func (k *Kernel) add(s Set, entries []Entry) error {
	for {
		result := k.send(changes(cmdAdd, s, entries), entries)
		if result.err != nil || len(result.left) == 0 {
			return result.err
		}
		h, err := k.header(s.Name)
		if err != nil {
			return err
		}
		if h.MaxElem >= LargestMaxElem {
			return fmt.Errorf("%w: it has %d entries, and %d more are wanted", ErrFull, h.elements, len(result.left))
		}
		s.MaxElem = larger(h.MaxElem, h.elements, len(result.left))
		if err := k.rebuild(s); err != nil {
			return fmt.Errorf("grow to %d entries: %w", s.MaxElem, err)
		}
		entries = result.left
	}
}

// Flush deletes all entries of a set. One that is gone is no error.
func (k *Kernel) Flush(name string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	err := checkName(name)
	if err == nil {
		err = ignore(k.write(named(cmdFlush, name)), ErrNoSet)
	}
	return failed("flush", name, err)
}

// Destroy deletes a set. One that is gone is no error. ErrInUse: a rule refers to it.
func (k *Kernel) Destroy(name string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	err := checkName(name)
	if err == nil {
		err = ignore(k.write(named(cmdDestroy, name)), ErrNoSet)
		delete(k.known, name)
	}
	return failed("destroy", name, err)
}

// lookUp returns a set as it was last known.
func (k *Kernel) lookUp(name string) (Set, error) {
	if s, ok := k.known[name]; ok {
		return s, nil
	}
	h, err := k.header(name)
	if err == nil && h.Type.fields() == (fields{}) {
		err = fmt.Errorf("type %q: %w", h.Type, ErrNoType)
	}
	if err == nil {
		k.known[name] = h.Set
	}
	return h.Set, err
}

func (k *Kernel) header(name string) (header, error) {
	if err := checkName(name); err != nil {
		return header{}, err
	}
	headers, err := k.headers(name)
	if err == nil && len(headers) == 0 {
		err = ErrNoSet
	}
	if err != nil {
		return header{}, err
	}
	return headers[0], nil
}

// headers reads all sets, or the one of a name.
func (k *Kernel) headers(name string) ([]header, error) {
	var headers []header
	err := k.list(list(name, true), func() { headers = nil }, func(data []byte) {
		if h, ok := parseHeader(data); ok {
			headers = append(headers, h)
		}
	})
	if err != nil {
		return nil, err
	}
	return headers, nil
}

func (k *Kernel) entries(name string) ([]Entry, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	var s Set
	var entries []Entry
	err := k.list(list(name, false), func() { entries = nil }, func(data []byte) {
		if h, ok := parseHeader(data); ok {
			s = h.Set
		}
		parseEntries(data, s.Type, func(e Entry) { entries = append(entries, e) })
	})
	if err != nil {
		return nil, err
	}
	if s.Type.fields() == (fields{}) {
		return nil, fmt.Errorf("type %q: %w", s.Type, ErrNoType)
	}
	return entries, nil
}

func (k *Kernel) ask(question []byte, item func([]byte)) error {
	return k.list(question, func() {}, item)
}

func (k *Kernel) list(question []byte, start func(), item func([]byte)) error {
	return explain(k.line.Call(func(s *bounded.Socket) error {
		return s.Ask(question, start, func(data []byte) error {
			item(data)
			return nil
		})
	}))
}

func (k *Kernel) write(message []byte) error { return k.send([][]byte{message}, nil).err }

// outcome is what became of messages.
type outcome struct {
	left []Entry // those that found no room, and what was in one message after them
	err  error   // of all other kinds: the first
}

// send sends messages, each of which but the last is about entriesAtOnce entries.
func (k *Kernel) send(messages [][]byte, entries []Entry) outcome {
	if len(messages) == 0 {
		return outcome{}
	}
	k.operations.Add(int64(len(messages)))
	var out outcome
	err := k.line.Call(func(s *bounded.Socket) error {
		request := func(b []byte, i int) []byte { return append(b, messages[i]...) }
		return s.Batch(len(messages), request, func(i int, err error, rest []byte) {
			if err != nil {
				out.refused(part(entries, i), err, rest)
			}
		})
	})
	if err != nil {
		return outcome{err: explain(err)}
	}
	return out
}

func (o *outcome) refused(entries []Entry, err error, rest []byte) {
	at, told := place(rest)
	told = told && at < len(entries)
	switch {
	case errors.Is(err, errFull) && told:
		o.left = append(o.left, entries[at:]...)
	case errors.Is(err, errFull):
		o.left = append(o.left, entries...)
	case o.err == nil && told:
		o.err = fmt.Errorf("entry %s: %w", entries[at], explain(err))
	case o.err == nil:
		o.err = explain(err)
	}
}

// part are the entries of the i-th message.
func part(entries []Entry, i int) []Entry {
	return entries[min(i*entriesAtOnce, len(entries)):min((i+1)*entriesAtOnce, len(entries))]
}
