//go:build !race

package userspace

const raced = false
