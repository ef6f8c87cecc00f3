package ipset

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"switchyard/ipvs/bounded"
)

// What a failure of the kernel means, for errors.Is.
var (
	ErrNoModule = errors.New("the kernel has no ipset: load the module ip_set")
	// ErrNoType: the kernel lacks the set's type, or its marks.
	ErrNoType = errors.New("the kernel does not know this type of set")
	// ErrNoSet: there is no set of the name.
	ErrNoSet = errors.New("no such set")
	// ErrForeign: a set of the name exists and has another type or family.
	ErrForeign = errors.New("a set of this name but of another type or family exists")
	// ErrFull: the set has LargestMaxElem entries.
	ErrFull = errors.New("the set is full")
	// ErrInUse: a rule, or another set, refers to the set.
	ErrInUse = errors.New("the set is in use")
	// ErrNoAnswer: the kernel did not answer in time. Whether it did what was asked
	// for is not known.
	ErrNoAnswer = bounded.ErrNoAnswer
)

// OpError is an operation that failed. It unwraps to the meaning above, if there
// is one, and to the kernel's errno.
type OpError struct {
	Op  string // "create", "change", …
	Set string // "" if it concerns all
	Err error
}

func (e *OpError) Error() string {
	if e.Set == "" {
		return "ipset: " + e.Op + ": " + e.Err.Error()
	}
	return "ipset: " + e.Op + " " + e.Set + ": " + e.Err.Error()
}

func (e *OpError) Unwrap() error { return e.Err }

// Errors of ipset beside those of the system, enum ipset_errno in linux/netfilter/
// ipset/ip_set.h. The last is of the hash types, which are the only ones to be full.
const (
	errFindType    unix.Errno = 4098
	errReferenced  unix.Errno = 4108
	errBusy        unix.Errno = 4100
	errInvalidCIDR unix.Errno = 4104
	errSKBInfo     unix.Errno = 4114
	errFull        unix.Errno = 4352
)

// explain adds what an errno of ipset means.
func explain(err error) error {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return err
	}
	switch errno {
	case unix.EPERM:
		return fmt.Errorf("%w: needs CAP_NET_ADMIN", err)
	case unix.ENOENT:
		return fmt.Errorf("%w: %w", ErrNoSet, err)
	case errBusy, errReferenced:
		return fmt.Errorf("%w: %w", ErrInUse, err)
	case errInvalidCIDR:
		return fmt.Errorf("the network's length is not possible: %w", err)
	case errSKBInfo:
		return fmt.Errorf("the set carries no marks: %w", err)
	}
	return err
}

// ignore turns an error that has a meaning into none.
func ignore(err, meaning error) error {
	if errors.Is(err, meaning) {
		return nil
	}
	return err
}

func failed(op, set string, err error) error {
	if err == nil {
		return nil
	}
	return &OpError{Op: op, Set: set, Err: err}
}
