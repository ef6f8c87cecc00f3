package main

import (
	"fmt"
	"io"
	"runtime"
	"strings"

	"switchyard/cmd/backends"
)

// version is set by the linker: see the Makefile.
var version = "unreleased"

func printVersion(_ []string, out io.Writer) error {
	_, err := fmt.Fprintf(out, "Switchyard kube-proxy %s (%s %s/%s)\nbackends: %s\n",
		version, runtime.Version(), runtime.GOOS, runtime.GOARCH, strings.Join(backends.Names(), ", "))
	return err
}
