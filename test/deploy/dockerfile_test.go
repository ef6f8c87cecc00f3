package deploy

import (
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

// instruction is one of the Dockerfile, its continued lines joined.
type instruction struct {
	name string
	args []string
}

func dockerfile(t *testing.T) (all []instruction) {
	t.Helper()
	text, err := os.ReadFile(root + "/Dockerfile")
	check(t, err)
	var kept []string
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(strings.TrimSpace(line), "#") {
			kept = append(kept, strings.TrimRight(line, "\n"))
		}
	}
	joined := strings.ReplaceAll(strings.Join(kept, "\n"), "\\\n", " ")
	for line := range strings.Lines(joined) {
		if fields := strings.Fields(line); len(fields) > 0 {
			all = append(all, instruction{fields[0], fields[1:]})
		}
	}
	return all
}

// option takes the value of --name=value out of the arguments.
func (i *instruction) option(name string) (value string) {
	i.args = slices.DeleteFunc(slices.Clone(i.args), func(arg string) bool {
		v, ok := strings.CutPrefix(arg, "--"+name+"=")
		if ok {
			value = v
		}
		return ok
	})
	return value
}

// ignored are the patterns of .dockerignore.
func ignored(t *testing.T) (patterns []string) {
	t.Helper()
	text, err := os.ReadFile(root + "/.dockerignore")
	check(t, err)
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			patterns = append(patterns, line)
		}
	}
	return patterns
}

// inContext reports whether a file or folder reaches the build: no pattern names
// it or a folder that it is in. A pattern begins at the root, or with **/.
func inContext(t *testing.T, file string) bool {
	t.Helper()
	for _, pattern := range ignored(t) {
		deep, anywhere := strings.CutPrefix(pattern, "**/")
		for p := file; p != "."; p = path.Dir(p) {
			name, match := p, pattern
			if anywhere {
				name, match = path.Base(p), deep
			}
			if ok, err := path.Match(match, name); err != nil || ok {
				check(t, err)
				return false
			}
		}
	}
	return true
}

// What is copied exists, and comes from where it can be: the build's context, or a
// stage that was built before.
func TestDockerfileCopies(t *testing.T) {
	stages := map[string]bool{}
	copies := 0
	for _, i := range dockerfile(t) {
		switch i.name {
		case "FROM":
			if n := len(i.args); n > 2 && i.args[n-2] == "AS" {
				stages[i.args[n-1]] = true
			}
		case "COPY":
			copies++
			from := i.option("from")
			if from != "" && !stages[from] {
				t.Errorf("COPY --from=%s: there is no such stage above", from)
			}
			for _, source := range i.args[:len(i.args)-1] {
				if from != "" {
					continue
				}
				if _, err := os.Stat(path.Join(root, source)); err != nil || !inContext(t, path.Clean(source)) {
					t.Errorf("COPY %s: not there, or left out by .dockerignore (%v)", source, err)
				}
			}
		case "ARG", "RUN", "WORKDIR", "ENV", "USER", "ENTRYPOINT":
		default:
			t.Errorf("unknown instruction %s", i.name)
		}
	}
	if len(stages) != 2 || copies != 4 {
		t.Errorf("%d named stages and %d copies read, want 2 and 4: can this test still read the file?", len(stages), copies)
	}
}

// .dockerignore leaves out no file that the program is built of.
func TestDockerContextIsComplete(t *testing.T) {
	list := exec.Command("go", "list", "-deps", "-f",
		`{{if eq (printf "%.10s" .ImportPath) "switchyard"}}{{$dir := .ImportPath}}{{range .GoFiles}}{{$dir}}/{{.}}{{"\n"}}{{end}}{{range .EmbedFiles}}{{$dir}}/{{.}}{{"\n"}}{{end}}{{end}}`,
		"./cmd/kube-proxy")
	list.Dir = root
	out, err := list.Output()
	check(t, err)
	files := append(strings.Fields(string(out)), "switchyard/go.mod", "switchyard/go.sum")
	for _, file := range files {
		if file = strings.TrimPrefix(file, "switchyard/"); !inContext(t, file) {
			t.Errorf("%s does not reach the build", file)
		}
	}
	if len(files) < 50 {
		t.Errorf("the program is of %d files only?", len(files))
	}
	for _, file := range []string{"test/run.sh", ".git/HEAD", "proxier/state_test.go", "bin/kube-proxy"} {
		if inContext(t, file) {
			t.Errorf("%s reaches the build for nothing", file)
		}
	}
}

// The Go of the image can build the module.
func TestDockerfileGo(t *testing.T) {
	mod, err := os.ReadFile(root + "/go.mod")
	check(t, err)
	_, rest, _ := strings.Cut(string(mod), "\ngo ")
	version, _, _ := strings.Cut(rest, "\n") // 1.26.0
	want := "golang:" + version[:strings.LastIndex(version, ".")] + "-"
	for _, i := range dockerfile(t) {
		if i.name == "FROM" && slices.Contains(i.args, "build") && !strings.HasPrefix(i.args[1], want) {
			t.Errorf("built with %s, and go.mod says %s", i.args[1], version)
		}
	}
}

// The program is where kubeadm's DaemonSet and ours start it, is static, and is
// built of the package that make builds.
func TestDockerfileProgram(t *testing.T) {
	at := container(t, build(t, "iptables")).Command[0]
	all := dockerfile(t)
	last := all[len(all)-1]
	if last.name != "ENTRYPOINT" || strings.Join(last.args, "") != `["`+at+`"]` {
		t.Errorf("ends with %v, want ENTRYPOINT %s", last, at)
	}
	var built, copied bool
	for _, i := range all {
		line := strings.Join(i.args, " ")
		built = built || i.name == "RUN" && strings.Contains(line, "CGO_ENABLED=0") &&
			strings.Contains(line, "-X main.version=$VERSION") && strings.HasSuffix(line, "-o /kube-proxy ./cmd/kube-proxy")
		copied = copied || i.name == "COPY" && line == "--from=build /kube-proxy "+at
	}
	if !built || !copied {
		t.Errorf("built statically with its version: %v; copied to %s: %v", built, at, copied)
	}
}
