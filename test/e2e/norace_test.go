//go:build !race

package e2e

// The program under test is built as the test is.
const raced = false
