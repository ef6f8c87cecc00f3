package main

import (
	"testing"
	"testing/synctest"
	"time"
)

// The patience for the Node ends when it ends, and not with the wait in which it
// does.
func TestWaitsEndWithThePatience(t *testing.T) {
	for _, c := range []struct {
		name       string
		delivered  time.Duration // ago; 0: not yet
		wait, want time.Duration
	}{
		{"nothing is delivered", 0, 16 * time.Second, 16 * time.Second},
		{"there is time", 10 * time.Second, 8 * time.Second, 8 * time.Second},
		{"it ends in the wait", 20 * time.Second, 16 * time.Second, 10 * time.Second},
		{"it is over", 40 * time.Second, 16 * time.Second, 16 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &start{}
			if c.delivered > 0 {
				s.delivered = time.Now().Add(-c.delivered)
			}
			if got := s.notLongerThanPatience(c.wait); got != c.want {
				t.Errorf("%s: %v, want %v", c.name, got, c.want)
			}
		})
	}
}
