package subject

import (
	"bytes"
	"slices"
	"strings"
	"sync"
)

// Log is a process's log, for exec.Cmd's Stdout and Stderr. The zero value is empty.
// All methods may be called at once: the process writes while the test reads.
type Log struct {
	mu      sync.Mutex
	written bytes.Buffer
}

// Write implements io.Writer. It never fails.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.written.Write(p)
}

// String is all that was written until now.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.written.String()
}

// Lines are the lines, oldest first and without space around them, that have all of
// these words; the last one also if it has no end yet.
func (l *Log) Lines(words ...string) (found []string) {
	for line := range strings.Lines(l.String()) {
		lacks := func(word string) bool { return !strings.Contains(line, word) }
		if !slices.ContainsFunc(words, lacks) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}
