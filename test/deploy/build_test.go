package deploy

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd"
	proxyconfig "k8s.io/kube-proxy/config/v1alpha1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// root is the module's folder.
const root = "../.."

var overlays = []string{"iptables", "ipvs"}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// build is what `kubectl kustomize deploy/<overlay>` prints, as objects.
func build(t *testing.T, overlay string) (objects []*unstructured.Unstructured) {
	t.Helper()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), root+"/deploy/"+overlay)
	check(t, err)
	for _, r := range built.Resources() {
		fields, err := r.Map()
		check(t, err)
		objects = append(objects, &unstructured.Unstructured{Object: fields})
	}
	return objects
}

// one finds the only object of a kind, strictly: a field that the type has not is
// an error.
func one[T any](t *testing.T, objects []*unstructured.Unstructured, kind string) *T {
	t.Helper()
	var found *T
	for _, o := range objects {
		if o.GetKind() != kind {
			continue
		}
		if found != nil {
			t.Fatalf("there are two of kind %s", kind)
		}
		found = new(T)
		check(t, runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, found, true))
	}
	if found == nil {
		t.Fatalf("there is no %s", kind)
	}
	return found
}

func TestOverlaysHoldTheseObjects(t *testing.T) {
	want := []string{
		"ClusterRoleBinding /switchyard:node-proxier",
		"ConfigMap kube-system/kube-proxy",
		"DaemonSet kube-system/kube-proxy",
		"ServiceAccount kube-system/kube-proxy",
	}
	for _, overlay := range overlays {
		var got []string
		for _, o := range build(t, overlay) {
			got = append(got, o.GetKind()+" "+o.GetNamespace()+"/"+o.GetName())
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", overlay, got, want)
		}
	}
}

// The role is the one that the API server has built in, and no rule of ours.
func TestRoleIsTheBuiltInOne(t *testing.T) {
	binding := one[rbacv1.ClusterRoleBinding](t, build(t, "iptables"), "ClusterRoleBinding")
	if want := (rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:node-proxier"}); binding.RoleRef != want {
		t.Errorf("bound to %v, want %v", binding.RoleRef, want)
	}
	want := []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: "kube-proxy", Namespace: "kube-system"}}
	if !slices.Equal(binding.Subjects, want) {
		t.Errorf("bound for %v, want %v", binding.Subjects, want)
	}
}

// config decodes config.conf as strictly as can be.
func config(t *testing.T, text string) (c proxyconfig.KubeProxyConfiguration) {
	t.Helper()
	check(t, yaml.UnmarshalStrict([]byte(text), &c))
	if c.APIVersion != proxyconfig.SchemeGroupVersion.String() || c.Kind != "KubeProxyConfiguration" {
		t.Errorf("it is a %s of %s", c.Kind, c.APIVersion)
	}
	return c
}

func TestConfigMap(t *testing.T) {
	for _, overlay := range overlays {
		objects := build(t, overlay)
		data := one[corev1.ConfigMap](t, objects, "ConfigMap").Data
		if len(data) != 2 {
			t.Errorf("%s: %d keys, want kubeadm's two", overlay, len(data))
		}
		c := config(t, data["config.conf"])
		if string(c.Mode) != overlay {
			t.Errorf("%s: mode %q", overlay, c.Mode)
		}
		if c.ClusterCIDR == "" {
			t.Errorf("%s: no clusterCIDR: nothing would be known to be a pod", overlay)
		}
		// The paths in both files are those at which the pod has them.
		mounts := container(t, objects).VolumeMounts
		if path := c.ClientConnection.Kubeconfig; !mounted(mounts, path, "kubeconfig.conf") {
			t.Errorf("%s: kubeconfig %q is not mounted", overlay, path)
		}
		k, err := clientcmd.Load([]byte(data["kubeconfig.conf"]))
		check(t, err)
		if k.Contexts[k.CurrentContext] == nil {
			t.Fatalf("%s: there is no context %q", overlay, k.CurrentContext)
		}
		user, cluster := k.AuthInfos[k.Contexts[k.CurrentContext].AuthInfo], k.Clusters[k.Contexts[k.CurrentContext].Cluster]
		const account = "/var/run/secrets/kubernetes.io/serviceaccount/"
		if user.TokenFile != account+"token" || user.Token != "" || cluster.CertificateAuthority != account+"ca.crt" {
			t.Errorf("%s: not the service account's own token and CA: %v %v", overlay, user, cluster)
		}
		if !strings.HasSuffix(cluster.Server, ".invalid:6443") {
			t.Errorf("%s: the address %s may be somebody's", overlay, cluster.Server)
		}
	}
}

func mounted(mounts []corev1.VolumeMount, path, key string) bool {
	return slices.ContainsFunc(mounts, func(m corev1.VolumeMount) bool { return m.MountPath+"/"+key == path })
}

// An overlay is its mode: whoever edits the rest of one config.conf sees the same
// in the others.
func TestOverlaysDifferInModeOnly(t *testing.T) {
	base := config(t, one[corev1.ConfigMap](t, build(t, "base"), "ConfigMap").Data["config.conf"])
	spec := asYAML(t, one[appsv1.DaemonSet](t, build(t, "base"), "DaemonSet").Spec)
	for _, overlay := range overlays {
		objects := build(t, overlay)
		c := config(t, one[corev1.ConfigMap](t, objects, "ConfigMap").Data["config.conf"])
		c.Mode, c.IPVS = base.Mode, base.IPVS
		got, want := asYAML(t, c), asYAML(t, base)
		if got != want {
			t.Errorf("%s: config.conf is\n%s\nand in base\n%s", overlay, got, want)
		}
		if asYAML(t, one[appsv1.DaemonSet](t, objects, "DaemonSet").Spec) != spec {
			t.Errorf("%s: the DaemonSet is not that of base", overlay)
		}
	}
}

func asYAML(t *testing.T, x any) string {
	t.Helper()
	text, err := yaml.Marshal(x)
	check(t, err)
	return string(text)
}

// kubeadmConfig is config.conf as kubeadm 1.37 writes it for a cluster without
// wishes of its own.
const kubeadmConfig = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  contentType: ""
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
  tcpBeLiberal: false
  tcpCloseWaitTimeout: null
  tcpEstablishedTimeout: null
  udpStreamTimeout: 0s
  udpTimeout: 0s
detectLocal:
  bridgeInterface: ""
  interfaceNamePrefix: ""
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
iptables:
  localhostNodePorts: null
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
ipvs:
  excludeCIDRs: null
  minSyncPeriod: 0s
  scheduler: ""
  strictARP: false
  syncPeriod: 0s
  tcpFinTimeout: 0s
  tcpTimeout: 0s
  udpTimeout: 0s
kind: KubeProxyConfiguration
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: "0"
    text:
      infoBufferSize: "0"
  verbosity: 0
metricsBindAddress: ""
mode: iptables
nftables:
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
winkernel:
  enableDSR: false
  forwardHealthCheckVip: false
  networkName: ""
  rootHnsEndpointName: ""
  sourceVip: ""
`

// The base says by leaving out what kubeadm says by empty values: but for the
// fields that both set, they are the same configuration.
func TestConfigIsKubeadms(t *testing.T) {
	theirs := config(t, kubeadmConfig)
	ours := config(t, one[corev1.ConfigMap](t, build(t, "iptables"), "ConfigMap").Data["config.conf"])
	ours.BindAddress = theirs.BindAddress // 0.0.0.0, the default
	if got, want := asYAML(t, ours), asYAML(t, theirs); got != want {
		t.Errorf("ours:\n%s\nkubeadm's:\n%s", got, want)
	}
}
