// Command upstream-kube-proxy is upstream's own kube-proxy, built from Kubernetes'
// packages in the release that this proxy is written for. The benchmark runs it
// beside ours, in the same lab and the same minute.
//
//	go.mod (k8s.io/kubernetes, its staging modules by release) ─build─► bin/upstream-kube-proxy ─► cmd/proxybench
//
// It is a module of its own so that nothing of Kubernetes' packages gets into the
// proxy's go.mod. Build it from this folder:
//
//	go build -trimpath -ldflags '-X k8s.io/component-base/version.gitVersion=v1.37.2' -o ../../bin/upstream-kube-proxy .
package main

import (
	"os"

	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"          // --logging-format=json, and
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // metrics, that its own main links in too
	_ "k8s.io/component-base/metrics/prometheus/version"
	"k8s.io/kubernetes/cmd/kube-proxy/app"
)

func main() { os.Exit(cli.Run(app.NewProxyCommand())) }
