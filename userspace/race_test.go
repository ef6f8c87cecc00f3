//go:build race

package userspace

// raced: the race detector is on, which takes memory and time.
const raced = true
