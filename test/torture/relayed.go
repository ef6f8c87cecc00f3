package main

import (
	"context"
	"fmt"
	"strings"

	"switchyard/proxier"
	"switchyard/test/netlab"
	"switchyard/userspace"
)

// relayed is the userspace mode: rules that lead to the process.
type relayed struct{ *xtables }

func (r *relayed) traits() traits { return traits{relayed: true} }

// fresh programs what the mode prints. Its backend would open a relay, too.
func (r *relayed) fresh(ctx context.Context, host *netlab.Host, want states, s proxier.Settings) error {
	for f, state := range want {
		text, err := userspace.Render(state, s)
		if err != nil {
			return err
		}
		cmd := host.Command(ctx, r.tool(f, "-restore"), "-w", "5", "--noflush")
		cmd.Stdin = strings.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("restore: %w: %s", err, out)
		}
		for line := range strings.Lines(text) {
			if rule, ok := strings.CutPrefix(line, "# -t "); ok {
				if err := r.base(ctx, host, f, rule); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// fresh connections: of a rule in a base chain, the backend gives matches first and the
// comment last, and so the kernel has them.
const fresh = " -m conntrack --ctstate NEW"

// base adds a rule of which the rendering tells in a comment.
func (r *relayed) base(ctx context.Context, host *netlab.Host, f proxier.Family, rule string) error {
	if before, after, ok := strings.Cut(rule, fresh); ok {
		at := strings.Index(before, " -m comment")
		rule = before[:at] + fresh + before[at:] + after
	}
	words := fmt.Sprintf("%s -w -t %s", r.tool(f, ""), rule) // the comment's quotes are the shell's, too
	_, err := host.Output(ctx, "sh", "-c", words)
	return err
}

// curses are the ends of the rules that refuse: no rule tells of an endpoint.
func (r *relayed) curses(slot int, name string) (texts []string) {
	for _, port := range portNames {
		texts = append(texts, fmt.Sprintf("default/slot-%02d-%s:%s has no endpoints", slot, name, port))
	}
	return texts
}

func (r *relayed) damages() map[string]damage {
	all := r.xtables.damages()
	// Every proxied connection is reset, on either side of the relay.
	all["reset"] = damage{flows: true, harmless: true, do: func(host *netlab.Host, _ int) error {
		_, err := host.Output(context.Background(), "ss", "-K", "state", "established")
		return err
	}}
	return all
}
