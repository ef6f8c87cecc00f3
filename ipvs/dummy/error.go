package dummy

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"switchyard/ipvs/bounded"
)

// What a failure of the kernel means, for errors.Is.
var (
	ErrNoModule = errors.New("the kernel has no dummy devices: load the module dummy")
	// ErrForeign: a device of the name exists and is no dummy device.
	ErrForeign = errors.New("a device of this name exists that is no dummy device")
	// ErrNoDevice: the device is gone; Ensure makes it.
	ErrNoDevice = errors.New("no such device")
	// ErrNoAnswer: the kernel did not answer in time. Whether it did what was asked
	// for is not known.
	ErrNoAnswer = bounded.ErrNoAnswer
)

// OpError is an operation that failed. It unwraps to the meaning above, if there
// is one, and to the kernel's errno.
type OpError struct {
	Op     string // "create", "change addresses", …
	Device string
	Err    error
}

func (e *OpError) Error() string { return "device " + e.Device + ": " + e.Op + ": " + e.Err.Error() }

func (e *OpError) Unwrap() error { return e.Err }

// explain adds what an errno means.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("%w: %w", ErrNoDevice, err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: needs CAP_NET_ADMIN", err)
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: IPv6 is disabled on the device, see its sysctl disable_ipv6", err)
	}
	return err
}
