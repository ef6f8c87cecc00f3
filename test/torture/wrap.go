package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// wrapper stands between the proxy and one program: it counts the calls that write,
// and has those fail that a ticket says so of. The proxy finds it by its PATH.
//
// Each writing call takes the first ticket there is, whose name ends in what becomes of
// the call:
//
//	ok      it is made
//	lock    another program holds the xtables lock
//	refuse  the kernel refuses the input's second line
//	kill    it is killed before it did anything
//	after   it is made, and killed before it could say so
//	half    its first COMMIT is made, then it is killed
//	slow    it is made two seconds later
//
// An input that holds one of the texts in the file "cursed" is refused at that line.
const wrapper = `#!/bin/sh
# Made by test/torture: passes calls on, counts those that write, has some fail.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
d='%[1]s' name='%[2]s' real='%[3]s'
case $name in
*-save) exec "$real" "$@" ;;
*-restore) ;;
*) case " $* " in
	*' -A '*|*' -I '*|*' -D '*|*' -N '*|*' -X '*|*' -F '*) ;;
	*) exec "$real" "$@" ;;
	esac ;;
esac
echo "$name" >>"$d/calls"
verdict=ok
for t in "$d"/tickets/*; do
	if [ -e "$t" ] && rm "$t" 2>/dev/null; then verdict=${t##*.}; break; fi
done
[ $verdict = ok ] || echo "$verdict" >>"$d/failed"
case $verdict in
lock) echo 'Another app is currently holding the xtables lock; still 0s 0us time ahead to have a chance to grab the lock...' >&2; exit 4 ;;
refuse) echo "$name: line 2 failed" >&2; exit 1 ;;
kill) kill -9 $$ ;;
after) "$real" "$@"; kill -9 $$ ;;
half) sed '/^COMMIT/q' | "$real" "$@"; kill -9 $$ ;;
slow) sleep 2 ;;
esac
if [ -s "$d/cursed" ]; then
	in="$d/input.$$"
	cat >"$in"
	n=$(grep -n -F -m 1 -f "$d/cursed" "$in" | cut -d: -f1)
	if [ -n "$n" ]; then rm "$in"; echo "$name: line $n failed" >&2; exit 1; fi
	"$real" "$@" <"$in"; status=$?
	rm "$in"
	exit $status
fi
exec "$real" "$@"
`

// verdicts are the tickets that are not "ok".
var verdicts = []string{"lock", "refuse", "kill", "after", "half", "slow"}

// wrap is a folder of wrappers, which is the proxy's PATH.
type wrap struct{ dir string }

func newWrap(dir string, programs []string) (*wrap, error) {
	w := &wrap{dir: dir}
	for _, sub := range []string{"bin", "tickets"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	for _, name := range programs {
		path, err := exec.LookPath(name)
		if err != nil {
			return nil, fmt.Errorf("wrap a program: %w", err)
		}
		text := fmt.Sprintf(wrapper, dir, name, path)
		if err := os.WriteFile(filepath.Join(dir, "bin", name), []byte(text), 0o755); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// env is the proxy's: nothing is found that is not wrapped, and the lock is not the
// machine's.
func (w *wrap) env() []string {
	return []string{"PATH=" + filepath.Join(w.dir, "bin"), "XTABLES_LOCKFILE=" + w.lock()}
}

func (w *wrap) lock() string { return filepath.Join(w.dir, "xtables.lock") }

// fail hands out tickets: the next writing calls meet these verdicts, in order.
func (w *wrap) fail(verdicts ...string) error {
	if err := w.relent(); err != nil {
		return err
	}
	for i, v := range verdicts {
		if err := os.WriteFile(filepath.Join(w.dir, "tickets", fmt.Sprintf("%04d.%s", i, v)), nil, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// relent takes all tickets back.
func (w *wrap) relent() error {
	left, err := filepath.Glob(filepath.Join(w.dir, "tickets", "*"))
	for _, t := range left {
		if gone := os.Remove(t); gone != nil && !errors.Is(gone, os.ErrNotExist) { // a call took it
			err = errors.Join(err, gone)
		}
	}
	return err
}

// curse has inputs refused that hold one of the texts; none: no input is.
func (w *wrap) curse(texts ...string) error {
	return os.WriteFile(filepath.Join(w.dir, "cursed"), []byte(strings.Join(texts, "\n")), 0o644)
}

// calls is how many writing calls were made, and how many of them failed, by verdict.
func (w *wrap) calls() (made int, failed map[string]int) {
	failed = map[string]int{}
	for line := range strings.Lines(w.read("failed")) {
		failed[strings.TrimSpace(line)]++
	}
	return strings.Count(w.read("calls"), "\n"), failed
}

// read is what the wrappers wrote; nothing if they wrote nothing yet.
func (w *wrap) read(name string) string {
	text, err := os.ReadFile(filepath.Join(w.dir, name))
	if err != nil {
		return ""
	}
	return string(text)
}
