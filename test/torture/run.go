package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"switchyard/test/netlab"
)

// verdict is what came of a run.
type verdict struct {
	figures  *figures
	failures []string // what was not as promised
	played   int      // steps
	log      string   // the end of the proxy's, since its last start
	whole    []byte   // all of it
}

// run lays out a node, plays the script on it under load, and takes it down again. The
// error is of the run itself, not of the proxy.
func run(ctx context.Context, s Script, o options) (v verdict, err error) {
	st, err := newStage(s, o)
	if err != nil {
		return v, err
	}
	defer func() { err = errors.Join(err, st.close()) }()
	p := &player{stage: st, figures: newFigures(), gap: o.gap}
	v.figures = p.figures
	p.load = newLoad(st, s.Seed, p.figures, p.fail)
	if p.flows, err = st.senders(); err != nil {
		return v, err
	}
	if err := p.begin(ctx); err != nil {
		return v, err
	}
	beside, cancel := context.WithCancel(ctx)
	var wait sync.WaitGroup
	p.attend(beside, &wait)
	if s.Lasts > 0 {
		p.until = time.Now().Add(s.Lasts)
	}
	v.played, err = p.play(ctx, s.Steps)
	cancel()
	wait.Wait()
	p.countCalls()
	v.failures = p.failed()
	if len(v.failures) > 0 {
		v.log = st.proxy.tail()
		v.whole, _ = os.ReadFile(filepath.Join(st.dir, logFile)) // for people: without it there is the end
	}
	return v, err
}

// begin starts the proxy on a node that has some of others' rules already.
func (p *player) begin(ctx context.Context) (err error) {
	for n := range 2 {
		add, _ := p.kernel.strangers(n)
		for _, c := range add {
			if _, err := p.lab.Host(netlab.NodeA).Output(ctx, c[0], c[1:]...); err != nil {
				return err
			}
		}
	}
	if _, p.others, err = p.kernel.dump(p.lab.Host(netlab.NodeA)); err != nil {
		return err
	}
	// UDP comes before the rules.
	end := p.history.hinder()
	defer end()
	if err := p.proxy.start(); err != nil {
		return err
	}
	if err := p.await(ctx, "in sync", func() bool { _, ok := p.proxy.synced(); return ok }); err != nil {
		return fmt.Errorf("first start: %w", err)
	}
	p.history.confirm(p.history.start())
	return nil
}

// attend starts everything that goes on beside the script.
func (p *player) attend(ctx context.Context, wait *sync.WaitGroup) {
	wait.Go(func() { p.load.run(ctx) })
	for i := range slots {
		s := &stream{stage: p.stage, slot: i, figures: p.figures, fail: p.fail}
		p.streams = append(p.streams, s)
		wait.Go(func() { s.run(ctx) })
	}
	for _, f := range p.flows {
		f.figures = p.figures
		wait.Go(func() { f.run(ctx) })
	}
}

func (p *player) countCalls() {
	made, failed := p.wrap.calls()
	p.figures.with(func() {
		p.figures.calls = made
		for kind, n := range failed {
			p.figures.faults["call: "+kind] += n
		}
	})
}
