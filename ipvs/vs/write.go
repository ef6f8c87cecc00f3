package vs

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Op is what a Write does.
type Op uint8

// The operations. Adding what exists updates it, updating what is gone adds it, and
// deleting what is gone is no error.
const (
	AddServer Op = iota + 1
	UpdateServer
	DeleteServer // with its destinations
	AddDestination
	UpdateDestination
	DeleteDestination // whatever its weight
)

func (o Op) String() string {
	switch o {
	case AddServer:
		return "add server"
	case UpdateServer:
		return "update server"
	case DeleteServer:
		return "delete server"
	case AddDestination:
		return "add destination"
	case UpdateDestination:
		return "update destination"
	case DeleteDestination:
		return "delete destination"
	}
	return "no operation"
}

// Write is one change of the table.
type Write struct {
	Op          Op
	Key         Key
	Server      Server      // AddServer, UpdateServer
	Destination Destination // AddDestination, UpdateDestination, DeleteDestination
}

// check finds what the kernel would refuse or misunderstand.
func (w Write) check() error {
	switch w.Op {
	case AddServer, UpdateServer:
		return errors.Join(w.Key.check(), w.Server.check())
	case DeleteServer:
		return w.Key.check()
	case AddDestination, UpdateDestination, DeleteDestination:
		return errors.Join(w.Key.check(), w.Destination.check(w.Key.Family))
	}
	return errors.New("unknown operation")
}

// otherwise is the operation to try after the kernel's answer to the first; w itself
// if the answer stands. A server is missing with ESRCH, a destination with ENOENT.
func (w Write) otherwise(err error) Op {
	exists := errors.Is(err, unix.EEXIST)
	switch {
	case w.Op == AddServer && exists:
		return UpdateServer
	case w.Op == UpdateServer && errors.Is(err, unix.ESRCH):
		return AddServer
	case w.Op == AddDestination && exists:
		return UpdateDestination
	case w.Op == UpdateDestination && errors.Is(err, unix.ENOENT):
		return AddDestination
	}
	return w.Op
}

// failure is what the kernel's last answer means; nil if all is as wanted.
func (w Write) failure(err error) error {
	noServer, absent := errors.Is(err, unix.ESRCH), errors.Is(err, unix.ENOENT)
	switch {
	case err == nil,
		w.Op == DeleteServer && noServer,
		w.Op == DeleteDestination && (noServer || absent):
		return nil
	case (w.Op == AddServer || w.Op == UpdateServer) && absent:
		err = fmt.Errorf("%w: %q: load the module ip_vs_%s: %w", ErrNoScheduler, w.Server.Scheduler, w.Server.Scheduler, err)
	case (w.Op == AddDestination || w.Op == UpdateDestination) && noServer:
		err = fmt.Errorf("%w: %w", ErrNoServer, err)
	case errors.Is(err, unix.EPERM):
		err = fmt.Errorf("%w: needs CAP_NET_ADMIN", err)
	}
	return &OpError{Op: w.Op.String(), Key: w.Key, Destination: w.Destination, Err: err}
}

// again are the writes to send a second time, by place, after the answers to the
// first: those with another operation, and what failed for want of a server that
// another operation makes.
func again(writes []Write, answers []error) (places []int, second []Write) {
	made := map[Key]bool{}
	for i, w := range writes {
		op := w.otherwise(answers[i])
		orphan := w.Op >= AddDestination && errors.Is(answers[i], unix.ESRCH) && made[w.Key]
		if op == w.Op && !orphan {
			continue
		}
		made[w.Key] = made[w.Key] || op == AddServer
		w.Op = op
		places, second = append(places, i), append(second, w)
	}
	return places, second
}
