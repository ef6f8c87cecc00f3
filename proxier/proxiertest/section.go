package proxiertest

import (
	"bytes"
	"iter"
	"strings"
)

// section is a part of a scenario's file. txtar.Parse gives the same parts but
// neither their lines, which errors need, nor their offsets, which WriteState
// needs to leave every other byte alone.
type section struct {
	name  string // "" for what stands before the first marker
	line  int    // of the marker, from 1
	start int    // offset of the body
	body  []byte
}

// split cuts a file at its "-- name --" lines; the first section has no name.
func split(data []byte) []section {
	parts := []section{{line: 1}}
	line, offset := 0, 0
	for text := range bytes.Lines(data) {
		line++
		cur := &parts[len(parts)-1]
		if name, ok := marker(text); ok {
			parts = append(parts, section{name: name, line: line, start: offset + len(text)})
		} else {
			cur.body = data[cur.start : offset+len(text)]
		}
		offset += len(text)
	}
	return parts
}

func marker(line []byte) (string, bool) {
	text := strings.TrimRight(string(line), "\r\n")
	rest, ok := strings.CutPrefix(text, "-- ")
	name, ok2 := strings.CutSuffix(rest, " --")
	name = strings.TrimSpace(name)
	return name, ok && ok2 && name != ""
}

// lines yields the number and the text of each line, without blank lines and
// comments.
func (s section) lines() iter.Seq2[int, string] {
	return func(yield func(int, string) bool) {
		n := s.line
		for text := range strings.Lines(string(s.body)) {
			n++
			text, _, _ = strings.Cut(text, "#")
			text = strings.TrimSpace(text)
			if text != "" && !yield(n, text) {
				return
			}
		}
	}
}
