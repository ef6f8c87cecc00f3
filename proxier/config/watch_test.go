package config

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// followed is a Watch that runs over a file.
type followed struct {
	*testing.T
	path  string
	calls chan string // the mode of Changed, or the error of Invalid
}

// follow runs a Watch; poll bounds what the kernel tells nothing of.
func follow(t *testing.T, path string, poll time.Duration) *followed {
	t.Helper()
	fl := flags(t, "--config="+path, "--hostname-override=n")
	o, err := fl.Options(modes)
	if err != nil {
		t.Fatal(err)
	}
	w := &followed{T: t, path: path, calls: make(chan string, 100)}
	f := follower{
		Watch: Watch{
			Flags: fl, Modes: modes, Options: o,
			Changed: func(o Options) { w.calls <- "changed: " + o.Mode },
			Invalid: func(err error) { w.calls <- "invalid: " + err.Error() },
		},
		log: slog.New(slog.DiscardHandler), settle: settleFor, poll: poll,
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.run(ctx)
	}()
	t.Cleanup(func() {
		stop()
		<-done
		if len(w.calls) > 0 {
			t.Errorf("one call too many: %s", <-w.calls)
		}
	})
	return w
}

// tells waits for the next call.
func (w *followed) tells(want string) {
	w.Helper()
	select {
	case got := <-w.calls:
		if !strings.HasPrefix(got, want) {
			w.Fatalf("told %q, want %q", got, want)
		}
	case <-time.After(20 * time.Second):
		w.Fatalf("not told %q", want)
	}
}

// never is a poll that does not come in a test's time.
const never = time.Hour

func ipvsMode(text string) string { return header + "mode: ipvs\n" + text }

// TestWatchRewrite holds that a file written in place is followed: valid, equal in
// effect, invalid, each told once.
func TestWatchRewrite(t *testing.T) {
	path := conf(t, "")
	w := follow(t, path, never)
	write(t, path, header+"# a comment\nwinkernel: {enableDSR: true}\nunknown: 1") // equal in effect
	write(t, path, ipvsMode(""))
	w.tells("changed: ipvs")
	write(t, path, ipvsMode("oomScoreAdj: x"))
	w.tells("invalid: " + path + `:4: oomScoreAdj: "x": must be a whole number`)
	write(t, path, ipvsMode("oomScoreAdj: 9000"))
	w.tells("invalid: " + path + `:4: oomScoreAdj: 9000: must be within`)
	write(t, path, ipvsMode("# as before it"))
	write(t, path, header)
	w.tells("changed: iptables")
}

// TestWatchRename holds that a file is followed that another one is put over, as
// editors do.
func TestWatchRename(t *testing.T) {
	path := conf(t, "")
	w := follow(t, path, never)
	for _, mode := range []string{"ipvs", "userspace"} {
		write(t, path+".new", header+"mode: "+mode)
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
		w.tells("changed: " + mode)
	}
}

// TestWatchConfigMap holds that the swap of a ConfigMap volume is followed: the file
// leads through ..data, which is replaced.
func TestWatchConfigMap(t *testing.T) {
	dir := t.TempDir()
	swap := func(version, text string) {
		t.Helper()
		err := errors.Join(
			os.Mkdir(filepath.Join(dir, version), 0o755),
			os.WriteFile(filepath.Join(dir, version, "config.conf"), []byte(text), 0o600),
			os.Symlink(version, filepath.Join(dir, "..data_tmp")),
			os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
		if err != nil {
			t.Fatal(err)
		}
	}
	swap("..v1", header)
	path := filepath.Join(dir, "config.conf")
	if err := os.Symlink("..data/config.conf", path); err != nil {
		t.Fatal(err)
	}
	w := follow(t, path, never)
	for i, mode := range []string{"ipvs", "nfttables", "userspace"} {
		swap("..v"+string(rune('2'+i)), header+"mode: "+mode)
		if err := os.RemoveAll(filepath.Join(dir, "..v"+string(rune('1'+i)))); err != nil {
			t.Fatal(err)
		}
		if mode == "nfttables" {
			w.tells(`invalid: ` + path + `:3: mode: "nfttables": must be one of`)
		} else {
			w.tells("changed: " + mode)
		}
	}
}

// TestWatchLink holds that a file is followed where a link leads to it.
func TestWatchLink(t *testing.T) {
	real, link := conf(t, ""), filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	w := follow(t, link, never)
	for _, mode := range []string{"ipvs", "userspace"} { // the first may be found by the look at the start
		write(t, real, header+"mode: "+mode)
		w.tells("changed: " + mode)
	}
}

// TestWatchVanish holds that a file that goes is told once and followed when it comes
// back, by itself or with its directory, which only the poll finds.
func TestWatchVanish(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dir")
	path := filepath.Join(dir, "config.conf")
	make := func(text string) {
		t.Helper()
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, path+".new", text)
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	make(header)
	w := follow(t, path, 50*time.Millisecond)
	for _, gone := range []string{path, dir} {
		if err := os.RemoveAll(gone); err != nil {
			t.Fatal(err)
		}
		w.tells("invalid: read configuration: open " + path + ": " + "no such file or directory")
		make(ipvsMode(""))
		w.tells("changed: ipvs")
		make(header)
		w.tells("changed: iptables")
	}
}

// TestWatchPoll holds that a change that the kernel tells nothing of is found: behind
// a link in the middle of the path.
func TestWatchPoll(t *testing.T) {
	dir := t.TempDir()
	for _, mode := range []string{"iptables", "ipvs"} {
		if err := os.Mkdir(filepath.Join(dir, mode), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, mode, "config.conf"), header+"mode: "+mode)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("iptables", link); err != nil {
		t.Fatal(err)
	}
	w := follow(t, filepath.Join(link, "config.conf"), 50*time.Millisecond)
	if err := errors.Join(os.Symlink("ipvs", link+".new"), os.Rename(link+".new", link)); err != nil {
		t.Fatal(err)
	}
	w.tells("changed: ipvs")
}

// TestWatchHalfWritten holds that a file is not judged while it is being written.
func TestWatchHalfWritten(t *testing.T) {
	path := conf(t, "")
	fl := flags(t, "--config="+path, "--hostname-override=n")
	o, err := fl.Options(modes)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		changed := 0
		f := follower{settle: settleFor, Watch: Watch{
			Flags: fl, Modes: modes, Options: o,
			Changed: func(Options) { changed++ },
			Invalid: func(err error) { t.Errorf("judged half-way: %v", err) },
		}}
		write(t, path, "apiVersion")
		go f.look(t.Context())
		time.Sleep(settleFor / 2)
		write(t, path, ipvsMode(""))
		time.Sleep(3 * settleFor)
		synctest.Wait()
		if changed != 1 {
			t.Errorf("told %d times", changed)
		}
	})
}

// TestWatchBeforeRun holds that a change between the start's reading and the first
// look is not lost, and that without a file there is nothing to do.
func TestWatchBeforeRun(t *testing.T) {
	path := conf(t, "")
	fl := flags(t, "--config="+path, "--hostname-override=n")
	o, err := fl.Options(modes)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, ipvsMode(""))
	ctx, stop := context.WithCancel(t.Context())
	Watch{Flags: fl, Modes: modes, Options: o, Changed: func(o Options) { stop() }}.Run(ctx, slog.New(slog.DiscardHandler))
	Watch{Flags: flags(t)}.Run(t.Context(), nil)
}
