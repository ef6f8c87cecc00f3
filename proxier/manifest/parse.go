package manifest

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"switchyard/proxier/cluster"
)

// The kinds that are read. All others are ignored.
const (
	kindService = "Service"
	kindSlice   = "EndpointSlice"
	kindNode    = "Node"
)

// apiVersions are what the kinds must be written in.
var apiVersions = map[string]string{
	kindService: "v1",
	kindSlice:   "discovery.k8s.io/v1",
	kindNode:    "v1",
}

// key tells objects apart.
type key struct {
	kind string
	name cluster.Name
}

func (k key) String() string {
	if k.kind == kindNode {
		return k.kind + " " + k.name.Name
	}
	return k.kind + " " + k.name.String()
}

// Ignored is an object of a kind that a proxy has no use for.
type Ignored struct {
	File string
	Line int
	Kind string // "Deployment"
}

// entry is one object of a file. Exactly one of the pointers is set.
type entry struct {
	key     key
	file    string
	line    int
	service *corev1.Service
	slice   *discoveryv1.EndpointSlice
	node    *corev1.Node
}

// parsed is what one file holds.
type parsed struct {
	file    string
	entries []*entry
	ignored []Ignored
	errs    []*Error
}

// parse reads the documents of one file. With errors, the entries are not to be
// used.
func parse(file string, data []byte) *parsed {
	p := &parsed{file: file}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var node yaml.Node
		err := decoder.Decode(&node)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			p.errs = append(p.errs, syntaxError(file, data, err))
			break
		}
		g := grower{}
		root, fault := g.grow(&node)
		if fault != nil {
			p.refuse(&value{line: fault.line, column: fault.column}, "", nil, fault.reason)
			continue
		}
		p.document(root)
	}
	slices.SortStableFunc(p.errs, func(a, b *Error) int { return cmp.Compare(a.Line, b.Line) })
	return p
}

// first is the error to show for the file, nil if there is none.
func (p *parsed) first() error {
	if len(p.errs) == 0 {
		return nil
	}
	e := *p.errs[0]
	e.More = len(p.errs) - 1
	return &e
}

func (p *parsed) refuse(at *value, object string, path *field.Path, reason string) {
	e := &Error{File: p.file, Line: at.line, Column: at.column, Object: object, Reason: reason}
	if path != nil {
		e.Field = path.String()
	}
	p.errs = append(p.errs, e)
}

func (p *parsed) document(root *value) {
	if root.isNull() {
		return
	}
	if root.kind != object {
		p.refuse(root, "", nil, root.String()+": expected an object with apiVersion and kind")
		return
	}
	kind, version := root.text("kind"), root.text("apiVersion")
	if p.needs(root, "kind", kind) && p.needs(root, "apiVersion", version) {
		p.object(root, kind, version)
	}
}

func (p *parsed) needs(root *value, name, text string) bool {
	if text != "" {
		return true
	}
	at, reason := root, "required"
	if f := root.get(name); f != nil && !f.isNull() {
		at, reason = f, f.String()+": expected a string"
	}
	p.refuse(at, "", field.NewPath(name), reason)
	return false
}

// object reads an object, or the items of a list.
func (p *parsed) object(root *value, kind, version string) {
	group, _, grouped := strings.Cut(version, "/")
	item, isList := strings.CutSuffix(kind, "List")
	wanted, known := apiVersions[item]
	wantedGroup, _, wantedGrouped := strings.Cut(wanted, "/")
	switch {
	case isList && item == "" && version == "v1":
		p.items(root, "", "")
	case !known || grouped != wantedGrouped || grouped && group != wantedGroup:
		p.ignored = append(p.ignored, Ignored{p.file, root.line, kind})
	case version != wanted:
		p.refuse(root.get("apiVersion"), label(root, kind), field.NewPath("apiVersion"),
			quote(version)+": expected "+quote(wanted))
	case isList:
		p.items(root, item, wanted)
	default:
		p.read(root, kind)
	}
}

// items reads the items of a list. Those of a typed list (a ServiceList) need
// not repeat what they are.
func (p *parsed) items(root *value, kind, version string) {
	items := root.get("items")
	if items == nil || items.isNull() {
		return
	}
	if items.kind != list {
		p.refuse(items, "", field.NewPath("items"), items.String()+": expected a list")
		return
	}
	for _, item := range items.items {
		switch {
		case kind != "" && item.kind == object && item.get("kind") == nil && item.get("apiVersion") == nil:
			p.object(item, kind, version)
		case item.kind == object && strings.HasSuffix(item.text("kind"), "List"):
			p.refuse(item, "", field.NewPath("items"), "a list within a list")
		default:
			p.document(item)
		}
	}
}

// read reads one object of a kind that counts.
func (p *parsed) read(root *value, kind string) {
	before, name := len(p.errs), label(root, kind)
	check := schema{func(at *value, path *field.Path, reason string) { p.refuse(at, name, path, reason) }}
	e := &entry{file: p.file, line: root.line}
	v := &validator{root: root, refuse: func(path *field.Path, reason string) {
		at, _ := root.find(path.String())
		p.refuse(at, name, path, reason)
	}}
	var meta *metav1.ObjectMeta
	var into any
	var finish func()
	switch kind {
	case kindService:
		e.service = &corev1.Service{}
		into, meta, finish = e.service, &e.service.ObjectMeta, func() { defaultService(e.service); v.service(e.service) }
	case kindSlice:
		e.slice = &discoveryv1.EndpointSlice{}
		into, meta, finish = e.slice, &e.slice.ObjectMeta, func() { defaultSlice(e.slice); v.slice(e.slice) }
	default:
		e.node = &corev1.Node{}
		into, meta, finish = e.node, &e.node.ObjectMeta, func() { defaultNode(e.node); v.node(e.node) }
	}
	check.check(root, reflect.TypeOf(into), nil)
	if len(p.errs) > before {
		return
	}
	if err := json.Unmarshal(root.json(nil), into); err != nil {
		p.refuse(root, name, nil, err.Error())
		return
	}
	finish()
	e.key = key{kind, cluster.Name{Namespace: meta.Namespace, Name: meta.Name}}
	p.entries = append(p.entries, e)
}

// label names an object as far as it can be read.
func label(root *value, kind string) string {
	meta := root.get("metadata")
	if meta == nil {
		return kind
	}
	name := meta.text("name")
	if name == "" {
		return kind
	}
	return key{kind, cluster.Name{Namespace: cmp.Or(meta.text("namespace"), defaultNamespace), Name: name}}.String()
}

// find returns the value at a field path and true, or the innermost one on the
// way there that exists and false.
func (v *value) find(path string) (*value, bool) {
	for path != "" {
		var next *value
		if path[0] == '[' {
			var index string
			index, path, _ = strings.Cut(path[1:], "]")
			next = v.at(index)
		} else {
			end := len(path)
			if i := strings.IndexAny(path, ".["); i >= 0 {
				end = i
			}
			next, path = v.get(path[:end]), path[end:]
		}
		if next == nil {
			return v, false
		}
		v, path = next, strings.TrimPrefix(path, ".")
	}
	return v, true
}

// at returns what a field path has in brackets: an item of a list, or a key of a
// map.
func (v *value) at(index string) *value {
	if i, err := strconv.Atoi(index); err == nil && v.kind == list && i >= 0 && i < len(v.items) {
		return v.items[i]
	}
	return v.get(index)
}

// syntaxLine is how the YAML parser tells a line.
var syntaxLine = regexp.MustCompile(`^line (\d+): `)

// lateLine matches the errors of its grammar, for which it counts lines from 0;
// for those of its scanner it counts from 1.
var lateLine = regexp.MustCompile(`^did not find expected (<document start>|node content|'-' indicator|key|',' or)`)

func syntaxError(file string, data []byte, err error) *Error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	e := &Error{File: file, Line: 1, Reason: "not YAML: " + text}
	if m := syntaxLine.FindStringSubmatch(text); m != nil {
		e.Line, _ = strconv.Atoi(m[1])
		text = text[len(m[0]):]
		if lateLine.MatchString(text) {
			e.Line++
		}
		e.Line = min(e.Line, 1+bytes.Count(bytes.TrimRight(data, "\n"), []byte("\n")))
		e.Reason = "not YAML: " + text
	} else if at := unreadable(data); at >= 0 {
		e.Line = 1 + bytes.Count(data[:at], []byte("\n"))
	}
	return e
}

// unreadable returns the offset of the first byte that no text has, -1 if there
// is none. The YAML parser refuses it without telling a line.
func unreadable(data []byte) int {
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size <= 1 || unicode.IsControl(r) && !unicode.IsSpace(r) {
			return i
		}
		i += size
	}
	return -1
}
