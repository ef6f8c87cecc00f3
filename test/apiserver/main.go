// Command kube-apiserver is the real API server, for tests, built from Kubernetes'
// own packages in the release that this proxy is written for.
//
//	go.mod (k8s.io/kubernetes, its staging modules by release) ─build─► bin/kube-apiserver ─► test/kubeapi
//
// It is a module of its own so that nothing of its thousand packages gets into
// the proxy's go.mod. Build it from this folder:
//
//	go build -o ../../bin/kube-apiserver .
package main

import (
	"os"

	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // metrics that its own main links in too
	_ "k8s.io/component-base/metrics/prometheus/version"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() { os.Exit(cli.Run(app.NewAPIServerCommand())) }
