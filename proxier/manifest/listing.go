package manifest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// maxFile bounds a file, in bytes: several times 10,000 Services with their
// EndpointSlices.
const maxFile = 64 << 20

// stamp tells whether a file is still the same without reading it.
type stamp struct {
	size          int64
	mtime         int64 // nanoseconds since 1970
	device, inode uint64
}

// listing is the manifests that stand there now, by path.
type listing map[string]stamp

// errNotRegular is for pipes and devices: reading one might never end.
var errNotRegular = errors.New("neither a directory nor a regular file")

// look lists the manifests at a path: the file that it is, whatever its name, or
// those of the directory that it is.
func look(path string) (listing, error) {
	at, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if at.Mode().IsRegular() {
		return listing{path: stampOf(at)}, nil
	}
	if !at.IsDir() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: errNotRegular}
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	found := listing{}
	for _, e := range entries {
		if !isManifest(e.Name()) {
			continue
		}
		file := filepath.Join(path, e.Name())
		// Through links: a ConfigMap volume shows its files as links into the
		// hidden directory that it swaps.
		info, err := os.Stat(file)
		switch {
		case err != nil && e.Type()&fs.ModeSymlink != 0:
			found[file] = stamp{} // reading it will say what is wrong
		case err == nil && info.Mode().IsRegular():
			found[file] = stampOf(info)
		}
	}
	return found, nil
}

func isManifest(name string) bool {
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
		return !strings.HasPrefix(name, ".")
	}
	return false
}

func stampOf(info fs.FileInfo) stamp {
	s := stamp{size: info.Size(), mtime: info.ModTime().UnixNano()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		s.device, s.inode = uint64(sys.Dev), sys.Ino
	}
	return s
}

// content is what one reading of a file gave.
type content struct {
	data []byte
	sum  [sha256.Size]byte
}

// read reads a file. It looks at the open file, since the path may lead elsewhere
// by now.
func read(path string) (*content, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: errNotRegular}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("larger than %d MiB", maxFile>>20)
	}
	return &content{data, sha256.Sum256(data)}, nil
}

// racy is how long after its mtime a file may change again with no other mtime.
const racy = 2 * time.Second

// maySlip reports whether a file, read at a time, can have changed since without
// a trace in its stamp.
func (s stamp) maySlip(readAt time.Time) bool {
	return readAt.Sub(time.Unix(0, s.mtime)) < racy
}

// settleLooks is how many looks in a row may find a change still going on until
// it is taken as it is.
const settleLooks = 5

// settling waits for writers to finish: it lets a change through once two looks
// find the same. A file that is empty now gets the longest wait, since a writer
// that replaces a file in place empties it first.
type settling struct {
	seen  listing
	looks int
}

// ready reports whether to take what is there now, given what was taken last,
// and whether to look again soon instead.
func (s *settling) ready(taken, now listing) (take, again bool) {
	if maps.Equal(taken, now) {
		*s = settling{}
		return false, false
	}
	still := s.looks > 0 && maps.Equal(s.seen, now) && !emptied(taken, now)
	if still || s.looks >= settleLooks {
		*s = settling{}
		return true, false
	}
	s.seen = now
	s.looks++
	return false, true
}

func emptied(taken, now listing) bool {
	for file, is := range now {
		if is.size == 0 && taken[file].size > 0 {
			return true
		}
	}
	return false
}

// sorted returns the files by name.
func (l listing) sorted() []string { return slices.Sorted(maps.Keys(l)) }
