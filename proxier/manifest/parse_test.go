package manifest

import (
	"strings"
	"testing"
)

// A Service and an EndpointSlice that are right; tests break one line of them.
const (
	goodService = `apiVersion: v1
kind: Service
metadata:
  name: web
spec:
  clusterIP: 10.96.0.1
  ports:
  - name: http
    port: 80
`
	goodSlice = `apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-1
  labels:
    kubernetes.io/service-name: web
addressType: IPv4
ports:
- name: http
  port: 8080
endpoints:
- addresses: [10.1.0.1]
`
	goodNode = `apiVersion: v1
kind: Node
metadata:
  name: node-1
spec:
  podCIDR: 10.1.0.0/24
`
)

// with replaces the first occurrence of old in a manifest.
func with(manifest, old, new string) string {
	if !strings.Contains(manifest, old) {
		panic("no " + old)
	}
	return strings.Replace(manifest, old, new, 1)
}

// errorTest is what is wrong, the file, and the whole message.
type errorTest struct{ what, in, want string }

func checkErrors(t *testing.T, tests []errorTest) {
	t.Helper()
	for _, test := range tests {
		err := parse("shop.yaml", []byte(test.in)).first()
		if err == nil {
			t.Errorf("%s: no error", test.what)
		} else if err.Error() != test.want {
			t.Errorf("%s:\n got %s\nwant %s", test.what, err, test.want)
		}
	}
}

// inService and inSlice break a line of the good ones; addToSpec adds some to the spec
// of the Service.
func inService(old, new string) string { return with(goodService, old, new) }
func inSlice(old, new string) string   { return with(goodSlice, old, new) }
func addToSpec(more string) string {
	return goodService + "  " + strings.ReplaceAll(more, "\n", "\n  ") + "\n"
}

func TestErrorsOfText(t *testing.T) {
	checkErrors(t, []errorTest{
		// Not YAML.
		{"a tab", "apiVersion: v1\nkind: Service\n\tx: y\n", `shop.yaml:2: not YAML: found a tab character that violates indentation`},
		{"an open bracket", goodService + "---\na: [1\n", `shop.yaml:11: not YAML: did not find expected ',' or ']'`},
		{"an open quote", "kind: \"Serv", `shop.yaml:1: not YAML: found unexpected end of stream`},
		{"a binary file", goodService + "# \x01\n", `shop.yaml:10: not YAML: control characters are not allowed`},
		{"an open bracket on the first line", "a: [1", `shop.yaml:1: not YAML: did not find expected ',' or ']'`},
		{"half a line", goodService + "---\nkind: Service\nmeta", `shop.yaml:12: not YAML: could not find expected ':'`},
		{"an indent", goodService + " x: y\n", `shop.yaml:10: not YAML: did not find expected key`},
		{"an unknown anchor", "kind: *x\n", `shop.yaml:1: not YAML: unknown anchor 'x' referenced`},

		// Not an object.
		{"a word", "hello\n", `shop.yaml:1: "hello": expected an object with apiVersion and kind`},
		{"a list", "\n- 1\n", `shop.yaml:2: a list: expected an object with apiVersion and kind`},
		{"no kind", "apiVersion: v1\n", `shop.yaml:1: kind: required`},
		{"no apiVersion", goodNode + "---\nkind: Service\n", `shop.yaml:8: apiVersion: required`},
		{"a kind that is a number", "apiVersion: v1\nkind: 1\n", `shop.yaml:2: kind: 1: expected a string`},
		{"an old version", inSlice("discovery.k8s.io/v1", "discovery.k8s.io/v1beta1"), `shop.yaml:1: EndpointSlice default/web-1: apiVersion: "discovery.k8s.io/v1beta1": expected "discovery.k8s.io/v1"`},
		{"items that are none", "apiVersion: v1\nkind: List\nitems: 7\n", `shop.yaml:3: items: 7: expected a list`},
	})
}

func TestErrorsOfTypes(t *testing.T) {
	checkErrors(t, []errorTest{
		// Types.
		{"a word for a number", inService("port: 80", "port: eighty"), `shop.yaml:9: Service default/web: spec.ports[0].port: "eighty": expected an integer`},
		{"a quoted number", inService("port: 80", `port: "80"`), `shop.yaml:9: Service default/web: spec.ports[0].port: "80": expected an integer`},
		{"a fraction", inService("port: 80", "port: 80.5"), `shop.yaml:9: Service default/web: spec.ports[0].port: 80.5: expected an integer`},
		{"a huge number", inService("port: 80", "port: 8000000000"), `shop.yaml:9: Service default/web: spec.ports[0].port: 8000000000: expected an integer of 32 bits`},
		{"a number beyond all", inService("port: 80", "port: 18446744073709551615"), `shop.yaml:9: Service default/web: spec.ports[0].port: 18446744073709551615: expected an integer of 32 bits`},
		{"an object for a string", inService("name: http", "name: {a: b}"), `shop.yaml:8: Service default/web: spec.ports[0].name: an object: expected a string`},
		{"a number for a string", inService("10.96.0.1", "10"), `shop.yaml:6: Service default/web: spec.clusterIP: 10: expected a string`},
		{"an object for a list", inSlice("[10.1.0.1]", "{}"), `shop.yaml:12: EndpointSlice default/web-1: endpoints[0].addresses: an object: expected a list`},
		{"a list for an object", "apiVersion: v1\nkind: Service\nmetadata: []\n", `shop.yaml:3: Service: metadata: a list: expected an object`},
		{"a word for true", addToSpec("publishNotReadyAddresses: maybe"), `shop.yaml:10: Service default/web: spec.publishNotReadyAddresses: "maybe": expected true or false`},
		{"a label that is true", inService("name: web", "name: web\n  labels:\n    a: yes"), `shop.yaml:6: Service default/web: metadata.labels[a]: true: expected a string`},
		{"a time", inService("name: web", "name: web\n  creationTimestamp: now"), `shop.yaml:5: Service default/web: metadata.creationTimestamp: "now": expected a time such as 2006-01-02T15:04:05Z`},
		{"a target port", inService("port: 80", "port: 80\n    targetPort: [1]"), `shop.yaml:10: Service default/web: spec.ports[0].targetPort: a list: expected an integer or a string`},
		{"a quantity", with(goodNode, "spec:", "status:\n  capacity:\n    cpu: many\nspec:"), `shop.yaml:7: Node node-1: status.capacity[cpu]: "many": expected a quantity such as 500m or 2Gi`},
		{"not a number", inService("port: 80", "port: .nan"), `shop.yaml:9: ".nan": not a number that JSON can hold`},

		// Fields.
		{"an unknown field", inService("port: 80", "prot: 80"), `shop.yaml:9: Service default/web: spec.ports[0].prot: unknown field`},
		{"a field in other case", inService("clusterIP", "clusterip"), `shop.yaml:6: Service default/web: spec.clusterip: unknown field`},
		{"a field twice", inService("port: 80", "port: 80\n    port: 81"), `shop.yaml:10: field "port" is here twice, first on line 9`},
		{"two errors", inService("name: http\n    port: 80", "nam: http\n    port: x"), `shop.yaml:8: Service default/web: spec.ports[0].nam: unknown field (and 1 more error in this file)`},
		{"three errors in two objects", goodService + "  a: 1\n---\n" + goodNode + "  b: 2\n  c: 3\n", `shop.yaml:10: Service default/web: spec.a: unknown field (and 2 more errors in this file)`},
		{"in a list", "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: {name: web, namespace: shop}\n  spec: {ports: [{port: x}]}\n", `shop.yaml:7: Service shop/web: spec.ports[0].port: "x": expected an integer`},
		{"a field whose name is a list", "[a]: b\n", `shop.yaml:1: a field name must be a string`},
		{"an anchor of itself", "kind: &a [*a]\n", `shop.yaml:1: nested deeper than 200 levels`},
	})
}

func TestErrorsOfServices(t *testing.T) {
	checkErrors(t, []errorTest{
		{"a clusterIP", inService("10.96.0.1", "10.96.0"), `shop.yaml:6: Service default/web: spec.clusterIP: "10.96.0": expected an IP address`},
		{"clusterIPs", inService("clusterIP: 10.96.0.1", "clusterIPs: [x]"), `shop.yaml:6: Service default/web: spec.clusterIPs[0]: "x": expected an IP address`},
		{"clusterIPs that differ", addToSpec("clusterIPs: [10.96.0.2]"), `shop.yaml:6: Service default/web: spec.clusterIP: "10.96.0.1": expected the first of clusterIPs, "10.96.0.2"`},
		{"clusterIPs of one family", addToSpec("clusterIPs: [10.96.0.1, 10.96.0.2]"), `shop.yaml:10: Service default/web: spec.clusterIPs[1]: "10.96.0.2": of the same family as "10.96.0.1"`},
		{"three clusterIPs", addToSpec("clusterIPs: [10.96.0.1, fd00::1, fd00::2]"), `shop.yaml:10: Service default/web: spec.clusterIPs: 3 addresses: expected at most one of each family`},
		{"None and an address", inService("clusterIP: 10.96.0.1", "clusterIPs: [None, fd00::1]"), `shop.yaml:6: Service default/web: spec.clusterIPs[0]: "None": expected an IP address`},
		{"no ports", with(inService("port: 80", ""), "ports:\n  - name: http", "ports: []"), `shop.yaml:7: Service default/web: spec.ports: required`},
		{"no port", inService("port: 80", ""), `shop.yaml:8: Service default/web: spec.ports[0].port: 0: expected 1 to 65535`},
		{"a port", inService("port: 80", "port: 65536"), `shop.yaml:9: Service default/web: spec.ports[0].port: 65536: expected 1 to 65535`},
		{"a protocol", inService("port: 80", "port: 80\n    protocol: tcp"), `shop.yaml:10: Service default/web: spec.ports[0].protocol: "tcp": expected TCP, UDP or SCTP`},
		{"a name twice", addToSpec("- name: http\n  port: 81"), `shop.yaml:10: Service default/web: spec.ports[1].name: "http": already the name of ports[0]`},
		{"a port twice", addToSpec("- name: b\n  port: 80"), `shop.yaml:11: Service default/web: spec.ports[1].port: 80/TCP: the Service has this port already`},
		{"a port without a name among others", addToSpec("- port: 81"), `shop.yaml:10: Service default/web: spec.ports[1].name: required where there are several ports`},
		{"a type", addToSpec("type: Loadbalancer"), `shop.yaml:10: Service default/web: spec.type: "Loadbalancer": expected ClusterIP, NodePort, LoadBalancer or ExternalName`},
		{"a node port out of range", with(addToSpec("type: NodePort"), "port: 80", "port: 80\n    nodePort: 70000"), `shop.yaml:10: Service default/web: spec.ports[0].nodePort: 70000: expected 1 to 65535`},
		{"a negative node port", with(addToSpec("type: NodePort"), "port: 80", "port: 80\n    nodePort: -1"), `shop.yaml:10: Service default/web: spec.ports[0].nodePort: -1: expected 1 to 65535`},
		{"a node port of a ClusterIP", inService("port: 80", "port: 80\n    nodePort: 30000"), `shop.yaml:10: Service default/web: spec.ports[0].nodePort: only for type NodePort or LoadBalancer`},
		{"an external IP", addToSpec("externalIPs:\n- 192.0.2.1\n- 10.0.0"), `shop.yaml:12: Service default/web: spec.externalIPs[1]: "10.0.0": expected an IP address`},
		{"a loopback external IP", addToSpec("externalIPs: [127.0.0.1]"), `shop.yaml:10: Service default/web: spec.externalIPs[0]: "127.0.0.1": an unspecified, loopback or link-local address cannot be external`},
		{"an affinity", addToSpec("sessionAffinity: Client"), `shop.yaml:10: Service default/web: spec.sessionAffinity: "Client": expected None or ClientIP`},
		{"a timeout", addToSpec("sessionAffinity: ClientIP\nsessionAffinityConfig:\n  clientIP:\n    timeoutSeconds: 0"), `shop.yaml:13: Service default/web: spec.sessionAffinityConfig.clientIP.timeoutSeconds: 0: expected 1 to 86400`},
		{"a timeout without affinity", addToSpec("sessionAffinityConfig: {clientIP: {timeoutSeconds: 1}}"), `shop.yaml:10: Service default/web: spec.sessionAffinityConfig: only for sessionAffinity ClientIP`},
		{"an internal policy", addToSpec("internalTrafficPolicy: local"), `shop.yaml:10: Service default/web: spec.internalTrafficPolicy: "local": expected Cluster or Local`},
		{"an external policy", addToSpec("type: NodePort\nexternalTrafficPolicy: local"), `shop.yaml:11: Service default/web: spec.externalTrafficPolicy: "local": expected Cluster or Local`},
		{"an external policy of a ClusterIP", addToSpec("externalTrafficPolicy: Local"), `shop.yaml:10: Service default/web: spec.externalTrafficPolicy: only for type NodePort or LoadBalancer, or with externalIPs`},
		{"a health port without Local", addToSpec("type: LoadBalancer\nhealthCheckNodePort: 32000"), `shop.yaml:11: Service default/web: spec.healthCheckNodePort: only for type LoadBalancer with externalTrafficPolicy Local`},
		{"a source range", addToSpec("type: LoadBalancer\nloadBalancerSourceRanges:\n- 10.0.0.0/8\n- 10.0.0.1"), `shop.yaml:13: Service default/web: spec.loadBalancerSourceRanges[1]: "10.0.0.1": expected a CIDR such as 192.0.2.0/24`},
		{"a source range of a ClusterIP", addToSpec("loadBalancerSourceRanges: [10.0.0.0/8]"), `shop.yaml:10: Service default/web: spec.loadBalancerSourceRanges: only for type LoadBalancer`},
		{"an ingress IP", goodService + "status: {loadBalancer: {ingress: [{ip: x}]}}\n", `shop.yaml:10: Service default/web: status.loadBalancer.ingress[0].ip: "x": expected an IP address`},
		{"an ipMode", goodService + "status: {loadBalancer: {ingress: [{ip: 192.0.2.1, ipMode: vip}]}}\n", `shop.yaml:10: Service default/web: status.loadBalancer.ingress[0].ipMode: "vip": expected VIP or Proxy`},
	})
}

func TestErrorsOfSlicesAndNodes(t *testing.T) {
	checkErrors(t, []errorTest{
		// Values, all kinds.
		{"no name", inService("name: web", "labels: {}"), `shop.yaml:4: Service: metadata.name: required`},
		{"no metadata", "apiVersion: v1\nkind: Node\n", `shop.yaml:1: Node: metadata.name: required`},
		{"a bad name", inService("name: web", "name: Web"), `shop.yaml:4: Service default/Web: metadata.name: "Web": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')`},
		// Values of an EndpointSlice.
		{"no service-name", inSlice("    kubernetes.io/service-name: web\n", ""), `shop.yaml:5: EndpointSlice default/web-1: metadata.labels[kubernetes.io/service-name]: required: it names the Service that the endpoints are for`},
		{"no addressType", inSlice("addressType: IPv4\n", ""), `shop.yaml:1: EndpointSlice default/web-1: addressType: required`},
		{"an addressType", inSlice("IPv4", "ipv4"), `shop.yaml:7: EndpointSlice default/web-1: addressType: "ipv4": expected IPv4, IPv6 or FQDN`},
		{"no addresses", inSlice("[10.1.0.1]", "[]"), `shop.yaml:12: EndpointSlice default/web-1: endpoints[0].addresses: required`},
		{"an address", inSlice("10.1.0.1", "10.1.0"), `shop.yaml:12: EndpointSlice default/web-1: endpoints[0].addresses[0]: "10.1.0": expected an IP address`},
		{"an address of the other family", inSlice("10.1.0.1", "fd00::1"), `shop.yaml:12: EndpointSlice default/web-1: endpoints[0].addresses[0]: "fd00::1": expected an IPv4 address, as addressType says`},
		{"no port in a slice", inSlice("- name: http\n  port: 8080", "- name: http"), `shop.yaml:9: EndpointSlice default/web-1: ports[0].port: required`},
		{"a port of a slice", inSlice("port: 8080", "port: 0"), `shop.yaml:10: EndpointSlice default/web-1: ports[0].port: 0: expected 1 to 65535`},
		{"a port name twice", inSlice("ports:\n", "ports:\n- name: http\n  port: 1\n"), `shop.yaml:11: EndpointSlice default/web-1: ports[1].name: "http": already the name of ports[0]`},
		{"a hint without a name", inSlice("[10.1.0.1]", "[10.1.0.1]\n  hints: {forZones: [{name: \"\"}]}"), `shop.yaml:13: EndpointSlice default/web-1: endpoints[0].hints.forZones[0].name: required`},

		// Values of a Node.
		{"a podCIDR", with(goodNode, "10.1.0.0/24", "10.1.0.0"), `shop.yaml:6: Node node-1: spec.podCIDR: "10.1.0.0": expected a CIDR such as 192.0.2.0/24`},
		{"podCIDRs that differ", goodNode + "  podCIDRs: [10.2.0.0/24]\n", `shop.yaml:6: Node node-1: spec.podCIDR: "10.1.0.0/24": expected the first of podCIDRs, "10.2.0.0/24"`},
	})
}

func TestColumns(t *testing.T) {
	p := parse("shop.yaml", []byte(with(goodService, "port: 80", "port: eighty")))
	if e := p.errs[0]; e.Line != 9 || e.Column != 11 {
		t.Errorf("at %d:%d, want 9:11", e.Line, e.Column)
	}
}

func TestWhatIsRead(t *testing.T) {
	tests := []struct{ what, in, want string }{
		{"nothing", "", ""},
		{"comments", "# nothing\n---\n# here\n", ""},
		{"several documents", goodService + "---\n" + goodSlice + "---\n" + goodNode, "Service default/web:1 EndpointSlice default/web-1:11 Node node-1:24"},
		{"a List", "apiVersion: v1\nkind: List\nmetadata: {resourceVersion: \"\"}\nitems:\n- apiVersion: v1\n  kind: Node\n  metadata: {name: a}\n- apiVersion: v1\n  kind: Pod\n", "Node a:5 ignored Pod:8"},
		{"a ServiceList", "apiVersion: v1\nkind: ServiceList\nitems:\n- metadata: {name: a}\n  spec: {ports: [{port: 1}]}\n", "Service default/a:4"},
		{"JSON", `{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a", "labels": {"x": "\u00e9"}}}`, "Node a:1"},
		{"JSON with tabs", "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Node\",\n\t\"metadata\": {\n\t\t\"name\": \"a\"\n\t}\n}\n", "Node a:1"},
		{"other kinds", "apiVersion: apps/v1\nkind: Deployment\nspec: {what: ever}\n---\n" + goodNode, "Node node-1:5 ignored Deployment:1"},
		{"a Service of another group", "apiVersion: serving.knative.dev/v1\nkind: Service\n", "ignored Service:1"},
		{"a namespace", with(goodService, "name: web", "name: web\n  namespace: shop"), "Service shop/web:1"},
		{"anchors and merges", "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n  - &p {name: a, port: 1, protocol: UDP}\n  - {<<: *p, name: b, port: 2}\n", "Service default/a:1"},
		{"the old words for true", goodService + "  publishNotReadyAddresses: yes\n", "Service default/web:1"},
		{"a Service without a cluster IP", with(goodService, "  clusterIP: 10.96.0.1\n", ""), "Service default/web:1"},
		{"a headless Service", with(goodService, "10.96.0.1", "None"), "Service default/web:1"},
		{"an ExternalName", "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {type: ExternalName, externalName: example.com}\n", "Service default/a:1"},
		{"a NodePort without a node port", goodService + "  type: NodePort\n", "Service default/web:1"},
		{"a loopback endpoint, which is for the Store to leave out", with(goodSlice, "10.1.0.1", "127.0.0.1"), "EndpointSlice default/web-1:1"},
		{"names as endpoints", with(with(goodSlice, "10.1.0.1", "example.com"), "IPv4", "FQDN"), "EndpointSlice default/web-1:1"},
		{"nulls", "apiVersion: v1\nkind: Node\nmetadata: {name: a, labels: ~}\nspec: null\nstatus:\n", "Node a:1"},
		{"a node as kubectl prints it", "apiVersion: v1\nkind: Node\nmetadata:\n  creationTimestamp: \"2026-01-02T03:04:05Z\"\n  name: a\n  managedFields: [{fieldsV1: {\"f:metadata\": {}}}]\nstatus:\n  capacity: {cpu: 2, memory: 4Gi}\n  images: [{names: [x], sizeBytes: 123456789012}]\n", "Node a:1"},
	}
	for _, test := range tests {
		p := parse("shop.yaml", []byte(test.in))
		if err := p.first(); err != nil {
			t.Errorf("%s: %v", test.what, err)
			continue
		}
		if got := p.summary(); got != test.want {
			t.Errorf("%s: %s, want %s", test.what, got, test.want)
		}
	}
}
