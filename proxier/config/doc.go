// Package config turns a command line, and the file that it may name, into one
// checked Options value.
//
//	--config FILE ──readFile──► as written ─┐
//	no file ────────────────► nothing said ─┤
//	                                        ▼
//	flags that were given ──settings──► over it ──defaults──► KubeProxyConfiguration ──check──► Options ──► everybody else
//	                                                               │
//	                                                               └─► --write-config-to, /configz
//
// There is one way, with a file or without. Names, defaults and what is refused are
// upstream kube-proxy's (kubeproxy.config.k8s.io/v1alpha1), so its command lines and
// ConfigMaps work unchanged. [settings] lists every flag beside the field that says
// the same.
//
// A flag that is given wins over the file's field; upstream ignores most of them. A
// warning names each that does so, but for those that win upstream too.
//
// In the file a zero stands for the default, since installers write every field; a
// flag's zero is a zero. What a file cannot say is written as what it can: "off" for
// an address without a server, 1ns for no shortest time between two syncs. So what
// --write-config-to wrote means the same when it is read.
//
// Each error names the flag, or file, line and field, and what may stand there. Unknown
// and duplicated fields and what has no effect are warnings. [Watch] notices when
// the file comes to mean something else.
package config
