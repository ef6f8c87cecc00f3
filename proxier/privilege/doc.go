// Package privilege takes from the process what it does not need any more, so that
// whoever breaks into it finds a process that may change the node's network and
// nothing else of the node.
//
//	start, as whoever runs us likes: often everything
//	  │ modules, sysctls, the limit of open files, oom_score_adj
//	  ▼
//	Drop ──► bounding, permitted, effective, inheritable, ambient of every thread,
//	  │      and no new privileges: neither we nor a program that we run get any back
//	  ▼
//	what stays: NET_ADMIN, NET_RAW, NET_BIND_SERVICE, as far as they were there
package privilege
