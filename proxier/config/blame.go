package config

import (
	gojson "encoding/json"
	"fmt"
	"slices"

	"sigs.k8s.io/json"
)

// blame finds the fields whose values have the wrong type. The decoder stops at the
// first, and where a type decodes itself it does not name it; so each part of the
// document is asked about alone.
func (f *file) blame(document map[string]any, whole error) []error {
	var found []culprit
	for _, name := range sorted(document) {
		found = append(found, suspect{name}.search(document[name])...)
	}
	var errs []error
	for _, c := range found {
		errs = append(errs, fmt.Errorf("%s: %s: must be %s", f.place(c.path.String()), quote(c.value), c.path.wants()))
	}
	if len(errs) == 0 { // each part is good alone: nothing known makes that so
		errs = append(errs, f.fault(whole))
	}
	return errs
}

// suspect is the path to a part of a document: strings are fields, ints are indices.
type suspect []any

// culprit is a value that does not fit.
type culprit struct {
	path  suspect
	value any
}

func (s suspect) String() string {
	path := ""
	for _, step := range s {
		switch step := step.(type) {
		case string:
			path = join(path, step)
		case int:
			path += fmt.Sprintf("[%d]", step)
		}
	}
	return path
}

// search goes down until a value does not fit even without what is in it.
func (s suspect) search(value any) []culprit {
	if s.fits(value) {
		return nil
	}
	var found []culprit
	switch v := value.(type) {
	case map[string]any:
		if !s.fits(map[string]any{}) {
			break
		}
		for _, name := range sorted(v) {
			found = append(found, s.step(name).search(v[name])...)
		}
	case []any:
		if !s.fits([]any{}) {
			break
		}
		for i, item := range v {
			found = append(found, s.step(i).search(item)...)
		}
	}
	if len(found) == 0 {
		return []culprit{{s, value}}
	}
	return found
}

func (s suspect) step(to any) suspect { return append(slices.Clone(s), to) }

// fits reports whether a document with nothing but this value can be read.
func (s suspect) fits(value any) bool {
	for i := len(s) - 1; i >= 0; i-- {
		if name, ok := s[i].(string); ok {
			value = map[string]any{name: value}
		} else {
			value = []any{value}
		}
	}
	text, err := gojson.Marshal(value)
	if err != nil {
		return false
	}
	var c configuration
	return json.UnmarshalCaseSensitivePreserveInts(text, &c) == nil
}

// wants says what may stand there, found by trying. The order matters: the first
// that fits is the narrowest true answer.
func (s suspect) wants() string {
	for _, try := range []struct {
		value any
		is    string
	}{
		{map[string]any{}, "an object"},
		{[]any{}, "a list"},
		{"x", "a string"},
		{"1s", "a duration such as 30s"},
		{true, "true or false"},
		{"1Ki", "a quantity such as 64Ki"},
		{0.5, "a number"},
		{-1, "a whole number of 32 bits"},
		{1, "a whole number of 32 bits, not negative"},
	} {
		if s.fits(try.value) {
			return try.is
		}
	}
	return "something else"
}

func sorted(m map[string]any) []string {
	var names []string
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// quote prints a value as JSON, cut where a line would grow too long.
func quote(value any) string {
	const longest = 60
	text, err := gojson.Marshal(value)
	if err != nil {
		return fmt.Sprintf("%q", fmt.Sprint(value))
	}
	if r := []rune(string(text)); len(r) > longest {
		return string(r[:longest]) + "…"
	}
	return string(text)
}
