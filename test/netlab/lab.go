package netlab

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/vishvananda/netns"
)

// netnsDir is where iproute2 looks for named namespaces.
const netnsDir = "/run/netns"

var (
	labName = regexp.MustCompile(`^[a-z0-9]{1,16}$`)
	// boundName is sy-<name>.<pid of the owner>.<random>-<host>.
	boundName = regexp.MustCompile(`^sy-[a-z0-9]+\.([0-9]+)\.[0-9a-f]+-`)
)

// Lab is a set of hosts that live and end together. Its methods may be called
// from several goroutines.
type Lab struct {
	id   string
	home netns.NsHandle // where the program's threads belong

	mu      sync.Mutex
	hosts   map[string]*Host
	order   []*Host
	servers []io.Closer
	serving sync.WaitGroup
	closed  bool
}

// New makes an empty lab. The name, 1 to 16 of a-z and 0-9, becomes part of
// the namespaces' names. Namespaces that a lab of a process that is no more
// left behind are removed first.
func New(name string) (*Lab, error) {
	if !labName.MatchString(name) {
		return nil, fmt.Errorf("new lab: name %q is not 1 to 16 of a-z and 0-9", name)
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("new lab: network namespaces need root: run it with sudo")
	}
	if err := sweep(); err != nil {
		return nil, fmt.Errorf("new lab: %w", err)
	}
	home, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("new lab: open this thread's network namespace: %w", err)
	}
	random := make([]byte, 2) // labs of one process must differ
	if _, err := rand.Read(random); err != nil {
		return nil, errors.Join(fmt.Errorf("new lab: %w", err), home.Close())
	}
	return &Lab{
		id:    fmt.Sprintf("%s.%d.%s", name, os.Getpid(), hex.EncodeToString(random)),
		home:  home,
		hosts: map[string]*Host{},
	}, nil
}

// ID is what the names of the lab's namespaces have in common: they are
// "sy-<ID>-<host>".
func (l *Lab) ID() string { return l.id }

// Host returns a host by its name, nil if the lab has none of that name.
func (l *Lab) Host(name string) *Host {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.hosts[name]
}

// Hosts returns all hosts in the order in which they were added.
func (l *Lab) Hosts() []*Host {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*Host(nil), l.order...)
}

// Close ends the lab's servers and removes its hosts and their interfaces. A
// second call does nothing. Processes that were started on a host must have
// ended: a namespace lives as long as one of them does.
func (l *Lab) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	servers, hosts := l.servers, l.order
	l.hosts, l.order, l.servers = map[string]*Host{}, nil, nil
	l.mu.Unlock()

	var errs []error
	for _, s := range servers {
		errs = append(errs, s.Close())
	}
	l.serving.Wait()
	for _, h := range hosts {
		errs = append(errs, h.remove())
	}
	return errors.Join(append(errs, l.home.Close())...)
}

// sweep removes the namespaces of labs whose owner has died. A process number
// that was given out again keeps them until that process ends too.
func sweep() error {
	entries, err := os.ReadDir(netnsDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("look for leftovers: %w", err)
	}
	for _, e := range entries {
		owner := ownerOf(e.Name())
		if owner == 0 || alive(owner) {
			continue
		}
		if err := unbind(e.Name()); err != nil {
			return fmt.Errorf("remove a leftover of process %d: %w", owner, err)
		}
	}
	return nil
}

// ownerOf returns the process that made a namespace, 0 if no lab did.
func ownerOf(name string) int {
	m := boundName.FindStringSubmatch(name)
	if m == nil {
		return 0
	}
	pid, err := strconv.Atoi(m[1])
	if err != nil {
		return 0
	}
	return pid
}

func alive(pid int) bool {
	_, err := os.Stat(filepath.Join("/proc", strconv.Itoa(pid)))
	return err == nil
}

// unbind removes a namespace's name. That it is gone already is no error: two
// labs may sweep at once.
func unbind(name string) error {
	if strings.ContainsRune(name, '/') {
		return fmt.Errorf("namespace name %q has a slash", name)
	}
	if err := netns.DeleteNamed(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("delete namespace %s: %w", name, err)
	}
	return nil
}
