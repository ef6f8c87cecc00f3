package manifest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"switchyard/proxier/cluster"
)

// put writes a file, relative to dir.
func put(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// serviceNamed is a manifest of a Service on a port.
func serviceNamed(name, port string) string {
	return with(with(goodService, "name: web", "name: "+name), "port: 80", "port: "+port)
}

// contents lists the Services of a Store with their first port and the number of
// their slices: "web:80/1".
func contents(s *cluster.Store) string {
	var all []string
	for _, svc := range s.Snapshot().Services.Slice() {
		port := "none"
		if len(svc.Ports) > 0 {
			port = svc.Ports[0].String()
		}
		all = append(all, svc.Name.Name+" "+port+" "+strings.Repeat("*", len(svc.Slices)))
	}
	return strings.Join(all, ", ")
}

func TestLoad(t *testing.T) {
	tests := []struct {
		what  string
		files map[string]string
		want  string
		errs  string // DIR stands for the directory
	}{
		{"an empty directory", nil, "", ""},
		{"several files", map[string]string{"a.yaml": goodService, "b.yml": goodSlice, "c.json": `{"apiVersion":"v1","kind":"Node","metadata":{"name":"node-1"}}`},
			"web http 80/TCP *", ""},
		{"other files", map[string]string{"a.yaml": goodService, "README.md": "x: [", ".hidden.yaml": "x: [", "b.yaml.bak": "x: ["},
			"web http 80/TCP ", ""},
		{"bad files beside good ones", map[string]string{"a.yaml": goodService, "b.yaml": "x: [", "c.yaml": with(goodSlice, "8080", "x")},
			"web http 80/TCP ", "DIR/b.yaml:1: not YAML: did not find expected node content\nDIR/c.yaml:10: EndpointSlice default/web-1: ports[0].port: \"x\": expected an integer"},
		{"a good object in a bad file", map[string]string{"a.yaml": goodService + "---\n1\n"}, "", "DIR/a.yaml:11: 1: expected an object with apiVersion and kind"},
		{"an object in two files", map[string]string{"a.yaml": serviceNamed("web", "1"), "b.yaml": serviceNamed("web", "2") + "---\n" + serviceNamed("api", "3")},
			"api http 3/TCP , web http 1/TCP ", "DIR/b.yaml:1: Service default/web: already in DIR/a.yaml:1, which stays"},
		{"an object twice in a file", map[string]string{"a.yaml": serviceNamed("web", "1") + "---\n" + serviceNamed("web", "2")},
			"web http 1/TCP ", "DIR/a.yaml:11: Service default/web: already in DIR/a.yaml:1, which stays"},
	}
	for _, test := range tests {
		dir := t.TempDir()
		for name, content := range test.files {
			put(t, dir, name, content)
		}
		store := cluster.NewStore("node-1")
		text := ""
		if err := New(dir, store).Load(); err != nil {
			text = strings.ReplaceAll(err.Error(), dir, "DIR")
		}
		if text != test.errs {
			t.Errorf("%s: error %s\nwant %s", test.what, text, test.errs)
		}
		if got := contents(store); got != test.want {
			t.Errorf("%s: %q, want %q", test.what, got, test.want)
		}
	}
}

func TestLoadOfOnePath(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "shop.txt", goodService)
	store := cluster.NewStore("node-1")
	if err := New(filepath.Join(dir, "shop.txt"), store).Load(); err != nil || contents(store) != "web http 80/TCP " {
		t.Errorf("a single file: %v, %q", err, contents(store))
	}
	if err := New(filepath.Join(dir, "none"), store).Load(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing path: %v", err)
	}
	if err := New("/dev/null", store).Load(); !errors.Is(err, errNotRegular) {
		t.Errorf("a device: %v", err)
	}
	put(t, dir, "dangling.yaml", "")
	_ = os.Remove(filepath.Join(dir, "dangling.yaml"))
	if err := os.Symlink("nowhere", filepath.Join(dir, "dangling.yaml")); err != nil {
		t.Fatal(err)
	}
	err := New(dir, store).Load()
	var typed *Error
	if !errors.As(err, &typed) || typed.File != filepath.Join(dir, "dangling.yaml") || !strings.HasSuffix(err.Error(), "cannot be read: no such file or directory") {
		t.Errorf("a dangling link: %v", err)
	}
}

func TestIgnored(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "a.yaml", "apiVersion: apps/v1\nkind: Deployment\n---\n"+goodService+"---\napiVersion: v1\nkind: Secret\n")
	s := New(dir, cluster.NewStore("node-1"))
	if err := s.Load(); err != nil {
		t.Fatal(err)
	}
	got := s.Ignored()
	if len(got) != 2 || got[0] != (Ignored{filepath.Join(dir, "a.yaml"), 1, "Deployment"}) || got[1].Line != 14 {
		t.Errorf("%v", got)
	}
}

// Loading again sets only what changed, and takes back what is gone.
func TestLoadAgain(t *testing.T) {
	dir := t.TempDir()
	store := cluster.NewStore("node-1")
	s := New(dir, store)
	steps := []struct {
		what, a, b   string
		want         string
		set, deleted int
	}{
		{"first", goodService + "---\n" + goodSlice, goodNode, "web http 80/TCP *", 3, 0},
		{"nothing", goodService + "---\n" + goodSlice, goodNode, "web http 80/TCP *", 0, 0},
		{"a comment", "# new\n" + goodService + "---\n" + goodSlice, goodNode, "web http 80/TCP *", 0, 0},
		{"a port", with(goodService, "80", "81") + "---\n" + goodSlice, goodNode, "web http 81/TCP *", 1, 0},
		{"moved to the other file", goodSlice, goodNode + "---\n" + with(goodService, "80", "81"), "web http 81/TCP *", 0, 0},
		{"a document less", goodSlice, goodNode, "", 0, 1},
		{"bad", goodSlice, goodNode + "x", "", 0, 0},
		{"back", goodService, "", "web http 80/TCP ", 1, 2},
	}
	for _, step := range steps {
		put(t, dir, "a.yaml", step.a)
		put(t, dir, "b.yaml", step.b)
		now, err := look(dir)
		if err != nil {
			t.Fatal(err)
		}
		s.take(now)
		did := s.apply()
		if did.set != step.set || did.deleted != step.deleted || contents(store) != step.want {
			t.Errorf("%s: set %d, deleted %d, %q; want %d, %d, %q", step.what, did.set, did.deleted, contents(store), step.set, step.deleted, step.want)
		}
	}
	if store.Snapshot().Node != nil {
		t.Error("the node stays though its document is gone")
	}
}

// The second of two equal names takes over when the first goes.
func TestSecondTakesOver(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "a.yaml", serviceNamed("web", "1"))
	put(t, dir, "b.yaml", serviceNamed("web", "2"))
	store := cluster.NewStore("node-1")
	s := New(dir, store)
	if s.Load() == nil {
		t.Error("no error though an object is in two files")
	}
	if err := os.Remove(filepath.Join(dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	if err := s.Load(); err != nil || contents(store) != "web http 2/TCP " {
		t.Errorf("%v, %q", err, contents(store))
	}
}

func TestSettling(t *testing.T) {
	old, fresh, later, empty := listing{"a": {size: 1}}, listing{"a": {size: 2}}, listing{"a": {size: 3}}, listing{"a": {}}
	tests := []struct {
		what  string
		looks []listing
		want  string // . nothing to do, ? look again, ! take
	}{
		{"nothing changes", []listing{old, old}, ".."},
		{"one edit", []listing{old, fresh, fresh}, ".?!"},
		{"an edit that goes on", []listing{fresh, later, later}, "??!"},
		{"an edit that is taken back", []listing{fresh, old}, "?."},
		{"two edits apart", []listing{fresh, fresh, later, later}, "?!?!"},
		{"an endless edit", []listing{fresh, later, fresh, later, fresh, later}, "?????!"},
		{"emptied for a moment", []listing{empty, empty, empty, fresh, fresh}, "????!"},
		{"emptied for good", []listing{empty, empty, empty, empty, empty, empty}, "?????!"},
		{"deleted", []listing{{}, {}}, "?!"},
	}
	for _, test := range tests {
		var s settling
		taken, got := old, ""
		for _, now := range test.looks {
			take, again := s.ready(taken, now)
			switch {
			case take:
				taken, got = now, got+"!"
			case again:
				got += "?"
			default:
				got += "."
			}
		}
		if got != test.want {
			t.Errorf("%s: %s, want %s", test.what, got, test.want)
		}
	}
}
