package manifest

import (
	"testing"

	"go.yaml.in/yaml/v3"

	"switchyard/proxier/cluster"
)

// Any bytes give objects or errors. An error names the file and a line within
// it; objects are such as the Store takes.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		goodService, goodSlice, goodNode, goodService + "---\n" + goodSlice, "a: &a [*a]", "<<: {<<: {a: b}}", "? [a]\n: b",
		"apiVersion: v1\nkind: List\nitems: [{kind: Service, apiVersion: v1, metadata: {name: a}}]",
		`{"apiVersion":"v1","kind":"Node","metadata":{"name":"a","creationTimestamp":"x"},"status":{"capacity":{"cpu":"1e9999"}}}`,
		goodService + "status: {loadBalancer: {ingress: [{ip: 1.1.1.1}, {}]}}\n",
		with(goodService, "clusterIP: 10.96.0.1", "clusterIPs: [~]\n  sessionAffinity: ClientIP"),
		with(goodSlice, "- name: http\n  port: 8080", "- ~\n- {}"), "!!binary x: !!float y", "\xff\xfe", "%YAML 9.9\n---\n", "kind: !!int x",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p := parse("a.yaml", data)
		var any yaml.Node
		isYAML := yaml.Unmarshal(data, &any) == nil
		for _, e := range p.errs {
			if e.File != "a.yaml" || e.Reason == "" || e.Line < 0 || isYAML && e.Line == 0 {
				t.Fatalf("%+v", e)
			}
		}
		if p.first() != nil {
			return
		}
		s := New("a.yaml", cluster.NewStore("node-1"))
		s.files["a.yaml"] = &file{entries: p.entries}
		s.apply()
		s.store.Snapshot()
		s.files = map[string]*file{}
		s.apply()
		if s.store.Snapshot().Services.Len() > 0 {
			t.Fatal("something is left")
		}
	})
}
