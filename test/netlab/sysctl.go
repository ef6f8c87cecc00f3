package netlab

// hostSysctls are set on every host before it has an interface, so that the
// interfaces start with them.
var hostSysctls = []Setting{
	{Path: "net/ipv4/conf/all/rp_filter", Value: "0"},
	{Path: "net/ipv4/conf/default/rp_filter", Value: "0"},
	// A packet that leaves by the interface it came from is the normal case
	// here (pod to pod, client to client's neighbour); nobody shall be told of
	// a shorter way that goes past the node.
	{Path: "net/ipv4/conf/all/send_redirects", Value: "0"},
	{Path: "net/ipv4/conf/default/send_redirects", Value: "0"},
	{Path: "net/ipv4/conf/all/accept_redirects", Value: "0"},
	{Path: "net/ipv4/conf/default/accept_redirects", Value: "0"},
	// The kernel sends one refusal a second to one destination, and 50 in a row
	// to all (both families count in IPv4's settings); a test asks more often.
	{Path: "net/ipv4/icmp_ratelimit", Value: "0"},
	{Path: "net/ipv4/icmp_ratemask", Value: "0"},
	{Path: "net/ipv4/icmp_msgs_per_sec", Value: "1000000", Optional: true},
	{Path: "net/ipv4/icmp_msgs_burst", Value: "1000000", Optional: true},
	{Path: "net/ipv6/icmp/ratelimit", Value: "0"},
	{Path: "net/ipv6/conf/all/disable_ipv6", Value: "0"},
	{Path: "net/ipv6/conf/default/disable_ipv6", Value: "0"},
	// An address must be usable at once, not after a second of asking.
	{Path: "net/ipv6/conf/all/accept_dad", Value: "0"},
	{Path: "net/ipv6/conf/default/accept_dad", Value: "0"},
	{Path: "net/ipv6/conf/all/accept_ra", Value: "0"},
	{Path: "net/ipv6/conf/default/accept_ra", Value: "0"},
	{Path: "net/ipv6/conf/all/accept_redirects", Value: "0"},
	{Path: "net/ipv6/conf/default/accept_redirects", Value: "0"},
}

// neighbourSysctls have an interface ask again within the time of a probe where a
// question for a neighbour came too early or was lost, and give up as late as ever. No
// setting of a namespace is inherited by its interfaces here.
func neighbourSysctls(device string) []Setting {
	var out []Setting
	for _, family := range []string{"ipv4", "ipv6"} {
		of := "net/" + family + "/neigh/" + device
		out = append(out, Setting{Path: of + "/retrans_time_ms", Value: "50"}, Setting{Path: of + "/mcast_solicit", Value: "60"})
	}
	return out
}

// nodeSysctls make a host a node: it forwards. Frames inside a bridge are not
// shown to iptables: pods reach each other through the node's routing, where
// the rules see their packets once.
var nodeSysctls = []Setting{
	{Path: "net/ipv4/ip_forward", Value: "1"},
	{Path: "net/ipv6/conf/all/forwarding", Value: "1"},
	{Path: "net/bridge/bridge-nf-call-iptables", Value: "0", Optional: true},
	{Path: "net/bridge/bridge-nf-call-ip6tables", Value: "0", Optional: true},
}

// fabricSysctls keep the fabric a plain switch.
var fabricSysctls = nodeSysctls[2:]
