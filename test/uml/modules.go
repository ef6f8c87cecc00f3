package uml

import "slices"

// Modules lists what is loaded if Options name nothing: everything that a node
// with IPVS has.
func Modules() []string {
	return slices.Concat(
		[]string{"dummy", "veth", "bridge", "br_netfilter", "sctp"},
		[]string{"nf_conntrack", "nf_conntrack_netlink",
			"iptable_filter", "iptable_nat", "iptable_mangle", "iptable_raw",
			"ip6table_filter", "ip6table_nat", "ip6table_mangle", "ip6table_raw"},
		[]string{"ip_set", "xt_set", "ip_set_bitmap_port", "ip_set_hash_ip", "ip_set_hash_ipport",
			"ip_set_hash_ipportip", "ip_set_hash_ipportnet", "ip_set_hash_net"},
		[]string{"ip_vs", "xt_ipvs"}, Schedulers())
}

// Schedulers lists the modules of all IPVS schedulers that the kernel has.
func Schedulers() []string {
	return []string{"ip_vs_rr", "ip_vs_wrr", "ip_vs_lc", "ip_vs_wlc", "ip_vs_lblc", "ip_vs_lblcr", "ip_vs_dh",
		"ip_vs_sh", "ip_vs_mh", "ip_vs_sed", "ip_vs_nq", "ip_vs_fo", "ip_vs_ovf"}
}
