package vs

import (
	"fmt"
	"slices"
	"strings"
)

// Flags are the flags of a scheduler: those of sh and mh. Their bits are the
// kernel's, IP_VS_SVC_F_* in linux/ip_vs.h.
type Flags uint32

// The flags of sh and of mh, which share two bits.
const (
	Fallback Flags = 1 << 3 // IP_VS_SVC_F_SCHED1: if the chosen destination has weight 0, take another
	Port     Flags = 1 << 4 // IP_VS_SVC_F_SCHED2: the client's port counts, too
)

// Schedulers are the schedulers that a kernel may have, each a module ip_vs_<name>.
func Schedulers() []string {
	return []string{"rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh"}
}

// flagged are the schedulers that have flags.
var flagged = []string{"sh", "mh"}

// ParseScheduler reads a scheduler with its flags, as in "mh,mh-port,mh-fallback".
// Spaces around the commas are allowed. The error says what is wrong and what there
// is. Whether the kernel at hand has the scheduler only Kernel.Add can tell.
func ParseScheduler(text string) (name string, flags Flags, err error) {
	parts := strings.Split(text, ",")
	name = strings.TrimSpace(parts[0])
	if !slices.Contains(Schedulers(), name) {
		return "", 0, fmt.Errorf("scheduler %q is unknown: there are %s", name, strings.Join(Schedulers(), ", "))
	}
	for _, part := range parts[1:] {
		flag, err := parseFlag(name, strings.TrimSpace(part))
		if err != nil {
			return "", 0, err
		}
		flags |= flag
	}
	return name, flags, nil
}

func parseFlag(scheduler, text string) (Flags, error) {
	if !slices.Contains(flagged, scheduler) {
		return 0, fmt.Errorf("scheduler %s has no flag %q: only sh and mh have flags", scheduler, text)
	}
	switch text {
	case scheduler + "-fallback":
		return Fallback, nil
	case scheduler + "-port":
		return Port, nil
	}
	return 0, fmt.Errorf("scheduler %s has no flag %q: there are %[1]s-port, %[1]s-fallback", scheduler, text)
}

// String is the scheduler with its flags, as ParseScheduler reads it.
func (s Server) String() string {
	text := s.Scheduler
	if s.Flags&Port != 0 {
		text += "," + s.Scheduler + "-port"
	}
	if s.Flags&Fallback != 0 {
		text += "," + s.Scheduler + "-fallback"
	}
	if s.Persistence > 0 {
		text += " persistent " + s.Persistence.String()
	}
	return text
}
