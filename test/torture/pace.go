package main

import (
	"time"

	"switchyard/test/uml"
)

// pace is how often things are done and how long they may take.
type pace struct {
	// every is how often a connection is tried, sendEvery how often a sender sends
	// (its flow never expires), streamEvery how often a stream says something.
	every, sendEvery, streamEvery time.Duration
	// patience is how long a connection is waited for: the kernel has sent a lost SYN
	// again after 1 s and after 3 s.
	patience time.Duration
	// silence is how long nothing is heard until there is nothing to hear.
	silence time.Duration
	// resumes is how soon after the rules a UDP flow must go where it should.
	resumes time.Duration
	// grace is how long after a change the kernel may still do as before, while
	// nothing stands in the proxy's way: the source settles for up to half a second,
	// and this machine may be busy.
	grace time.Duration
	// repair is how soon what somebody else broke must be repaired.
	repair time.Duration
	// moved is how long an idle proxy may take to have an endpoint get no more
	// connections, once it knows.
	moved time.Duration
	// beside is how soon a change is in the kernel although another object is refused.
	beside time.Duration
	// sync is how long a started proxy may take until it has programmed.
	sync time.Duration
	// settles is what a change takes to be seen, and what a look that is no more
	// needed is waited for.
	settles time.Duration
}

// light is for several runs at once, on a machine with little else to give.
func (p pace) light() pace {
	p.every, p.sendEvery, p.streamEvery = 4*p.every, 2*p.sendEvery, 2*p.streamEvery
	p.silence, p.grace = 2*p.silence, 2*p.grace
	return p
}

// thisPace is that of the kernel in which the program runs. In User Mode Linux, where
// a system call costs 60 times as much on the one processor, all that is promised in
// milliseconds is only looked at.
func thisPace() pace {
	p := pace{
		every: 2 * time.Millisecond, patience: 4 * time.Second, sendEvery: 50 * time.Millisecond, streamEvery: 50 * time.Millisecond,
		silence: 300 * time.Millisecond, resumes: 2 * time.Second, grace: 5 * time.Second,
		repair: 5 * time.Second, moved: 100 * time.Millisecond, beside: 3 * time.Second, sync: 20 * time.Second,
		settles: 700 * time.Millisecond,
	}
	if uml.Inside() {
		p = pace{
			every: 30 * time.Millisecond, patience: 12 * time.Second, sendEvery: 500 * time.Millisecond, streamEvery: 500 * time.Millisecond,
			silence: 1500 * time.Millisecond, resumes: 15 * time.Second, grace: time.Minute,
			repair: time.Minute, moved: time.Second, beside: 10 * time.Second, sync: 3 * time.Minute,
			settles: 3 * time.Second,
		}
	}
	return p
}
