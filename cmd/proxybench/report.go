package main

import "io"

func runReport(args []string, out io.Writer) error { return nil }
