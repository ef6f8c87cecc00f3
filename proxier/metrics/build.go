package metrics

import (
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// buildInfo is upstream's metric about this program: the version is ours, and so
// are the parts of it that upstream has as labels. The build date is the time of
// the commit, as in a reproducible build.
func buildInfo(version string) prometheus.Collector {
	major, minor := majorMinor(version)
	labels := prometheus.Labels{
		"major": major, "minor": minor, "git_version": version,
		"git_commit": "", "git_tree_state": "", "build_date": "",
		"go_version": runtime.Version(), "compiler": runtime.Compiler,
		"platform": runtime.GOOS + "/" + runtime.GOARCH,
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				labels["git_commit"] = s.Value
			case "vcs.time":
				labels["build_date"] = s.Value
			case "vcs.modified":
				labels["git_tree_state"] = map[string]string{"false": "clean", "true": "dirty"}[s.Value]
			}
		}
	}
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "kubernetes_build_info", ConstLabels: labels,
		Help: "Always 1; the labels say which version of this program runs, and of what it was built.",
	}, func() float64 { return 1 })
}

// majorMinor are the first two numbers of a version such as v1.2.3; none of a
// version of another form.
func majorMinor(version string) (major, minor string) {
	major, rest, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	minor, _, ok := strings.Cut(rest, ".")
	if !ok || !digits(major) || !digits(minor) {
		return "", ""
	}
	return major, minor
}

func digits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
