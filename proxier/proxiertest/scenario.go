package proxiertest

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Scenario is one file of the suite.
type Scenario struct {
	File  string   // its path in the file system that it was loaded from
	Name  string   // the file's name without ".txtar"
	Title string   // its first line
	Text  string   // what follows the title
	Tags  []string // "checklist 59", "feature terminating": what stands in brackets in Text

	Flags   Flags
	Cluster []byte // YAML documents
	State   string // what the States of the cluster print as
	Packets []Packet
}

//go:embed scenarios/*.txtar
var files embed.FS

// Suite returns the files of the house's own scenarios, for [Load].
func Suite() fs.FS {
	sub, err := fs.Sub(files, "scenarios")
	if err != nil { // the name is a constant that embed made sure of
		return files
	}
	return sub
}

// Load reads every *.txtar file at the top of a file system, sorted by name. An
// error tells the file and the line.
func Load(fsys fs.FS) ([]Scenario, error) {
	names, err := fs.Glob(fsys, "*.txtar")
	if err != nil {
		return nil, fmt.Errorf("list scenarios: %w", err)
	}
	slices.Sort(names)
	var out []Scenario
	for _, name := range names {
		data, err := fs.ReadFile(fsys, name)
		if err != nil {
			return nil, fmt.Errorf("read scenario: %w", err)
		}
		s, err := Parse(name, data)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// Parse reads one scenario. The name is that of its file.
func Parse(name string, data []byte) (Scenario, error) {
	s := Scenario{File: name, Name: strings.TrimSuffix(path.Base(name), ".txtar"), Flags: DefaultFlags()}
	parts := split(data)
	if err := checkSections(parts); err != nil {
		return s, fmt.Errorf("%s:%w", name, err)
	}
	s.head(string(parts[0].body))
	if s.Title == "" {
		return s, fmt.Errorf("%s:1: no title", name)
	}
	for _, p := range parts[1:] {
		if err := s.add(p); err != nil {
			return s, fmt.Errorf("%s:%w", name, err)
		}
	}
	return s, nil
}

var tag = regexp.MustCompile(`\[([a-z]+ [^\[\]]+)\]`)

func (s *Scenario) head(text string) {
	title, rest, _ := strings.Cut(text, "\n")
	s.Title, s.Text = strings.TrimSpace(title), strings.TrimSpace(rest)
	for _, m := range tag.FindAllStringSubmatch(s.Text, -1) {
		s.Tags = append(s.Tags, m[1])
	}
}

func (s *Scenario) add(p section) error {
	switch p.name {
	case "flags":
		return s.addFlags(p)
	case "cluster.yaml":
		s.Cluster = p.body
	case "state":
		s.State = string(p.body)
	case "packets":
		return s.addPackets(p)
	}
	return nil
}

func (s *Scenario) addFlags(p section) error {
	var args []string
	for n, line := range p.lines() {
		if _, err := parseFlags([]string{line}); err != nil {
			return fmt.Errorf("%d: %w", n, err)
		}
		args = append(args, line)
	}
	flags, err := ParseFlags(args)
	if err != nil {
		return fmt.Errorf("%d: %w", p.line, err)
	}
	s.Flags = flags
	return nil
}

func (s *Scenario) addPackets(p section) error {
	for n, line := range p.lines() {
		packet, err := ParsePacket(line)
		if err != nil {
			return fmt.Errorf("%d: %w", n, err)
		}
		packet.Line = n
		s.Packets = append(s.Packets, packet)
	}
	return nil
}

// Has reports whether the scenario carries a tag.
func (s Scenario) Has(tag string) bool { return slices.Contains(s.Tags, tag) }

func checkSections(parts []section) error {
	order := []string{"", "flags", "cluster.yaml", "state", "packets"}
	last := -1
	for _, p := range parts {
		i := slices.Index(order, p.name)
		switch {
		case i < 0:
			return fmt.Errorf("%d: section %q: want one of %q", p.line, p.name, order[1:])
		case i <= last:
			return fmt.Errorf("%d: section %q: the sections are %q, once each, in this order", p.line, p.name, order[1:])
		}
		last = i
	}
	for _, name := range order[2:] {
		if !slices.ContainsFunc(parts, func(p section) bool { return p.name == name }) {
			return fmt.Errorf("%d: no section %q", 1+bytes.Count(parts[0].body, []byte("\n")), name)
		}
	}
	return nil
}
