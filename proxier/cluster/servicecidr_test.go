package cluster

import (
	"fmt"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestServiceCIDRs(t *testing.T) {
	s := NewStore("node-a")
	cidr := func(name string, cidrs ...string) func() bool {
		return func() bool {
			return s.SetServiceCIDR(&networkingv1.ServiceCIDR{
				ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: cidrs}})
		}
	}
	for _, step := range []struct {
		name    string
		do      func() bool
		changes bool
		want    string
	}{
		{"the cluster's own", cidr("kubernetes", "10.96.0.0/12", "fd00:96::/108"), true, "[10.96.0.0/12 fd00:96::/108]"},
		{"the same again", cidr("kubernetes", "10.96.0.0/12", "fd00:96::/108"), false, "[10.96.0.0/12 fd00:96::/108]"},
		{"another one", cidr("more", "10.200.0.0/16"), true, "[10.96.0.0/12 10.200.0.0/16 fd00:96::/108]"},
		{"one that overlaps says nothing new", cidr("twice", "10.96.0.0/12"), false, "[10.96.0.0/12 10.200.0.0/16 fd00:96::/108]"},
		{"what is no range", cidr("broken", "here"), false, "[10.96.0.0/12 10.200.0.0/16 fd00:96::/108]"},
		{"none", func() bool { return s.SetServiceCIDR(nil) }, false, "[10.96.0.0/12 10.200.0.0/16 fd00:96::/108]"},
		{"one goes", func() bool { return s.DeleteServiceCIDR("more") }, true, "[10.96.0.0/12 fd00:96::/108]"},
		{"it is gone", func() bool { return s.DeleteServiceCIDR("more") }, false, "[10.96.0.0/12 fd00:96::/108]"},
	} {
		changed := step.do()
		if got := fmt.Sprint(s.Snapshot().ServiceCIDRs); got != step.want || changed != step.changes {
			t.Errorf("%s: %s, changed %t; want %s, %t", step.name, got, changed, step.want, step.changes)
		}
	}
}
