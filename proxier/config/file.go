package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	tree "go.yaml.in/yaml/v3"
	kubeproxy "k8s.io/kube-proxy/config/v1alpha1"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// maxFile bounds what is read: a ConfigMap holds no more than 1 MiB.
const maxFile = 1 << 20

// file is a configuration file as it was written, without defaults. The zero file
// stands for none.
type file struct {
	path     string
	said     configuration
	lines    map[string]int // of each field that is there, by its path
	warnings []string
}

func readFile(path string) (*file, error) {
	text, err := readText(path)
	if err != nil {
		return nil, err
	}
	return decode(path, text)
}

func readText(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("read configuration: %s: larger than %d bytes", path, maxFile)
	}
	return text, nil
}

// decode reads a file's text as upstream does: values by the rules of Kubernetes'
// YAML, names exactly. The second reading, as a tree, is for the lines.
func decode(path string, text []byte) (*file, error) {
	f := &file{path: path, lines: map[string]int{}}
	if err := f.survey(text); err != nil {
		return nil, f.fault(err)
	}
	object, err := yaml.YAMLToJSON(text)
	if err != nil {
		return nil, f.fault(err)
	}
	var meant map[string]any
	if err := json.UnmarshalCaseSensitivePreserveInts(object, &meant); err != nil {
		return nil, fmt.Errorf("%s: must be an object with apiVersion %s and kind %s", path, kubeproxy.SchemeGroupVersion, kind)
	}
	if meant["apiVersion"] != kubeproxy.SchemeGroupVersion.String() || meant["kind"] != kind {
		return nil, fmt.Errorf("%s: apiVersion %s, kind %s: must be %s, %s", path,
			quote(meant["apiVersion"]), quote(meant["kind"]), kubeproxy.SchemeGroupVersion, kind)
	}
	strict, err := json.UnmarshalStrict(object, &f.said, json.DisallowUnknownFields)
	if err != nil {
		return nil, errors.Join(f.blame(meant, err)...)
	}
	slices.SortFunc(strict, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	for _, err := range strict {
		f.warn(err)
	}
	return f, nil
}

// warn names a field that is unknown.
func (f *file) warn(err error) {
	field, ok := err.(json.FieldError)
	if !ok {
		f.warnings = append(f.warnings, f.fault(err).Error())
		return
	}
	f.warnings = append(f.warnings, fmt.Sprintf("%s: unknown field, ignored", f.place(field.FieldPath())))
}

// fault is an error of one line, whatever the parser wrote.
func (f *file) fault(err error) error {
	return fmt.Errorf("%s: %s", f.path, strings.Join(strings.Fields(err.Error()), " "))
}

// place is where a field stands: file, line if it is there, and its path.
func (f *file) place(field string) string {
	if !strings.ContainsFunc(field, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return f.at(field) + field
	}
	return f.at(field) + strconv.Quote(field)
}

func (f *file) at(field string) string {
	if line := f.lines[field]; line > 0 {
		return fmt.Sprintf("%s:%d: ", f.path, line)
	}
	return f.path + ": "
}

// survey notes the line of each field, and warns of fields that are there twice and
// of documents after the first.
func (f *file) survey(text []byte) error {
	d := tree.NewDecoder(bytes.NewReader(text))
	var first, second tree.Node
	if err := d.Decode(&first); err != nil {
		if errors.Is(err, io.EOF) {
			return errors.New("is empty")
		}
		return err
	}
	for _, root := range first.Content {
		f.visit("", root)
	}
	if err := d.Decode(&second); !errors.Is(err, io.EOF) {
		f.warnings = append(f.warnings, f.path+": has more than one document: only the first counts")
	}
	return nil
}

// visit walks a tree; aliases are not followed, so it ends.
func (f *file) visit(path string, n *tree.Node) {
	switch n.Kind {
	case tree.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			f.visitField(path, n.Content[i], n.Content[i+1])
		}
	case tree.SequenceNode:
		for i, item := range n.Content {
			at := fmt.Sprintf("%s[%d]", path, i)
			f.lines[at] = item.Line
			f.visit(at, item)
		}
	}
}

func (f *file) visitField(path string, key, value *tree.Node) {
	at := join(path, key.Value)
	if first := f.lines[at]; first > 0 {
		f.warnings = append(f.warnings, fmt.Sprintf("%s:%d: %s: duplicated field, first on line %d: the last one counts",
			f.path, key.Line, strings.TrimPrefix(f.place(at), f.at(at)), first))
	}
	f.lines[at] = key.Line
	f.visit(at, value)
}

func join(path, field string) string {
	if path == "" {
		return field
	}
	return path + "." + field
}
