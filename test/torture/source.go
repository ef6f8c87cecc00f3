package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// source is where the proxy has its objects from: files, or one day an API server.
type source interface {
	// put has one file's objects be what they are now; no objects: they are gone.
	put(name string, objects ...any) error
	// args tell the proxy of it.
	args() []string
}

// files is a directory of manifests. A file appears, changes and goes in one piece:
// it is written elsewhere first.
type files struct{ dir, beside string }

func newFiles(dir string) (*files, error) {
	f := &files{dir: filepath.Join(dir, "manifest"), beside: filepath.Join(dir, "writing")}
	return f, errors.Join(os.MkdirAll(f.dir, 0o755), os.MkdirAll(f.beside, 0o755))
}

func (f *files) put(name string, objects ...any) error {
	path := filepath.Join(f.dir, name+".yaml")
	if len(objects) == 0 {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove objects: %w", err)
		}
		return nil
	}
	text, err := document(objects...)
	if err != nil {
		return err
	}
	draft := filepath.Join(f.beside, name+".yaml")
	if err := errors.Join(os.WriteFile(draft, text, 0o644), os.Rename(draft, path)); err != nil {
		return fmt.Errorf("write objects: %w", err)
	}
	return nil
}

func (f *files) args() []string { return []string{"--manifest", f.dir} }
