package manifest

import (
	"fmt"
	"strconv"
	"strings"
)

// Error is what is wrong with a file, at one place of it.
type Error struct {
	File string
	// Line and Column count from 1; 0: not known. Column is in characters and
	// is for editors; the message leaves it out.
	Line, Column int
	Object       string // "Service default/web"; empty where none is known
	Field        string // "spec.ports[0].port"; empty where it is the whole object
	Reason       string // `"eighty": expected an integer`
	// More counts the other errors of the same file.
	More int
}

// Error is the form that editors and compilers use: file:line: and the rest.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		b.WriteString(":" + strconv.Itoa(e.Line))
	}
	for _, part := range []string{e.Object, e.Field, e.Reason} {
		if part != "" {
			b.WriteString(": " + part)
		}
	}
	switch {
	case e.More == 1:
		b.WriteString(" (and 1 more error in this file)")
	case e.More > 1:
		fmt.Fprintf(&b, " (and %d more errors in this file)", e.More)
	}
	return b.String()
}

// maxShown bounds what a message repeats of a value, in bytes.
const maxShown = 64

// quote is how a message repeats a string.
func quote(s string) string {
	if len(s) > maxShown {
		return strconv.Quote(s[:maxShown]) + "…"
	}
	return strconv.Quote(s)
}
