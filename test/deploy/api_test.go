package deploy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/restmapper"

	"switchyard/test/kubeapi"
	"switchyard/test/netlab"
)

// cluster is a real API server, and its administrator.
type cluster struct {
	server *kubeapi.Server
	typed  kubernetes.Interface
	any    dynamic.Interface
}

// TestRealAPIServer starts one API server for all that is asked of it.
func TestRealAPIServer(t *testing.T) {
	c := started(t)
	for _, overlay := range overlays {
		t.Run("accepts "+overlay, func(t *testing.T) {
			for _, o := range build(t, overlay) {
				if err := c.apply(t, o, true); err != nil {
					t.Errorf("%s %s: %v", o.GetKind(), o.GetName(), err)
				}
			}
		})
	}
	t.Run("accepts examples", c.acceptsExamples)
	t.Run("refuses what is wrong", c.refuses)
	for _, o := range build(t, "iptables") {
		if kind := o.GetKind(); kind == "ServiceAccount" || kind == "ClusterRoleBinding" {
			check(t, c.apply(t, o, false))
		}
	}
	t.Run("accepts the pod", c.acceptsPod)
	t.Run("accepts the migration from kubeadm", c.acceptsMigration)
	t.Run("what the account may do", c.mayDo)
	t.Run("the account has no other right", c.mayDoNothingElse)
	t.Run("what the account does", c.does)
}

func started(t *testing.T) *cluster {
	t.Helper()
	binary, err := filepath.Abs(root + "/bin/kube-apiserver")
	check(t, err)
	if _, err := os.Stat(binary); err != nil {
		t.Skip("missing: bin/kube-apiserver; build it in test/apiserver")
	}
	if _, err := exec.LookPath("etcd"); err != nil {
		t.Skip("missing: etcd; install the package etcd-server")
	}
	if os.Geteuid() != 0 {
		t.Skip("missing: root, for network namespaces")
	}
	lab, err := netlab.New("sywdeploy")
	check(t, err)
	t.Cleanup(func() { check(t, lab.Close()) })
	host, err := lab.AddHost("cp")
	check(t, err)
	other, err := lab.AddHost("node-a")
	check(t, err)
	check(t, netlab.Wire(netlab.End{Host: host, Device: "eth0"}, netlab.End{Host: other, Device: "eth0"}))
	check(t, host.AddAddr("eth0", netip.MustParsePrefix("192.168.0.10/24")))
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	server, err := kubeapi.Start(ctx, kubeapi.Options{
		Host: host, Addr: netip.MustParseAddr("192.168.0.10"), Dir: t.TempDir(), Binary: binary,
		ServiceCIDRs: "172.30.0.0/16,fd00:172:30::/108",
	})
	check(t, err)
	t.Cleanup(func() { check(t, server.Close()) })
	config, err := server.Config(server.Kubeconfig())
	check(t, err)
	c := &cluster{server: server}
	c.typed, err = kubernetes.NewForConfig(config)
	check(t, err)
	c.any, err = dynamic.NewForConfig(config)
	check(t, err)
	return c
}

// apply is `kubectl apply --server-side`; a field that the API has not is an error.
func (c *cluster) apply(t *testing.T, o *unstructured.Unstructured, dry bool) error {
	t.Helper()
	return c.patch(t, o, metav1.PatchOptions{FieldManager: "test", DryRun: dryRun(dry)})
}

// takeOver is apply with --force-conflicts, by somebody else, dry.
func (c *cluster) takeOver(t *testing.T, o *unstructured.Unstructured) error {
	t.Helper()
	force := true
	return c.patch(t, o, metav1.PatchOptions{FieldManager: "other", Force: &force, DryRun: dryRun(true)})
}

func dryRun(dry bool) []string {
	if dry {
		return []string{metav1.DryRunAll}
	}
	return nil
}

func (c *cluster) patch(t *testing.T, o *unstructured.Unstructured, options metav1.PatchOptions) error {
	t.Helper()
	options.FieldValidation = metav1.FieldValidationStrict
	body, err := o.MarshalJSON()
	check(t, err)
	_, err = c.resource(t, o).Patch(t.Context(), o.GetName(), types.ApplyPatchType, body, options)
	return err
}

// create is `kubectl create --dry-run=server`. A Node of two families cannot be
// applied: its addresses are a list by type in the API's schema, and two are of the
// same type.
func (c *cluster) create(t *testing.T, o *unstructured.Unstructured) error {
	t.Helper()
	_, err := c.resource(t, o).Create(t.Context(), o, metav1.CreateOptions{
		DryRun: dryRun(true), FieldValidation: metav1.FieldValidationStrict})
	return err
}

// resource is where objects of a kind and namespace are.
func (c *cluster) resource(t *testing.T, o *unstructured.Unstructured) dynamic.ResourceInterface {
	t.Helper()
	groups, err := restmapper.GetAPIGroupResources(c.typed.Discovery())
	check(t, err)
	kind := o.GroupVersionKind()
	mapping, err := restmapper.NewDiscoveryRESTMapper(groups).RESTMapping(kind.GroupKind(), kind.Version)
	check(t, err)
	if o.GetNamespace() == "" {
		return c.any.Resource(mapping.Resource)
	}
	return c.any.Resource(mapping.Resource).Namespace(o.GetNamespace())
}

func (c *cluster) acceptsExamples(t *testing.T) {
	files, err := filepath.Glob(root + "/examples/shop/*.yaml")
	check(t, err)
	accepted := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		check(t, err)
		documents := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
		for {
			o := &unstructured.Unstructured{}
			err := documents.Decode(o)
			if errors.Is(err, io.EOF) {
				break
			}
			check(t, err)
			if err := c.create(t, o); err != nil {
				t.Errorf("%s: %s %s: %v", filepath.Base(file), o.GetKind(), o.GetName(), err)
			}
			accepted++
		}
	}
	if accepted < 10 {
		t.Errorf("%d objects in %d files: where are the others?", accepted, len(files))
	}
}

// refuses shows that a dry run looks: a field that does not exist, a value that
// may not be.
func (c *cluster) refuses(t *testing.T) {
	for _, path := range [][]string{
		{"spec", "template", "spec", "hostNetwrok"},
		{"spec", "updateStrategy", "type"},
	} {
		for _, o := range build(t, "iptables") {
			if o.GetKind() != "DaemonSet" {
				continue
			}
			check(t, unstructured.SetNestedField(o.Object, "yes", path...))
			if err := c.apply(t, o, true); err == nil {
				t.Errorf("%s: yes was accepted", strings.Join(path, "."))
			}
		}
	}
}

// acceptsPod creates, in a dry run, the pod of which the DaemonSet's controller
// would make one for each node: that is where priority class, account and
// capabilities are judged.
func (c *cluster) acceptsPod(t *testing.T) {
	template := one[appsv1.DaemonSet](t, build(t, "iptables"), "DaemonSet").Spec.Template
	pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
	pod.GenerateName = "kube-proxy-"
	made, err := c.typed.CoreV1().Pods("kube-system").Create(t.Context(), pod,
		metav1.CreateOptions{DryRun: dryRun(true), FieldValidation: metav1.FieldValidationStrict})
	check(t, err)
	if made.Spec.Priority == nil || *made.Spec.Priority < 2_000_000_000 {
		t.Errorf("priority %v: it would be evicted before others", made.Spec.Priority)
	}
}

// account is a client with a service account's own token, and nothing else.
func (c *cluster) account(t *testing.T, name string) kubernetes.Interface {
	t.Helper()
	kubeconfig, _, err := c.server.WriteKubeconfig(t.Context(), kubeapi.Account{Namespace: "kube-system", Name: name})
	check(t, err)
	config, err := c.server.Config(kubeconfig)
	check(t, err)
	if len(config.CertData) > 0 || config.CertFile != "" || config.BearerTokenFile == "" {
		t.Fatal("this client is not the account's")
	}
	client, err := kubernetes.NewForConfig(config)
	check(t, err)
	return client
}

// rights are what the account may do, in any namespace, and some of what it may
// not. Verbs are separated by spaces.
var rights = []struct {
	may             bool
	verbs           string
	group, resource string
}{
	{true, "list watch", "", "services"},
	{true, "list watch", "discovery.k8s.io", "endpointslices"},
	{true, "get list watch", "", "nodes"},
	{true, "list watch", "networking.k8s.io", "servicecidrs"},
	{true, "create patch update", "", "events"},
	{true, "create patch update", "events.k8s.io", "events"},

	{false, "create update patch delete", "", "services"},
	{false, "create update patch delete", "discovery.k8s.io", "endpointslices"},
	{false, "create update patch delete", "", "nodes"},
	{false, "patch update", "", "nodes/status"},
	{false, "patch update", "", "services/status"},
	{false, "get list watch", "", "secrets"},
	{false, "get list watch", "", "configmaps"},
	{false, "get list watch create", "", "pods"},
	{false, "create", "", "pods/exec"},
	{false, "create", "", "serviceaccounts/token"},
	{false, "get list watch", "", "namespaces"},
	{false, "get list watch", "apps", "daemonsets"},
	{false, "get list watch create", "coordination.k8s.io", "leases"},
	{false, "list bind escalate", "rbac.authorization.k8s.io", "clusterroles"},
	{false, "impersonate", "", "users"},
}

func (c *cluster) mayDo(t *testing.T) {
	reviews := c.account(t, "kube-proxy").AuthorizationV1().SelfSubjectAccessReviews()
	for _, r := range rights {
		for verb := range strings.FieldsSeq(r.verbs) {
			resource, part, _ := strings.Cut(r.resource, "/")
			answer, err := reviews.Create(t.Context(), &authorizationv1.SelfSubjectAccessReview{
				Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
					Verb: verb, Group: r.group, Resource: resource, Subresource: part,
				}},
			}, metav1.CreateOptions{})
			check(t, err)
			if answer.Status.Allowed != r.may {
				t.Errorf("%s %s in group %q: allowed %v, want %v", verb, r.resource, r.group, answer.Status.Allowed, r.may)
			}
		}
	}
}

// mayDoNothingElse compares all rights with the table above and with those of an
// account that nobody has given any.
func (c *cluster) mayDoNothingElse(t *testing.T) {
	nobody := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "nobody"}}
	_, err := c.typed.CoreV1().ServiceAccounts("kube-system").Create(t.Context(), nobody, metav1.CreateOptions{})
	check(t, err)
	everybody, want := c.allRights(t, "nobody"), map[right]bool{
		{"list", "", "endpoints"}: true, {"watch", "", "endpoints"}: true, // in the built-in role; we never ask
	}
	for _, r := range rights {
		for verb := range strings.FieldsSeq(r.verbs) {
			if r.may {
				want[right{verb, r.group, r.resource}] = true
			}
		}
	}
	got := c.allRights(t, "kube-proxy")
	for r := range got {
		if !want[r] && !everybody[r] {
			t.Errorf("it may %s %s in group %q", r.verb, r.resource, r.group)
		}
	}
	for r := range want {
		if !got[r] {
			t.Errorf("it may not %s %s in group %q", r.verb, r.resource, r.group)
		}
	}
}

// right is one verb on one resource.
type right struct{ verb, group, resource string }

func (c *cluster) allRights(t *testing.T, account string) map[right]bool {
	t.Helper()
	answer, err := c.account(t, account).AuthorizationV1().SelfSubjectRulesReviews().Create(t.Context(),
		&authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "kube-system"}}, metav1.CreateOptions{})
	check(t, err)
	all := map[right]bool{}
	for _, rule := range answer.Status.ResourceRules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					all[right{verb, group, resource}] = true
				}
			}
		}
	}
	return all
}

// does makes the requests that the program makes.
func (c *cluster) does(t *testing.T) {
	client, ctx := c.account(t, "kube-proxy"), t.Context()
	few := metav1.ListOptions{Limit: 1}
	for what, ask := range map[string]func() (runtime.Object, error){
		"list services":       func() (runtime.Object, error) { return client.CoreV1().Services("").List(ctx, few) },
		"list endpointslices": func() (runtime.Object, error) { return client.DiscoveryV1().EndpointSlices("").List(ctx, few) },
		"list nodes":          func() (runtime.Object, error) { return client.CoreV1().Nodes().List(ctx, few) },
		"list servicecidrs":   func() (runtime.Object, error) { return client.NetworkingV1().ServiceCIDRs().List(ctx, few) },
		"create an event": func() (runtime.Object, error) {
			return client.EventsV1().Events("default").Create(ctx, event(), metav1.CreateOptions{})
		},
	} {
		if _, err := ask(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	watching, err := client.CoreV1().Services("").Watch(ctx, few)
	if err != nil {
		t.Errorf("watch services: %v", err)
	} else {
		watching.Stop()
	}
	if _, err := client.CoreV1().Secrets("kube-system").List(ctx, few); !apierrors.IsForbidden(err) {
		t.Errorf("list secrets: %v, want forbidden", err)
	}
	if _, err := client.CoreV1().Pods("").List(ctx, few); !apierrors.IsForbidden(err) {
		t.Errorf("list pods: %v, want forbidden", err)
	}
}

func event() *eventsv1.Event {
	return &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "node-a.starting"}, EventTime: metav1.NowMicro(),
		ReportingController: "kube-proxy", ReportingInstance: "kube-proxy-node-a",
		Type: corev1.EventTypeNormal, Reason: "Starting", Action: "StartKubeProxy",
		Regarding: corev1.ObjectReference{Kind: "Node", Name: "node-a"},
	}
}
