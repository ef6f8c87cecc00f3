package privilege

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
	"kernel.org/pub/linux/libs/security/libcap/psx"
)

// needed are the capabilities that the program uses for as long as it runs, and what
// for.
func needed() []cap.Value {
	return []cap.Value{
		cap.NET_ADMIN,        // rules, IPVS, ipsets, addresses, conntrack, net sysctls, packet marks
		cap.NET_RAW,          // iptables-legacy, and ICMP errors of the userspace mode
		cap.NET_BIND_SERVICE, // health-check node ports below 1024, where a cluster has such
	}
}

// Drop takes every capability that the program does not need from all threads, and
// from the programs that it runs, and makes that final. kept is what stays, as cap_to_text
// writes it. A capability that was not there is not missed.
//
// Files are paths that must stay readable, directories with what is in them. If one of
// them is readable by its owner alone, who is another user, DAC_READ_SEARCH stays. A
// path that does not exist is no matter.
//
// What cannot be dropped is an error, and the rest is dropped nevertheless. It needs
// SETPCAP if the bounding set has more than stays.
func Drop(files ...string) (kept string, err error) {
	has := cap.GetProc()
	stays, err := reduced(has, needed()...)
	if err != nil {
		return "", fmt.Errorf("drop capabilities: %w", err)
	}
	if err := try(has, stays); err == nil && !readable(files) {
		if stays, err = reduced(has, append(needed(), cap.DAC_READ_SEARCH)...); err != nil {
			return "", fmt.Errorf("drop capabilities: %w", err)
		}
	}
	_, _, failed := psx.Syscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	if failed != 0 {
		err = fmt.Errorf("set no_new_privs: %w", failed)
	}
	err = errors.Join(err, raise(has, stays), bound(stays), stays.SetProc())
	if err != nil {
		err = fmt.Errorf("drop capabilities: %w", err)
	}
	return strings.TrimSpace(stays.String()), err
}

// reduced has those of some capabilities that a set has: permitted and effective, and
// for another user than root, whose programs get nothing else, inheritable.
func reduced(has *cap.Set, values ...cap.Value) (*cap.Set, error) {
	stays := cap.NewSet()
	for _, flag := range []cap.Flag{cap.Permitted, cap.Effective, cap.Inheritable} {
		for _, v := range values {
			set, err := has.GetFlag(flag, v)
			if err == nil && set {
				err = stays.SetFlag(flag, true, v)
			}
			if err != nil {
				return nil, err
			}
		}
	}
	return stays, nil
}

// try makes only the effective set what it will be.
func try(has, stays *cap.Set) error {
	trial, err := has.Dup()
	if err == nil {
		err = trial.FillFlag(cap.Effective, stays, cap.Effective)
	}
	if err != nil {
		return err
	}
	return trial.SetProc()
}

// raise makes the set effective by which the bounding set is changed.
func raise(has, stays *cap.Set) error {
	more, err := stays.Dup()
	if err == nil {
		err = more.FillFlag(cap.Permitted, has, cap.Permitted)
	}
	if set, _ := has.GetFlag(cap.Permitted, cap.SETPCAP); err == nil && set {
		err = more.SetFlag(cap.Effective, true, cap.SETPCAP)
	}
	if err != nil {
		return err
	}
	return more.SetProc()
}

// bound takes what does not stay out of the bounding set, and so from every program
// that is run, and out of the ambient set.
func bound(stays *cap.Set) error {
	var goes []cap.Value
	for v := cap.Value(0); v < cap.MaxBits(); v++ {
		if set, _ := stays.GetFlag(cap.Permitted, v); set {
			continue
		}
		if in, err := cap.GetBound(v); err == nil && in {
			goes = append(goes, v)
		}
		if in, err := cap.GetAmbient(v); err == nil && in {
			if err := cap.SetAmbient(false, v); err != nil {
				return fmt.Errorf("ambient: %w", err)
			}
		}
	}
	if len(goes) == 0 {
		return nil
	}
	if err := cap.DropBound(goes...); err != nil {
		return fmt.Errorf("bounding set: %w (needs CAP_SETPCAP)", err)
	}
	return nil
}

// readable reports whether no path is refused.
func readable(paths []string) bool {
	for _, root := range paths {
		if root == "" {
			continue
		}
		if target, err := filepath.EvalSymlinks(root); err == nil {
			root = target // a directory is not walked through a symbolic link
		} else if errors.Is(err, fs.ErrPermission) {
			return false
		}
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a pipe must not hold us up
			if err != nil {
				return err
			}
			return f.Close()
		})
		if errors.Is(err, fs.ErrPermission) {
			return false
		}
	}
	return true
}
