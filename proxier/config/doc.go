// Package config turns flags into one validated Options value.
//
//	flags ──Flags.Bind──► Flags ──Options()──► Options (parsed, checked) ──► everybody else
//
// Names, defaults and meanings are upstream kube-proxy's, so its command lines
// work unchanged. Everything past this package holds parsed values only; each
// error names the flag and what it may be.
package config
