// Package uml runs a command in another kernel, one that has IPVS, SCTP and the
// dummy device whatever the kernel of this machine has: User Mode Linux, a Linux
// that is a program (Debian's package user-mode-linux). It is for tests, the demo
// and the benchmark.
//
//	this machine                              User Mode Linux
//	------------                              ---------------
//	Run ── starts ──► linux.uml ── boots ───► init.sh: overlay, modules, lo
//	 │  ▲                                       │
//	 │  └── stdout, stderr, status ◄── files ── ▼
//	 │                                        the command
//	 └─ ends it: by its process, with all that it made
//
// Tests is the same for test functions: on this machine the test binary boots the
// kernel and starts itself again in it, and each case inside is a subtest outside,
// with its own output, verdict and time.
//
//	func TestInUML(t *testing.T) {
//		uml.Tests(t, uml.Options{}, uml.Case{Name: "drain", Test: testDrain})
//	}
//
// What the command finds is this machine: the same files at the same paths, the
// same environment, programs and working directory. It is root. What it writes
// goes to memory and is gone afterwards, so the files of this machine stay as
// they are; Options.Writable names folders where that is otherwise. /run is empty,
// the host's name is "uml", and there is no network but loopback. The kernel's
// modules are found where modprobe looks, so those that nobody asked for load by
// themselves when they are needed, as they do on a node. A test that wants a
// module to be missing writes /bin/false to /proc/sys/kernel/modprobe and unloads
// it.
//
// It has one CPU. Programs compute at full speed, but a system call costs about 60
// times as much: keep time-outs generous (Patience) and compare ratios only. It has
// no nft tables: iptables is the legacy one, and the programs for the other are not
// there. Programs see 512 GB of
// addresses, too little for the race detector: Tests builds the test binary again
// without it, and only then needs the go command.
//
// It needs no root, no KVM and no free port. As root the kernel runs in a pid
// namespace of its own, so nothing of it is left whichever way it or the program
// that started it ends. Other users have no such namespace: if their program is
// killed by SIGKILL, two idle helper processes of linux.uml remain, and what root
// alone may read on this machine cannot be read inside.
package uml
