package ruleset

import "switchyard/proxier"

// itself are the programs that compare a packet's source address with its
// destination, in the form that xt_bpf's option --bytecode has: the number of
// instructions, then each as "code jt jf k" (classic BPF, linux/filter.h). They
// read the packet from its IP header on and return all or nothing:
//
//	IPv4: ld [12]; tax; ld [16]; jeq x, 0, 1; ret #-1; ret #0
//	IPv6: the same for each of the four words at 8 and 24
//
// No other match of iptables compares two fields of a packet.
var itself = map[proxier.Family]string{
	proxier.IPv4: "6,32 0 0 12,7 0 0 0,32 0 0 16,29 0 1 0,6 0 0 4294967295,6 0 0 0",
	proxier.IPv6: "18,32 0 0 8,7 0 0 0,32 0 0 24,29 0 13 0,32 0 0 12,7 0 0 0,32 0 0 28,29 0 9 0," +
		"32 0 0 16,7 0 0 0,32 0 0 32,29 0 5 0,32 0 0 20,7 0 0 0,32 0 0 36,29 0 1 0,6 0 0 4294967295,6 0 0 0",
}
