package test

import (
	"encoding/json"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"switchyard/iptables"
	"switchyard/iptables/ruleset"
	"switchyard/proxier"
	"switchyard/proxier/proxiertest"
)

// FuzzCompile feeds objects that the API could hold, and many that it could not,
// through everything up to the text for the kernel. Nothing may panic, every
// service comes out or says why not, and no chain is too long.
func FuzzCompile(f *testing.F) {
	for seed := range uint64(20) {
		o := proxiertest.Random(seed)
		for i := range min(len(o.Services), len(o.Slices)) {
			s, _ := json.Marshal(o.Services[i])
			slice, _ := json.Marshal(o.Slices[i])
			f.Add(s, slice)
		}
	}
	f.Add([]byte(`{"spec":{"clusterIPs":["::","0.0.0.0"],"ports":[{},{"port":-1},null]}}`), []byte(`{"endpoints":[{}],"ports":[null]}`))
	f.Fuzz(func(t *testing.T, service, slice []byte) {
		var o proxiertest.Objects
		var svc corev1.Service
		var sl discoveryv1.EndpointSlice
		if json.Unmarshal(service, &svc) == nil {
			o.Services = append(o.Services, &svc)
		}
		if json.Unmarshal(slice, &sl) == nil {
			sl.Namespace = svc.Namespace
			sl.Labels = map[string]string{discoveryv1.LabelServiceName: svc.Name}
			o.Slices = append(o.Slices, &sl)
		}
		st := stageOf(t, o, proxiertest.DefaultFlags())
		for _, state := range st.states {
			checkState(t, state)
			text, err := iptables.Render(state, st.options.Backend)
			if err != nil {
				t.Fatalf("the compiled state cannot be rendered: %v\n%s", err, state)
			}
			checkRuleset(t, text)
		}
	})
}

func checkState(t *testing.T, state *proxier.State) {
	for i, s := range state.Services {
		if i > 0 && state.Services[i-1].Compare(s) >= 0 {
			t.Fatalf("services out of order at %s", s.Name)
		}
		for _, fr := range s.Frontends {
			if len(fr.Routes) == 0 || fr.Routes[len(fr.Routes)-1].From != proxier.FromAnyone {
				t.Fatalf("%s %s: the last row is not for anyone", s.Name, fr.Address())
			}
			for _, r := range fr.Routes {
				if (r.To == proxier.ToCluster || r.To == proxier.ToLocal) && len(s.Endpoints(r.To)) == 0 {
					t.Fatalf("%s %s: %s, but there are none", s.Name, fr.Address(), r)
				}
			}
		}
	}
}

func checkRuleset(t *testing.T, text string) {
	err := ruleset.Scan([]byte(text), nil, func(table string, c ruleset.Chain) {
		if len(c.Name) > ruleset.MaxChainName {
			t.Fatalf("%s %s: a name of %d bytes", table, c.Name, len(c.Name))
		}
		if len(c.Rules) > 256 {
			t.Fatalf("%s %s: %d rules", table, c.Name, len(c.Rules))
		}
		for _, r := range c.Rules {
			if r.Raw != "" {
				t.Fatalf("%s %s: a rule outside the dialect: %s", table, c.Name, r.Raw)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}
