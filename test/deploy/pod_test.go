package deploy

import (
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func podSpec(t *testing.T, objects []*unstructured.Unstructured) corev1.PodSpec {
	t.Helper()
	return one[appsv1.DaemonSet](t, objects, "DaemonSet").Spec.Template.Spec
}

// container is the one that keeps running.
func container(t *testing.T, objects []*unstructured.Unstructured) corev1.Container {
	t.Helper()
	spec := podSpec(t, objects)
	if len(spec.Containers) != 1 {
		t.Fatalf("%d containers, want 1", len(spec.Containers))
	}
	return spec.Containers[0]
}

// What runs for long has two capabilities and nothing else.
func TestPodIsNotPrivileged(t *testing.T) {
	c := container(t, build(t, "iptables"))
	s := c.SecurityContext
	for what, ok := range map[string]bool{
		"privileged: false":               s.Privileged != nil && !*s.Privileged,
		"allowPrivilegeEscalation: false": s.AllowPrivilegeEscalation != nil && !*s.AllowPrivilegeEscalation,
		"readOnlyRootFilesystem: true":    s.ReadOnlyRootFilesystem != nil && *s.ReadOnlyRootFilesystem,
		"runAsUser: 0":                    s.RunAsUser != nil && *s.RunAsUser == 0,
		"seccompProfile RuntimeDefault":   s.SeccompProfile != nil && s.SeccompProfile.Type == corev1.SeccompProfileTypeRuntimeDefault,
		"drop ALL":                        slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}),
		"add NET_ADMIN, NET_RAW":          slices.Equal(s.Capabilities.Add, []corev1.Capability{"NET_ADMIN", "NET_RAW"}),
	} {
		if !ok {
			t.Errorf("the container lacks %s", what)
		}
	}
}

// The init container is privileged, and therefore must end: it runs the same
// program, on the same configuration, with --init-only.
func TestOnlyInitIsPrivileged(t *testing.T) {
	objects := build(t, "iptables")
	spec, main := podSpec(t, objects), container(t, objects)
	if len(spec.InitContainers) != 1 {
		t.Fatalf("%d init containers, want 1", len(spec.InitContainers))
	}
	first := spec.InitContainers[0]
	if want := append(slices.Clone(main.Command), "--init-only"); !slices.Equal(first.Command, want) {
		t.Errorf("it runs %q, want %q", first.Command, want)
	}
	if first.SecurityContext.Privileged == nil || !*first.SecurityContext.Privileged {
		t.Error("it is not privileged: it could write no sysctl")
	}
	if first.Image != main.Image {
		t.Errorf("it is of the image %s, the other of %s", first.Image, main.Image)
	}
	if first.RestartPolicy != nil {
		t.Error("it is a sidecar and keeps running")
	}
}

// What kubeadm's DaemonSet is known by: selector, command, mounts. So that either
// can be put in place of the other.
func TestPodIsKubeadms(t *testing.T) {
	objects := build(t, "iptables")
	set := one[appsv1.DaemonSet](t, objects, "DaemonSet")
	if got := set.Spec.Selector.MatchLabels; len(got) != 1 || got["k8s-app"] != "kube-proxy" {
		t.Errorf("selector %v, want k8s-app=kube-proxy, which cannot be changed later", got)
	}
	spec, c := podSpec(t, objects), container(t, objects)
	want := []string{"/usr/local/bin/kube-proxy", "--config=/var/lib/kube-proxy/config.conf", "--hostname-override=$(NODE_NAME)"}
	if !slices.Equal(c.Command, want) {
		t.Errorf("command %q, want %q", c.Command, want)
	}
	for what, ok := range map[string]bool{
		"hostNetwork":                            spec.HostNetwork,
		"priorityClassName system-node-critical": spec.PriorityClassName == "system-node-critical",
		"serviceAccountName kube-proxy":          spec.ServiceAccountName == "kube-proxy",
		"nodeSelector linux":                     spec.NodeSelector["kubernetes.io/os"] == "linux",
		"tolerate everything":                    len(spec.Tolerations) == 1 && spec.Tolerations[0] == corev1.Toleration{Operator: corev1.TolerationOpExists},
		"NODE_NAME from spec.nodeName":           len(c.Env) == 1 && c.Env[0].Name == "NODE_NAME" && c.Env[0].ValueFrom.FieldRef.FieldPath == "spec.nodeName",
		"name kube-proxy, for kubectl set image": c.Name == "kube-proxy",
	} {
		if !ok {
			t.Errorf("the pod lacks: %s", what)
		}
	}
}

func TestMounts(t *testing.T) {
	spec := podSpec(t, build(t, "iptables"))
	var got []string
	for _, v := range spec.Volumes {
		switch {
		case v.ConfigMap != nil:
			got = append(got, v.Name+" ConfigMap "+v.ConfigMap.Name)
		case v.HostPath != nil && v.HostPath.Type != nil:
			got = append(got, v.Name+" "+v.HostPath.Path+" "+string(*v.HostPath.Type))
		case v.HostPath != nil:
			got = append(got, v.Name+" "+v.HostPath.Path)
		}
	}
	for _, c := range append(spec.InitContainers, spec.Containers...) {
		for _, m := range c.VolumeMounts {
			line := c.Name + ": " + m.Name + " at " + m.MountPath
			if m.ReadOnly {
				line += ", read-only"
			}
			got = append(got, line)
		}
	}
	want := []string{
		"kube-proxy ConfigMap kube-proxy",
		"xtables-lock /run/xtables.lock FileOrCreate",
		"lib-modules /lib/modules",
		"init: kube-proxy at /var/lib/kube-proxy",
		"init: xtables-lock at /run/xtables.lock",
		"init: lib-modules at /lib/modules, read-only",
		"kube-proxy: kube-proxy at /var/lib/kube-proxy",
		"kube-proxy: xtables-lock at /run/xtables.lock",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// A node that is being drained is not ready, and is not restarted for that.
func TestProbes(t *testing.T) {
	c := container(t, build(t, "iptables"))
	for _, p := range []struct {
		name, path string
		probe      *corev1.Probe
		patience   int32 // seconds until the kubelet acts
	}{
		{"liveness", "/livez", c.LivenessProbe, 120},
		{"readiness", "/healthz", c.ReadinessProbe, 30},
	} {
		get := p.probe.HTTPGet
		if get.Path != p.path || get.Port.IntValue() != 10256 {
			t.Errorf("%s asks %s at %v, want %s at 10256", p.name, get.Path, get.Port, p.path)
		}
		if got := p.probe.PeriodSeconds * p.probe.FailureThreshold; got != p.patience {
			t.Errorf("%s waits %d s, want %d s", p.name, got, p.patience)
		}
	}
	if c.Resources.Limits != nil {
		t.Errorf("limits %v: a memory limit kills it in a cluster that has grown", c.Resources.Limits)
	}
	if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() {
		t.Error("no requests: the scheduler counts it as nothing")
	}
}
