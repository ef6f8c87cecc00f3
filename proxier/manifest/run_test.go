package manifest

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"switchyard/proxier/cluster"
)

// A bound for a busy machine; the aim is one second, which the tests log.
const soon = 3 * time.Second

// running is a Source that runs.
type running struct {
	*testing.T
	store   *cluster.Store
	changes atomic.Int32

	mu  sync.Mutex
	out bytes.Buffer
}

func (r *running) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.out.Write(p)
}

// logged counts the lines of the log that have all the words.
func (r *running) logged(words ...string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for line := range strings.Lines(r.out.String()) {
		all := true
		for _, word := range words {
			all = all && strings.Contains(line, word)
		}
		if all {
			n++
		}
	}
	return n
}

func start(t *testing.T, path string) *running {
	t.Helper()
	r := &running{T: t, store: cluster.NewStore("node-1")}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		log := slog.New(slog.NewTextHandler(r, nil))
		done <- New(path, r.store).Run(ctx, func() { r.changes.Add(1) }, log)
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(soon):
			t.Error("Run does not end with its context")
		}
	})
	return r
}

// until waits for the Store to hold this.
func (r *running) until(what, want string) {
	r.Helper()
	r.eventually(what, func() string {
		if got := contents(r.store); got != want {
			return fmt.Sprintf("%q, want %q", got, want)
		}
		return ""
	})
}

// eventually waits until nothing is missing.
func (r *running) eventually(what string, missing func() string) {
	r.Helper()
	begin := time.Now()
	for missing() != "" {
		if time.Since(begin) > soon {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.Fatalf("%s: %s; log:\n%s", what, missing(), r.out.String())
		}
		time.Sleep(2 * time.Millisecond)
	}
	r.Logf("%s: after %d ms", what, time.Since(begin).Milliseconds())
}

// stays checks that the Store holds this for longer than any change takes.
func (r *running) stays(what, want string) {
	r.Helper()
	for range 60 {
		if got := contents(r.store); got != want {
			r.Fatalf("%s: %q, want %q", what, got, want)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestEdits(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put(t, dir, "a.yaml", serviceNamed("web", "80"))
	r := start(t, dir)
	r.until("start", "web http 80/TCP ")

	put(t, dir, "a.yaml", serviceNamed("web", "81"))
	r.until("written in place", "web http 81/TCP ")

	put(t, dir, "b.yaml", serviceNamed("api", "1"))
	r.until("another file", "api http 1/TCP , web http 81/TCP ")

	put(t, dir, ".b.yaml.swp", serviceNamed("api", "2"))
	must(t, os.Rename(filepath.Join(dir, ".b.yaml.swp"), filepath.Join(dir, "b.yaml")))
	r.until("renamed over", "api http 2/TCP , web http 81/TCP ")

	must(t, os.Rename(filepath.Join(dir, "b.yaml"), filepath.Join(dir, "b.yaml~")))
	put(t, dir, "b.yaml", serviceNamed("api", "3"))
	r.until("backed up and written anew", "api http 3/TCP , web http 81/TCP ")

	put(t, dir, "a.yaml", "")
	r.until("emptied", "api http 3/TCP ")

	must(t, os.Remove(filepath.Join(dir, "b.yaml")))
	r.until("deleted", "")

	if n := r.changes.Load(); n < 7 {
		t.Errorf("changed was called %d times for 7 changes", n)
	}
}

// An edit of the same size, so soon that the mtime may be the same too.
func TestEditsInQuickSuccession(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put(t, dir, "a.yaml", serviceNamed("web", "10"))
	r := start(t, dir)
	r.until("start", "web http 10/TCP ")
	for port := 11; port < 16; port++ {
		put(t, dir, "a.yaml", serviceNamed("web", fmt.Sprint(port)))
		must(t, os.Chtimes(filepath.Join(dir, "a.yaml"), time.Time{}, time.Now().Truncate(time.Second)))
		r.until("edit", fmt.Sprintf("web http %d/TCP ", port))
	}
}

func TestBadContentChangesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put(t, dir, "a.yaml", serviceNamed("web", "80"))
	put(t, dir, "b.yaml", "kind: [")
	r := start(t, dir)
	r.until("a bad file at the start", "web http 80/TCP ")
	if r.logged("level=ERROR", "b.yaml:1") != 1 {
		t.Error("the bad file is not named once")
	}

	half := serviceNamed("web", "81")
	put(t, dir, "a.yaml", half[:len(half)-12])
	r.eventually("half a file", func() string {
		if r.logged("level=ERROR", "a.yaml:", "Service default/web", "spec.ports[0]") != 1 {
			return "no log of it"
		}
		return ""
	})
	r.stays("half a file", "web http 80/TCP ")
	if r.logged("level=ERROR") != 2 {
		t.Error("errors are repeated though nothing changed")
	}
	put(t, dir, "a.yaml", half)
	r.until("the whole file", "web http 81/TCP ")
}

// A writer that empties the file first and takes its time.
func TestSlowWriter(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put(t, dir, "a.yaml", serviceNamed("web", "80")+"---\n"+serviceNamed("zoo", "80"))
	r := start(t, dir)
	r.until("start", "web http 80/TCP , zoo http 80/TCP ")
	f, err := os.Create(filepath.Join(dir, "a.yaml"))
	must(t, err)
	for _, part := range []string{"", serviceNamed("web", "81"), "---\n" + serviceNamed("zoo", "81")} {
		_, err := f.WriteString(part)
		must(t, err)
		if got := contents(r.store); !strings.HasPrefix(got, "web http 80/TCP , zoo") {
			t.Errorf("while it is written: %s", got)
		}
		time.Sleep(70 * time.Millisecond)
	}
	must(t, f.Close())
	r.until("the end", "web http 81/TCP , zoo http 81/TCP ")
}

// A ConfigMap volume: visible links into a hidden directory, which a link names
// and a rename swaps.
func TestConfigMapVolume(t *testing.T) {
	t.Parallel()
	for _, single := range []bool{false, true} {
		dir := t.TempDir()
		swap := func(version, port string) {
			must(t, os.Mkdir(filepath.Join(dir, "..v"+version), 0o755))
			put(t, dir, "..v"+version+"/shop.yaml", serviceNamed("web", port))
			must(t, os.Symlink("..v"+version, filepath.Join(dir, "..data_tmp")))
			must(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
		}
		swap("1", "80")
		must(t, os.Symlink("..data/shop.yaml", filepath.Join(dir, "shop.yaml")))
		path := dir
		if single {
			path = filepath.Join(dir, "shop.yaml")
		}
		r := start(t, path)
		r.until("start", "web http 80/TCP ")
		swap("2", "81")
		must(t, os.RemoveAll(filepath.Join(dir, "..v1")))
		r.until("swapped", "web http 81/TCP ")
	}
}

// A link to a file elsewhere, of whose edits the kernel does not tell.
func TestLinkElsewhere(t *testing.T) {
	t.Parallel()
	dir, elsewhere := t.TempDir(), t.TempDir()
	put(t, elsewhere, "x", serviceNamed("web", "80"))
	must(t, os.Symlink(filepath.Join(elsewhere, "x"), filepath.Join(dir, "a.yaml")))
	r := start(t, dir)
	r.until("start", "web http 80/TCP ")
	put(t, elsewhere, "x", serviceNamed("web", "81"))
	r.until("edit", "web http 81/TCP ")
}

func TestSingleFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put(t, dir, "shop.yaml", serviceNamed("web", "80"))
	put(t, dir, "other.yaml", serviceNamed("api", "80"))
	r := start(t, filepath.Join(dir, "shop.yaml"))
	r.until("start", "web http 80/TCP ")
	put(t, dir, "new", serviceNamed("web", "81"))
	must(t, os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "shop.yaml")))
	r.until("renamed over", "web http 81/TCP ")
	must(t, os.Remove(filepath.Join(dir, "shop.yaml")))
	r.stays("gone", "web http 81/TCP ")
	put(t, dir, "shop.yaml", serviceNamed("web", "82"))
	r.until("back", "web http 82/TCP ")
}

func TestDirectoryComesAndGoes(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "manifests")
	r := start(t, dir)
	r.eventually("the log", func() string {
		if r.logged("level=WARN", "waiting") == 0 {
			return "no word of waiting"
		}
		return ""
	})
	r.stays("missing", "")
	if r.logged("level=WARN") != 1 || r.changes.Load() != 0 {
		t.Errorf("%d warnings, %d changes while the path is missing, want 1 and 0", r.logged("level=WARN"), r.changes.Load())
	}
	must(t, os.Mkdir(dir, 0o755))
	put(t, dir, "a.yaml", serviceNamed("web", "80"))
	r.until("made", "web http 80/TCP ")

	must(t, os.RemoveAll(dir))
	time.Sleep(time.Second)
	must(t, os.Mkdir(dir, 0o755))
	put(t, dir, "a.yaml", serviceNamed("web", "81"))
	r.until("made again", "web http 81/TCP ")
	put(t, dir, "a.yaml", serviceNamed("web", "82"))
	r.until("edited", "web http 82/TCP ")

	must(t, os.Rename(dir, dir+".old"))
	r.stays("moved away: nothing is known", "web http 82/TCP ")
	must(t, os.Mkdir(dir, 0o755))
	r.until("made again, empty", "")
}

func TestEmptyDirectoryIsALoad(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	r.eventually("the first load", func() string {
		if r.changes.Load() == 0 {
			return "changed was not called"
		}
		return ""
	})
}

func TestIgnoredKindsAreNamedOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put(t, dir, "app.yaml", strings.Repeat("apiVersion: apps/v1\nkind: Deployment\n---\n", 3)+serviceNamed("web", "80"))
	r := start(t, dir)
	r.until("start", "web http 80/TCP ")
	put(t, dir, "b.yaml", serviceNamed("api", "80"))
	r.until("an edit", "api http 80/TCP , web http 80/TCP ")
	if n := r.logged("level=INFO", "kind=Deployment", "app.yaml"); n != 1 {
		t.Errorf("named %d times, want once", n)
	}
}
