package subject

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// program is the package of the program: a path of the module, so that a test finds it
// from whichever folder it runs in.
const program = "switchyard/cmd/kube-proxy"

// Build builds kube-proxy as the image has it, without cgo, and returns its path. It is
// gone with the test, which fails here if the source does not build.
func Build(t testing.TB) string {
	t.Helper()
	return build(t, "CGO_ENABLED=0")
}

// BuildRace is [Build] with the race detector, which needs cgo.
func BuildRace(t testing.TB) string {
	t.Helper()
	return build(t, "CGO_ENABLED=1", "-race")
}

func build(t testing.TB, cgo string, flags ...string) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "kube-proxy")
	args := append([]string{"build", "-o", binary}, flags...)
	cmd := exec.Command("go", append(args, program)...)
	cmd.Env = append(os.Environ(), cgo)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return binary
}
