// Package boot starts the built program on nodes that are not ready for it: without an
// address, without the pods' interface, with sysctls that cannot be written, with a full
// connection tracking table, among rules of others in both flavours of iptables. Each
// ends well, with a line that says what is not there.
//
// A start before the API server, and without a Node or its address, is in test/e2e,
// which has one.
package boot
