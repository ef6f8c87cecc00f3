package test

// The rules of the house, held by reading the source. Each rule is a subtest of
// TestHouse with its reason in the message; TestHouseNotices shows for each that
// it can fail.

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "switchyard"

// Sizes. The first of each pair is the aim, which is only logged; the second fails.
const (
	aimFunction, maxFunction = 40, 80
	maxTestFunction          = 120 // tables are long and plain
	maxFile, maxTestFile     = 600, 900
	maxNesting               = 4 // aim: 3
	maxParameters            = 5 // aim: 4, then a struct
	// maxGlue bounds backend.go, which only joins the pure parts to the kernel: what
	// does not fit is a part that wants its own file and tests. The plan says 80; 120
	// leaves room until the second backend shows what is common.
	maxGlue = 120
)

var backendFolders = []string{"iptables", "ipvs", "userspace", "nftables", "ebpf"}

// furniture is what each backend's folder holds.
var furniture = []string{"doc.go", "driver.go", "render.go", "diff.go", "backend.go"}

// doors are the files that may reach the kernel.
var doors = []string{"kernel.go", "restore.go", "jumps.go"}

// rulesetDoors are the doors of iptables/ruleset beside: the tool found and asked
// for its version, which flavour is in use, and the mark of the last restore.
var rulesetDoors = []string{"tool.go", "flavour.go", "stamp.go"}

// house is the source tree.
type house struct {
	tree  fs.FS
	files []*file
	// foreign are the packages outside the standard library that proxier needs,
	// directly or not.
	foreign []string
}

// file is one Go file.
type file struct {
	path    string // from the root of the module, with slashes
	source  []byte
	tokens  *token.FileSet
	syntax  *ast.File // as much as could be parsed
	broken  error
	imports []string
}

func (f *file) dir() string  { return path.Dir(f.path) }
func (f *file) base() string { return path.Base(f.path) }
func (f *file) test() bool   { return strings.HasSuffix(f.path, "_test.go") }
func (f *file) lines() int   { return bytes.Count(f.source, []byte("\n")) }

// under reports whether the file is in the folder or below it.
func (f *file) under(folder string) bool {
	return f.dir() == folder || strings.HasPrefix(f.path, folder+"/")
}

// at says where a node is.
func (f *file) at(n ast.Node) string {
	return fmt.Sprintf("%s:%d", f.path, f.tokens.Position(n.Pos()).Line)
}

// span is the number of lines of a node.
func (f *file) span(n ast.Node) int {
	return f.tokens.Position(n.End()).Line - f.tokens.Position(n.Pos()).Line + 1
}

// enter reads a source tree. Hidden folders, testdata and bin are not part of it.
func enter(tree fs.FS) (*house, error) {
	h := &house{tree: tree}
	err := fs.WalkDir(tree, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		hidden := strings.HasPrefix(d.Name(), ".") && p != "."
		if d.IsDir() && (hidden || d.Name() == "testdata" || p == "bin") {
			return fs.SkipDir
		}
		if d.IsDir() || hidden || path.Ext(p) != ".go" {
			return nil
		}
		f, err := read(tree, p)
		h.files = append(h.files, f)
		return err
	})
	return h, err
}

func read(tree fs.FS, p string) (*file, error) {
	source, err := fs.ReadFile(tree, p)
	if err != nil {
		return nil, err
	}
	f := &file{path: p, source: source, tokens: token.NewFileSet()}
	f.syntax, f.broken = parser.ParseFile(f.tokens, p, source, parser.ParseComments|parser.SkipObjectResolution)
	for _, i := range f.syntax.Imports {
		if name, err := strconv.Unquote(i.Path.Value); err == nil {
			f.imports = append(f.imports, name)
		}
	}
	return f, nil
}

// rule is one rule: the offenders, each with its place, and why they offend.
type rule struct {
	name    string
	because string
	find    func(*house) []string
}

var rules = []rule{
	{"source parses", "nothing can be said of a file that is no Go", each(unparsed)},
	{"proxier imports the standard library only", "the contract must outlive its users", proxierForeign},
	{"a backend imports no Kubernetes and no other backend",
		"Kubernetes stops at cluster; a backend is one folder that can be taken out", each(backendImports)},
	{"decisions are pure", "purity is what makes them testable", each(impure)},
	{"client-go", "two doors to the API server: watch reads, events writes", each(clientGo)},
	{"one door to the kernel", "what only kernel.go, restore.go, jumps.go (and ruleset's tool.go, flavour.go, " +
		"stamp.go) can reach, only they can break", each(kernelDoor)},
	{"functions are short", fmt.Sprintf("over %d lines (%d in tests) nobody sees a function whole", maxFunction, maxTestFunction), each(long)},
	{"files are short", fmt.Sprintf("over %d lines (%d in tests) a file has more than one subject", maxFile, maxTestFile), each(longFile)},
	{"nesting is shallow", fmt.Sprintf("over %d blocks deep nobody keeps the conditions in mind", maxNesting), each(nested)},
	{"parameters are few", fmt.Sprintf("over %d they want to be a struct with names", maxParameters), each(parameters)},
	{"a package says why it exists", "in doc.go (main.go of a command) a reader finds it", undocumentedPackages},
	{"exported names are documented", "a comment that starts with the name is what go doc shows", each(undocumented)},
	{"names say something", "util, common, helper, manager, Info and Base name no thing", each(emptyNames)},
	{"no init", "what happens at start is to be read in main", each(inits)},
	{"backends are furnished alike", "who knows one backend finds the way in all", unfurnished},
	{"glue is thin", fmt.Sprintf("backend.go over %d lines does more than join its parts", maxGlue), each(thickGlue)},
	{"gofmt", "one style, no discussion", each(unformatted)},
	{"links in documents lead somewhere", "a dead link costs the reader's trust", deadLinks},
	{"a skipped test says what is missing", "skips are counted by name in CI", each(silentSkips)},
}

// each asks every file.
func each(find func(*file) []string) func(*house) []string {
	return func(h *house) (found []string) {
		for _, f := range h.files {
			found = append(found, find(f)...)
		}
		return found
	}
}

func TestHouse(t *testing.T) {
	h, err := enter(os.DirFS(".."))
	if err != nil {
		t.Fatal(err)
	}
	h.foreign = goList(t, "./proxier")
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			if found := r.find(h); len(found) > 0 {
				t.Errorf("%s, because %s; %d offend:\n\t%s", r.name, r.because, len(found), strings.Join(found, "\n\t"))
			}
		})
	}
	t.Logf("%d files read; functions over the aim of %d lines:\n\t%s", len(h.files), aimFunction,
		strings.Join(each(overAim)(h), "\n\t"))
}

// goList returns the packages outside the standard library that a package needs,
// without itself.
func goList(t *testing.T, pkg string) []string {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", pkg)
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v", cmd.Args, err)
	}
	return slices.DeleteFunc(strings.Fields(string(out)), func(p string) bool { return p == module+"/"+path.Clean(pkg) })
}

func unparsed(f *file) []string {
	if f.broken != nil {
		return []string{f.broken.Error()}
	}
	return nil
}

// Arrows.

// importing lists the imports that offend.
func (f *file) importing(offends func(string) bool) (found []string) {
	for _, name := range f.imports {
		if offends(name) {
			found = append(found, f.path+" imports "+name)
		}
	}
	return found
}

// within reports whether an import is the package or below it.
func within(name, root string) bool { return name == root || strings.HasPrefix(name, root+"/") }

func standard(name string) bool {
	first, _, _ := strings.Cut(name, "/")
	return !strings.Contains(first, ".") && first != module
}

func proxierForeign(h *house) (found []string) {
	for _, f := range h.files {
		if f.dir() == "proxier" && !f.test() {
			found = append(found, f.importing(func(name string) bool { return !standard(name) })...)
		}
	}
	for _, name := range h.foreign {
		found = append(found, "proxier needs "+name)
	}
	return found
}

func backendImports(f *file) []string {
	own, _, _ := strings.Cut(f.path, "/")
	if !slices.Contains(backendFolders, own) {
		return nil
	}
	return f.importing(func(name string) bool {
		if within(name, "k8s.io") || within(name, "sigs.k8s.io") {
			return !f.test() // tests make their States from objects
		}
		if name == module+"/iptables/ruleset" && (own == "ipvs" || own == "userspace") {
			return false
		}
		return slices.ContainsFunc(backendFolders, func(b string) bool { return b != own && within(name, module+"/"+b) })
	})
}

// pure reports whether a file only decides. The commands have verbs named render
// and diff, which print.
func pure(f *file) bool {
	if f.test() || f.under("cmd") || f.under("test") {
		return false
	}
	return f.dir() == "proxier" || f.under("proxier/compile") ||
		slices.Contains([]string{"render.go", "diff.go", "dispatch.go"}, f.base())
}

func impure(f *file) []string {
	if !pure(f) {
		return nil
	}
	found := f.importing(func(name string) bool {
		return within(name, "os") || within(name, "log") || within(name, "sync") || name == "syscall" ||
			within(name, "net") && name != "net/netip"
	})
	clock := []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}
	ast.Inspect(f.syntax, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok && isName(s.X, "time") && slices.Contains(clock, s.Sel.Name) {
			found = append(found, f.at(n)+" asks the clock: time."+s.Sel.Name)
		}
		return true
	})
	return found
}

func isName(x ast.Expr, name string) bool {
	id, ok := x.(*ast.Ident)
	return ok && id.Name == name
}

func clientGo(f *file) []string {
	if f.under("proxier/watch") || f.under("proxier/events") || f.under("test") {
		return nil
	}
	return f.importing(func(name string) bool { return within(name, "k8s.io/client-go") })
}

func kernelDoor(f *file) []string {
	door := slices.Contains(doors, strings.Replace(f.base(), "_linux.go", ".go", 1)) ||
		f.dir() == "iptables/ruleset" && slices.Contains(rulesetDoors, f.base())
	if door || f.test() || f.under("test") || f.under("cmd") {
		return nil
	}
	kernel := []string{"os/exec", "github.com/moby/ipvs", "github.com/coreos/go-iptables", "github.com/vishvananda"}
	return f.importing(func(name string) bool {
		return slices.ContainsFunc(kernel, func(root string) bool { return within(name, root) })
	})
}

// Sizes.

// functions calls visit for every function with a body. A function literal is
// part of the function around it.
func (f *file) functions(visit func(*ast.FuncDecl)) {
	if ast.IsGenerated(f.syntax) {
		return
	}
	for _, d := range f.syntax.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Body != nil {
			visit(fn)
		}
	}
}

// longer lists the functions of more lines than a limit.
func (f *file) longer(limit int) (found []string) {
	f.functions(func(fn *ast.FuncDecl) {
		if n := f.span(fn); n > limit {
			found = append(found, fmt.Sprintf("%s %s has %d lines", f.at(fn), fn.Name.Name, n))
		}
	})
	return found
}

func long(f *file) []string {
	if f.test() {
		return f.longer(maxTestFunction)
	}
	return f.longer(maxFunction)
}

func overAim(f *file) []string {
	if f.test() {
		return nil
	}
	return f.longer(aimFunction)
}

func longFile(f *file) []string {
	limit := maxFile
	if f.test() {
		limit = maxTestFile
	}
	if f.lines() <= limit || ast.IsGenerated(f.syntax) {
		return nil
	}
	return []string{fmt.Sprintf("%s has %d lines", f.path, f.lines())}
}

func nested(f *file) (found []string) {
	f.functions(func(fn *ast.FuncDecl) {
		n := nesting{max: maxNesting}
		ast.Walk(&n, fn.Body)
		if n.deepest != nil {
			found = append(found, fmt.Sprintf("%s in %s is %d blocks deep", f.at(n.deepest), fn.Name.Name, n.max))
		}
	})
	return found
}

// nesting finds the deepest block under max. An else-if is as deep as its if, and
// a function literal starts from nothing: it is a function.
type nesting struct {
	max     int
	deepest ast.Node
}

func (n *nesting) Visit(node ast.Node) ast.Visitor { return level{n, 0}.Visit(node) }

type level struct {
	*nesting
	depth int
}

func (l level) Visit(node ast.Node) ast.Visitor {
	switch node := node.(type) {
	case *ast.FuncLit:
		return level{l.nesting, 0}
	case *ast.IfStmt:
		return l.ifElse(node)
	case *ast.ForStmt, *ast.RangeStmt, *ast.SwitchStmt, *ast.TypeSwitchStmt, *ast.SelectStmt:
		return l.deeper(node)
	}
	return l
}

func (l level) deeper(node ast.Node) level {
	l.depth++
	if l.depth > l.max {
		l.max, l.deepest = l.depth, node
	}
	return l
}

func (l level) ifElse(node *ast.IfStmt) ast.Visitor {
	inside := l.deeper(node)
	for _, part := range []ast.Node{node.Init, node.Cond, node.Body} {
		if part != nil { // an if without Init
			ast.Walk(inside, part)
		}
	}
	switch e := node.Else.(type) {
	case *ast.IfStmt:
		ast.Walk(l, e)
	case *ast.BlockStmt:
		ast.Walk(inside, e)
	}
	return nil // its parts are walked
}

func parameters(f *file) (found []string) {
	f.functions(func(fn *ast.FuncDecl) {
		n := 0
		for i, p := range fn.Type.Params.List {
			if i == 0 && free(p.Type) {
				continue
			}
			n += max(1, len(p.Names))
		}
		if n > maxParameters {
			found = append(found, fmt.Sprintf("%s %s has %d parameters", f.at(fn), fn.Name.Name, n))
		}
	})
	return found
}

// free reports whether a first parameter does not count: a context or a test.
func free(x ast.Expr) bool {
	if star, ok := x.(*ast.StarExpr); ok {
		x = star.X
	}
	s, ok := x.(*ast.SelectorExpr)
	return ok && (isName(s.X, "context") && s.Sel.Name == "Context" ||
		isName(s.X, "testing") && slices.Contains([]string{"T", "B", "F", "TB"}, s.Sel.Name))
}

// Words.

func undocumentedPackages(h *house) (found []string) {
	documented := map[string]bool{}
	for _, f := range h.files {
		if f.test() {
			continue
		}
		name := f.syntax.Name.Name
		home, start := "doc.go", "Package "+name+" "
		if name == "main" {
			home, start = "main.go", ""
		}
		has := f.base() == home && strings.HasPrefix(strings.TrimSpace(f.syntax.Doc.Text())+" ", start) && f.syntax.Doc != nil
		documented[f.dir()] = documented[f.dir()] || has
	}
	for dir, ok := range documented {
		if !ok {
			found = append(found, dir+" has no package comment in doc.go (main.go of a command) that starts with its name")
		}
	}
	slices.Sort(found)
	return found
}

func undocumented(f *file) (found []string) {
	if f.test() || ast.IsGenerated(f.syntax) {
		return nil
	}
	for _, d := range f.syntax.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if exportedFunc(d) && !startsWith(d.Doc, d.Name.Name) {
				found = append(found, f.at(d)+" "+d.Name.Name)
			}
		case *ast.GenDecl:
			found = append(found, f.undocumentedGroup(d)...)
		}
	}
	return found
}

// exportedFunc reports whether a function is for others: exported, and a method of
// an exported type. String, Error and Unwrap say all by their names.
func exportedFunc(d *ast.FuncDecl) bool {
	if !d.Name.IsExported() || d.Recv == nil {
		return d.Name.IsExported()
	}
	if slices.Contains([]string{"String", "Error", "Unwrap"}, d.Name.Name) {
		return false
	}
	x := d.Recv.List[0].Type
	for {
		switch t := x.(type) {
		case *ast.StarExpr:
			x = t.X
		case *ast.IndexExpr:
			x = t.X
		case *ast.IndexListExpr:
			x = t.X
		case *ast.Ident:
			return t.IsExported()
		default:
			return false
		}
	}
}

func (f *file) undocumentedGroup(d *ast.GenDecl) (found []string) {
	for _, spec := range d.Specs {
		switch s := spec.(type) {
		case *ast.TypeSpec:
			doc := s.Doc
			if doc == nil && !d.Lparen.IsValid() {
				doc = d.Doc
			}
			if s.Name.IsExported() && !startsWith(doc, s.Name.Name) {
				found = append(found, f.at(s)+" "+s.Name.Name)
			}
		case *ast.ValueSpec:
			if d.Doc == nil && s.Doc == nil && s.Comment == nil && slices.ContainsFunc(s.Names, (*ast.Ident).IsExported) {
				found = append(found, f.at(s)+" "+s.Names[0].Name)
			}
		}
	}
	return found
}

// startsWith reports whether a comment starts with a name, an article before it
// allowed.
func startsWith(doc *ast.CommentGroup, name string) bool {
	words := strings.Fields(doc.Text())
	if len(words) > 1 && words[0] != name && slices.Contains([]string{"A", "An", "The"}, words[0]) {
		words = words[1:]
	}
	return len(words) > 0 && strings.TrimRight(words[0], ",.:;") == name
}

func emptyNames(f *file) (found []string) {
	pkg := regexp.MustCompile(`^(util|common|helper|manager)s?(_test)?$`)
	typ := regexp.MustCompile(`(Info|Manager|Helper)$|^Base`)
	if name := f.syntax.Name; pkg.MatchString(name.Name) || pkg.MatchString(path.Base(f.dir())) {
		found = append(found, f.at(name)+" package "+name.Name)
	}
	ast.Inspect(f.syntax, func(n ast.Node) bool {
		if s, ok := n.(*ast.TypeSpec); ok && typ.MatchString(s.Name.Name) {
			found = append(found, f.at(s)+" type "+s.Name.Name)
		}
		return true
	})
	return found
}

// Order.

func inits(f *file) (found []string) {
	f.functions(func(fn *ast.FuncDecl) {
		if fn.Recv == nil && fn.Name.Name == "init" {
			found = append(found, f.at(fn))
		}
	})
	return found
}

func unfurnished(h *house) (found []string) {
	for _, b := range backendFolders {
		exists := slices.ContainsFunc(h.files, func(f *file) bool { return f.dir() == b })
		for _, piece := range furniture {
			has := slices.ContainsFunc(h.files, func(f *file) bool { return f.path == b+"/"+piece })
			if exists && !has {
				found = append(found, b+" has no "+piece)
			}
		}
	}
	return found
}

func thickGlue(f *file) []string {
	if f.base() == "backend.go" && slices.Contains(backendFolders, f.dir()) && f.lines() > maxGlue {
		return []string{fmt.Sprintf("%s has %d lines", f.path, f.lines())}
	}
	return nil
}
