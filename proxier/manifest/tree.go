package manifest

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// Bounds of one document. No API object comes near them; a few lines with
// aliases of aliases could otherwise fill the memory.
const (
	maxDepth   = 200
	maxAliased = 100_000 // values that come from aliases
)

type kind uint8

const (
	scalar kind = iota
	object
	list
)

// value is a YAML value as JSON has it, aliases and merges resolved, that
// remembers where it stands.
type value struct {
	kind         kind
	scalar       any      // nil, bool, int64, uint64, float64 or string
	fields       []member // of an object, as written
	items        []*value // of a list
	line, column int
}

type member struct {
	name         string
	value        *value
	line, column int
}

// get returns a field of an object, nil if there is none.
func (v *value) get(name string) *value {
	for i := range v.fields {
		if v.fields[i].name == name {
			return v.fields[i].value
		}
	}
	return nil
}

// text returns a field that is a string, "" if it is not.
func (v *value) text(name string) string {
	if f := v.get(name); f != nil {
		s, _ := f.scalar.(string)
		return s
	}
	return ""
}

func (v *value) isNull() bool { return v.kind == scalar && v.scalar == nil }

// String is how a message names the value.
func (v *value) String() string {
	switch v.kind {
	case object:
		return "an object"
	case list:
		return "a list"
	}
	switch s := v.scalar.(type) {
	case nil:
		return "null"
	case string:
		return quote(s)
	case float64:
		return strconv.FormatFloat(s, 'g', -1, 64)
	}
	return fmt.Sprint(v.scalar)
}

// json appends the value as JSON.
func (v *value) json(b []byte) []byte {
	switch v.kind {
	case object:
		b = append(b, '{')
		for i := range v.fields {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendScalar(b, v.fields[i].name), ':')
			b = v.fields[i].value.json(b)
		}
		return append(b, '}')
	case list:
		b = append(b, '[')
		for i, item := range v.items {
			if i > 0 {
				b = append(b, ',')
			}
			b = item.json(b)
		}
		return append(b, ']')
	}
	return appendScalar(b, v.scalar)
}

func appendScalar(b []byte, s any) []byte {
	text, err := json.Marshal(s)
	if err != nil { // not for any of the types that a scalar has
		return append(b, "null"...)
	}
	return append(b, text...)
}

// grower turns the YAML nodes of one document into values.
type grower struct {
	depth   int
	aliases int // how many aliases lead to here
	aliased int
}

// fault is an error at a place of a document.
type fault struct {
	line, column int
	reason       string
}

func (f *fault) Error() string { return f.reason }

func faultAt(n *yaml.Node, format string, args ...any) *fault {
	return &fault{n.Line, n.Column, fmt.Sprintf(format, args...)}
}

func (g *grower) grow(n *yaml.Node) (*value, *fault) {
	if g.depth++; g.depth > maxDepth {
		return nil, faultAt(n, "nested deeper than %d levels", maxDepth)
	}
	defer func() { g.depth-- }()
	if g.aliases > 0 {
		if g.aliased++; g.aliased > maxAliased {
			return nil, faultAt(n, "aliases expand to more than %d values", maxAliased)
		}
	}
	switch n.Kind {
	case yaml.DocumentNode:
		if len(n.Content) == 0 {
			return &value{line: n.Line, column: n.Column}, nil
		}
		return g.grow(n.Content[0])
	case yaml.AliasNode:
		g.aliases++
		defer func() { g.aliases-- }()
		return g.grow(n.Alias)
	case yaml.MappingNode:
		return g.mapping(n)
	case yaml.SequenceNode:
		return g.sequence(n)
	case yaml.ScalarNode:
		s, err := plain(n)
		return &value{scalar: s, line: n.Line, column: n.Column}, err
	}
	return &value{line: n.Line, column: n.Column}, nil
}

func (g *grower) sequence(n *yaml.Node) (*value, *fault) {
	v := &value{kind: list, line: n.Line, column: n.Column, items: make([]*value, 0, len(n.Content))}
	for _, c := range n.Content {
		item, err := g.grow(c)
		if err != nil {
			return nil, err
		}
		v.items = append(v.items, item)
	}
	return v, nil
}

func (g *grower) mapping(n *yaml.Node) (*value, *fault) {
	v := &value{kind: object, line: n.Line, column: n.Column}
	lines := map[string]int{}
	var merged []*value
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		if key.Kind != yaml.ScalarNode {
			return nil, faultAt(n.Content[i], "a field name must be a string")
		}
		if first, twice := lines[key.Value]; twice {
			return nil, faultAt(n.Content[i], "field %s is here twice, first on line %d", quote(key.Value), first)
		}
		field, err := g.grow(n.Content[i+1])
		if err != nil {
			return nil, err
		}
		if key.ShortTag() == "!!merge" {
			merged = append(merged, field)
			continue
		}
		lines[key.Value] = n.Content[i].Line
		v.fields = append(v.fields, member{key.Value, field, n.Content[i].Line, n.Content[i].Column})
	}
	for _, from := range merged {
		if err := v.merge(from, lines); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// merge adds the fields of the objects behind "<<" that are not here already.
func (v *value) merge(from *value, lines map[string]int) *fault {
	sources := []*value{from}
	if from.kind == list {
		sources = from.items
	}
	for _, source := range sources {
		if source.kind != object {
			return &fault{from.line, from.column, "only objects can be merged with <<"}
		}
		for _, f := range source.fields {
			if _, known := lines[f.name]; !known {
				lines[f.name] = f.line
				v.fields = append(v.fields, f)
			}
		}
	}
	return nil
}

// plain returns what a scalar means. As kubectl does, it reads the plain words
// of YAML 1.1 for true and false.
func plain(n *yaml.Node) (any, *fault) {
	var out any
	switch n.ShortTag() {
	case "!!null":
		return nil, nil
	case "!!bool", "!!int", "!!float":
		if err := n.Decode(&out); err != nil {
			return nil, faultAt(n, "%s: not what its tag %s says", quote(n.Value), n.ShortTag())
		}
	case "!!str":
		if n.Style == 0 {
			return oldBool(n.Value), nil
		}
		return n.Value, nil
	default:
		return n.Value, nil
	}
	switch x := out.(type) {
	case int:
		return int64(x), nil
	case float64:
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return nil, faultAt(n, "%s: not a number that JSON can hold", quote(n.Value))
		}
	}
	return out, nil
}

func oldBool(s string) any {
	switch s {
	case "y", "Y", "yes", "Yes", "YES", "on", "On", "ON":
		return true
	case "n", "N", "no", "No", "NO", "off", "Off", "OFF":
		return false
	}
	return s
}
