package cluster

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// taintToBeDeleted is put on a node that the cluster autoscaler is about to
// delete (KEP-3836).
const taintToBeDeleted = "ToBeDeletedByClusterAutoscaler"

func trimNode(node *corev1.Node) (*Node, []Problem) {
	p := &problems{object: Object{"Node", Name{Name: node.Name}}}
	out := &Node{
		Name:     strings.Clone(node.Name),
		Zone:     strings.Clone(node.Labels[corev1.LabelTopologyZone]),
		Eligible: node.DeletionTimestamp == nil && !slices.ContainsFunc(node.Spec.Taints, isToBeDeleted),
	}
	trimAddresses(node, corev1.NodeInternalIP, out, p)
	trimAddresses(node, corev1.NodeExternalIP, out, p)
	trimPodCIDRs(node, out, p)
	return out, p.list
}

// trimPodCIDRs reads the list, or the single field where an old object has no
// list.
func trimPodCIDRs(node *corev1.Node, out *Node, p *problems) {
	cidrs := node.Spec.PodCIDRs
	if len(cidrs) == 0 && node.Spec.PodCIDR != "" {
		cidrs = []string{node.Spec.PodCIDR}
	}
	for i, text := range cidrs {
		prefix, err := parsePrefix(text)
		if err != nil {
			p.add(fmt.Sprintf("spec.podCIDRs[%d]", i), "%v", err)
			continue
		}
		out.PodCIDRs = append(out.PodCIDRs, prefix)
	}
}

func trimAddresses(node *corev1.Node, of corev1.NodeAddressType, out *Node, p *problems) {
	for i, in := range node.Status.Addresses {
		if in.Type != of {
			continue
		}
		addr, err := parseAddr(in.Address)
		if err != nil {
			p.add(fmt.Sprintf("status.addresses[%d].address", i), "%v", err)
			continue
		}
		if !slices.Contains(out.Addresses, addr) {
			out.Addresses = append(out.Addresses, addr)
		}
	}
}

func isToBeDeleted(taint corev1.Taint) bool { return taint.Key == taintToBeDeleted }
