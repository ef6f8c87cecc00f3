package deploy

import (
	"os"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"sigs.k8s.io/yaml"
)

// kubeadms is kubeadm's DaemonSet.
func kubeadms(t *testing.T) *appsv1.DaemonSet {
	t.Helper()
	text, err := os.ReadFile("testdata/kubeadm.yaml")
	check(t, err)
	set := &appsv1.DaemonSet{}
	check(t, yaml.UnmarshalStrict(text, set))
	return set
}

// goneBack is kubeadm's DaemonSet with our image after `kubectl patch` with
// deploy/back.yaml, its images filled in as the guide says.
func goneBack(t *testing.T) *appsv1.DaemonSet {
	t.Helper()
	ours := kubeadms(t)
	ours.Spec.Template.Spec.Containers[0].Image = "registry.invalid/ours"
	before, err := yaml.Marshal(ours)
	check(t, err)
	patch, err := os.ReadFile(root + "/deploy/back.yaml")
	check(t, err)
	filled := strings.NewReplacer("IMAGE-OF-SWITCHYARD", "registry.invalid/ours",
		"IMAGE-OF-UPSTREAM", "registry.k8s.io/kube-proxy:v1.37.2").Replace(string(patch))
	beforeJSON, err := yaml.YAMLToJSON(before)
	check(t, err)
	patchJSON, err := yaml.YAMLToJSON([]byte(filled))
	check(t, err)
	after, err := strategicpatch.StrategicMergePatch(beforeJSON, patchJSON, appsv1.DaemonSet{})
	check(t, err)
	set := &appsv1.DaemonSet{}
	check(t, yaml.UnmarshalStrict(after, set))
	return set
}

// Going back: upstream's image as it was, and before it one run of our cleanup with
// the privileges that it needs.
func TestGoingBack(t *testing.T) {
	back := goneBack(t)
	init := back.Spec.Template.Spec.InitContainers
	if len(init) != 1 || init[0].Image != "registry.invalid/ours" ||
		!slices.Equal(init[0].Command, []string{"/usr/local/bin/kube-proxy", "cleanup"}) {
		t.Fatalf("init containers %v, want one that runs our cleanup", init)
	}
	pod := container(t, build(t, "iptables")).SecurityContext.Capabilities
	if got := init[0].SecurityContext.Capabilities; !slices.Equal(got.Add, pod.Add) || !slices.Equal(got.Drop, pod.Drop) {
		t.Errorf("it has the capabilities %v, want those with which cleanup was tried, %v", got, pod)
	}
	back.Spec.Template.Spec.InitContainers = nil // the guide's last step
	if got, want := asYAML(t, back), asYAML(t, kubeadms(t)); got != want {
		t.Errorf("got\n%s\nwant kubeadm's\n%s", got, want)
	}
}

// acceptsMigration has the API server judge the way there and back: kubeadm's
// DaemonSet, ours over it, and the patch.
func (c *cluster) acceptsMigration(t *testing.T) {
	theirs := asObject(t, kubeadms(t))
	check(t, c.apply(t, theirs, false))
	for _, o := range build(t, "iptables") {
		if o.GetKind() == "DaemonSet" {
			check(t, c.takeOver(t, o))
		}
	}
	check(t, c.takeOver(t, asObject(t, goneBack(t))))
}

func asObject(t *testing.T, set *appsv1.DaemonSet) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{}
	check(t, yaml.Unmarshal([]byte(asYAML(t, set)), &o.Object))
	o.SetAPIVersion("apps/v1")
	o.SetKind("DaemonSet")
	unstructured.RemoveNestedField(o.Object, "status")
	return o
}
