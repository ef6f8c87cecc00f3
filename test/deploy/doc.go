// Package deploy tests what people apply to their clusters: the manifests of
// deploy/, the image, and the examples.
//
//	deploy/<overlay> ──kustomize──► objects ─┬─► are they what docs/privileges.md says?
//	                                         ├─► config.conf, kubeconfig.conf: decoded strictly
//	                                         └─► a real API server, dry run
//	ServiceAccount, ClusterRoleBinding ────────► a real API server: what may a token of it do?
//	deploy/image/collect.sh ─► the image's root ─► the program in it, with the pod's
//	                                               capabilities: do its rules get into the kernel?
//	examples/*.yaml, *.json ─► names of metrics ─► the registry of proxier/metrics
//
// There is no container runtime in the tests: the Dockerfile is checked line by
// line, and its own script builds the root that the program is tried in.
package deploy
