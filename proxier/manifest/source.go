package manifest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"reflect"
	"slices"
	"time"

	"switchyard/proxier/cluster"
)

// Source keeps a Store at what a file, or the files of a directory, say. Load
// and Run must not be called at the same time.
type Source struct {
	path    string
	store   *cluster.Store
	taken   listing // what the files were when they were read
	files   map[string]*file
	applied map[key]*entry // what the Store has from here
	clashes []*Error       // objects that are in two places
}

// file is the last good content of a file and what came after it.
type file struct {
	sum     [sha256.Size]byte
	read    bool // sum is that of a reading
	readAt  time.Time
	entries []*entry
	ignored []Ignored
	err     error // why the newest content is not in entries
}

// New returns a Source for a file or a directory, which need not exist yet.
func New(path string, store *cluster.Store) *Source {
	return &Source{path: path, store: store, taken: listing{}, files: map[string]*file{}, applied: map[key]*entry{}}
}

// Load reads everything once and puts into the Store what is good. The error
// joins what is wrong with the rest: one [*Error] for each file, with the first
// of its faults, and one for each object that is in two places. A path that
// cannot be read leaves the Store as it is.
func (s *Source) Load() error {
	now, err := look(s.path)
	if err != nil {
		return fmt.Errorf("read manifests: %w", err)
	}
	s.take(now)
	s.apply()
	return errors.Join(s.errors()...)
}

// Ignored lists the objects of kinds that a proxy has no use for, as of the last
// reading, by file name and line.
func (s *Source) Ignored() []Ignored {
	var all []Ignored
	for _, name := range slices.Sorted(maps.Keys(s.files)) {
		all = append(all, s.files[name].ignored...)
	}
	return all
}

// errors lists what is wrong now, by file name.
func (s *Source) errors() []error {
	var all []error
	for _, name := range slices.Sorted(maps.Keys(s.files)) {
		if err := s.files[name].err; err != nil {
			all = append(all, err)
		}
	}
	for _, err := range s.clashes {
		all = append(all, err)
	}
	return all
}

// take reads the files that are not what they were, and forgets those that are
// gone. It reports whether any content changed.
func (s *Source) take(now listing) bool {
	changed := false
	for name := range s.files {
		if _, there := now[name]; !there {
			delete(s.files, name)
			changed = true
		}
	}
	for _, name := range now.sorted() {
		f := s.files[name]
		if f == nil {
			f = &file{}
			s.files[name] = f
		} else if s.taken[name] == now[name] && f.err == nil && !now[name].maySlip(f.readAt) {
			continue
		}
		changed = f.take(name) || changed
	}
	s.taken = now
	return changed
}

// slipped reads again the files whose stamp may hide a change, and those that
// could not be read, and reports whether any content changed.
func (s *Source) slipped() bool {
	changed := false
	for name, is := range s.taken {
		if f := s.files[name]; f != nil && (!f.read || is.maySlip(f.readAt)) {
			changed = f.take(name) || changed
		}
	}
	return changed
}

// take reads a file and reports whether its content, or what is wrong with it,
// changed. Bad content leaves the last good one in place.
func (f *file) take(name string) bool {
	before := f.err
	f.readAt = time.Now()
	c, err := read(name)
	if err != nil {
		f.read = false
		f.err = unreadableFile(name, err)
		return before == nil || before.Error() != f.err.Error()
	}
	if f.read && f.sum == c.sum {
		return false
	}
	f.read, f.sum = true, c.sum
	p := parse(name, c.data)
	if f.err = p.first(); f.err == nil {
		f.entries, f.ignored = p.entries, p.ignored
	}
	return true
}

// unreadableFile leaves out the path that fs errors repeat.
func unreadableFile(name string, err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		err = at.Err
	}
	return &Error{File: name, Reason: "cannot be read: " + err.Error()}
}

// change is what an apply did.
type change struct {
	set, deleted int
	snapshot     bool // the Store's Snapshot changed
}

// apply brings the Store to what the files say. Objects are set before others
// are deleted, so that whoever looks in between finds rather too much.
func (s *Source) apply() change {
	want := s.merge()
	var did change
	for k, e := range want {
		if old := s.applied[k]; old == nil || !old.equal(e) {
			did.set++
			did.snapshot = s.set(e) || did.snapshot
		}
	}
	for k := range s.applied {
		if want[k] == nil {
			did.deleted++
			did.snapshot = s.delete(k) || did.snapshot
		}
	}
	s.applied = want
	return did
}

// merge gathers the objects of all files. Of those that are in two places the
// first stays, by file name and then by line.
func (s *Source) merge() map[key]*entry {
	want := map[key]*entry{}
	s.clashes = nil
	for _, name := range slices.Sorted(maps.Keys(s.files)) {
		for _, e := range s.files[name].entries {
			first := want[e.key]
			if first == nil {
				want[e.key] = e
				continue
			}
			s.clashes = append(s.clashes, &Error{File: e.file, Line: e.line, Object: e.key.String(),
				Reason: fmt.Sprintf("already in %s:%d, which stays", first.file, first.line)})
		}
	}
	return want
}

func (e *entry) equal(o *entry) bool {
	return e == o ||
		reflect.DeepEqual(e.service, o.service) && reflect.DeepEqual(e.slice, o.slice) && reflect.DeepEqual(e.node, o.node)
}

func (s *Source) set(e *entry) bool {
	switch {
	case e.service != nil:
		return s.store.SetService(e.service)
	case e.slice != nil:
		return s.store.SetSlice(e.slice)
	}
	return s.store.SetNode(e.node)
}

func (s *Source) delete(k key) bool {
	switch {
	case k.kind == kindService:
		return s.store.DeleteService(k.name)
	case k.kind == kindSlice:
		return s.store.DeleteSlice(k.name)
	case k.name.Name == s.store.NodeName():
		return s.store.DeleteNode()
	}
	return false
}
