package vs

import (
	"errors"
	"fmt"

	"switchyard/ipvs/bounded"
)

// What a failure of the kernel means, for errors.Is.
var (
	// ErrNoModule: the kernel has no IPVS, or the module cannot be loaded from here.
	ErrNoModule = errors.New("the kernel has no IPVS: load the module ip_vs")
	// ErrNoScheduler: the kernel has no such scheduler. Another may be tried.
	ErrNoScheduler = errors.New("the kernel has no such scheduler")
	// ErrNoServer: the virtual server is gone, so it has no destinations to change.
	ErrNoServer = errors.New("no such virtual server")
	// ErrNoAnswer: the kernel did not answer in time. Whether it did what was asked
	// for is not known.
	ErrNoAnswer = bounded.ErrNoAnswer
)

// OpError is an operation that failed. It unwraps to the kernel's errno.
type OpError struct {
	Op          string // "add server", "delete destination", …
	Key         Key    // zero if the operation concerns all
	Destination Destination
	Err         error
}

func (e *OpError) Error() string {
	switch {
	case e.Destination.Addr.IsValid():
		return fmt.Sprintf("ipvs: %s %s of %s: %v", e.Op, e.Destination.Addr, e.Key, e.Err)
	case e.Key != Key{}:
		return fmt.Sprintf("ipvs: %s %s: %v", e.Op, e.Key, e.Err)
	}
	return fmt.Sprintf("ipvs: %s: %v", e.Op, e.Err)
}

func (e *OpError) Unwrap() error { return e.Err }
