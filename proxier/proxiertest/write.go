package proxiertest

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// WriteState replaces the state section of a scenario's file and keeps every
// other byte of it.
func WriteState(file, state string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	out, err := ReplaceState(data, state)
	if err != nil {
		return fmt.Errorf("write state: %s: %w", file, err)
	}
	if err := os.WriteFile(file, out, 0o644); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}

// ReplaceState returns a scenario's text with another state section. A state that
// would be read as more than one section is an error.
func ReplaceState(data []byte, state string) ([]byte, error) {
	if state != "" && !strings.HasSuffix(state, "\n") {
		state += "\n"
	}
	if parts := split([]byte(state)); len(parts) > 1 {
		return nil, fmt.Errorf("line %d of the state is a section marker", parts[1].line)
	}
	for _, p := range split(data) {
		if p.name == "state" {
			return slices.Concat(data[:p.start], []byte(state), data[p.start+len(p.body):]), nil
		}
	}
	return nil, fmt.Errorf("no section %q", "state")
}
