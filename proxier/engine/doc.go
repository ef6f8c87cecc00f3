// Package engine decides when: when the cluster is looked at, compiled and
// applied. What to do is compile's matter, how to do it the backend's.
//
//	Changed ─┐                ┌─ IPv4: wait ─► snapshot ─► Compile ─► Apply ─┐
//	Changed ─┼─► one signal ──┤         ▲                                    ├─► Report ─► Observers, log, Status
//	Changed ─┘                └─ IPv6: wait ◄── retry · resync · drift ──────┘
//
// The engine is level-triggered: a change is a signal without content, and any
// number of them that come while a family waits or applies lead to one look at
// the cluster. Nothing can be lost that way, and a burst costs one apply.
//
// Each family has its own goroutine, its own backoff and its own memory: one
// that fails or hangs does not delay the other.
//
// A family applies for four reasons, kept as four points in time (agenda): the
// cluster changed, the last attempt failed or set services aside, what is
// remembered is old (resync), somebody else changed the kernel (drift).
package engine
