package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"switchyard/proxier"
)

const (
	// maxText bounds what one attribute of a log line may hold, in bytes: a line
	// with an error and a stack stays under 4 KiB.
	maxText = 1500
	// maxNamed bounds the services that one apply logs by name; the rest is a
	// count, so that a table that refuses 10,000 services gives nine lines.
	maxNamed = 8
	// maxDistinct bounds the messages that one repeats tells apart. Those that
	// come after are counted together: an error that carries a number is a new
	// message each time.
	maxDistinct = 16
)

// diary writes a family's log: each condition is one line when it begins, then a
// count.
type diary struct {
	synced   bool // an apply has succeeded
	log      *slog.Logger
	failures repeats // of Compile and Apply
	blind    repeats // of Drifted
	drifts   repeats // its answers
	aside    []proxier.SetAside
}

// repeats counts messages until they are forgotten.
type repeats struct {
	counts map[string]int
	total  int
}

// add counts a message. It returns how often it has come, and whether to say so:
// at the first time and at each power of ten, lest a long trouble be silent.
func (r *repeats) add(message string) (count int, say bool) {
	if r.counts == nil {
		r.counts = map[string]int{}
	}
	message = clip(message)
	if _, known := r.counts[message]; !known && len(r.counts) >= maxDistinct {
		message = "" // all others
	}
	r.counts[message]++
	r.total++
	return r.counts[message], powerOfTen(r.counts[message])
}

func (r *repeats) forget() { *r = repeats{} }

func powerOfTen(n int) bool {
	for n%10 == 0 && n > 0 {
		n /= 10
	}
	return n == 1
}

// trouble logs an error unless it is a mere repetition.
func (d *diary) trouble(r *repeats, message string, err error, attrs ...any) {
	count, say := r.add(err.Error())
	if !say {
		return
	}
	attrs = append(attrs, "error", clip(err.Error()), "count", count)
	if p := (*panicked)(nil); errors.As(err, &p) {
		attrs = append(attrs, "stack", clip(string(p.stack)))
	}
	d.log.Error(message, attrs...)
}

// over says how often something failed that works again, if it did, and forgets it.
func (d *diary) over(r *repeats, message string) {
	if r.total > 0 {
		d.log.Info(message, "failures", r.total)
		r.forget()
	}
}

func (d *diary) failed(err error, retry time.Duration) {
	d.trouble(&d.failures, "apply failed: the kernel keeps what it has; trying again", err, "retry", retry)
}

func (d *diary) drifted(what string) {
	if count, say := d.drifts.add(what); say {
		d.log.Warn("somebody else changed the kernel: repairing", "lost", clip(what), "count", count)
	}
}

// applied logs one line for an apply that wrote something. One that wrote nothing
// is for those who debug.
func (d *diary) applied(state *proxier.State, r proxier.Report) {
	d.over(&d.failures, "apply works again")
	level := slog.LevelDebug
	if r.Operations > 0 || !d.synced {
		level = slog.LevelInfo // the first one also if there was nothing to write
	}
	d.synced = true
	attrs := []slog.Attr{
		slog.Int("services", len(state.Services)),
		slog.Int("operations", r.Operations),
		slog.Any("written", r.Written),
		slog.Any("deleted", r.Deleted),
		slog.Duration("took", r.Took),
	}
	if r.Repaired != "" {
		attrs = append(attrs, slog.String("repaired", clip(r.Repaired)))
	}
	d.log.LogAttrs(context.Background(), level, "applied", attrs...)
}

// setAside logs the services that are set aside and were not, and those that no
// longer are. It returns both.
func (d *diary) setAside(now []proxier.SetAside) (gone, back []proxier.SetAside) {
	gone, back = without(now, d.aside), without(d.aside, now)
	d.aside = now
	d.name(slog.LevelWarn, "service set aside: it is not in the kernel as wanted, all others are; trying again", gone)
	d.name(slog.LevelInfo, "service no longer set aside", back)
	return gone, back
}

func (d *diary) name(level slog.Level, message string, list []proxier.SetAside) {
	named := list[:min(len(list), maxNamed)]
	for _, s := range named {
		d.log.Log(context.Background(), level, message, "service", s.Service.String(),
			"protocol", s.Protocol.String(), "reason", clip(fmt.Sprint(s.Reason)))
	}
	if more := len(list) - len(named); more > 0 {
		d.log.Log(context.Background(), level, message, "more", more)
	}
}

// without returns the members of a whose service is not in b.
func without(a, b []proxier.SetAside) []proxier.SetAside {
	type key struct {
		service  proxier.ServicePort
		protocol proxier.Protocol
	}
	in := make(map[key]bool, len(b))
	for _, s := range b {
		in[key{s.Service, s.Protocol}] = true
	}
	var out []proxier.SetAside
	for _, s := range a {
		if k := (key{s.Service, s.Protocol}); !in[k] {
			in[k] = true // a service that is listed twice is named once
			out = append(out, s)
		}
	}
	return out
}

// clip shortens a text for the log.
func clip(text string) string {
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText], "") + " …"
}
