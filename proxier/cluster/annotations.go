package cluster

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// The annotations of a Service that say how its connections are balanced. The
// API has no field for that.
const (
	annotationScheduler = "switchyard.dev/ipvs-scheduler"
	annotationWeights   = "switchyard.dev/endpoint-weights"
	annotationProxy     = "switchyard.dev/proxy-protocol"

	// Those of kube-router, so that a cluster can move over as it is.
	routerScheduler = "kube-router.io/service.scheduler"
	routerFlags     = "kube-router.io/service.schedflags"
)

// maxScheduler bounds the text of a scheduler with its flags, in bytes: all that
// the kernel has fit.
const maxScheduler = 64

// Balance is what a Service's annotations ask for. Immutable.
type Balance struct {
	// Scheduler is the name of an IPVS scheduler in lower case, perhaps with its
	// flags after a comma; "": not asked for. Whether there is such a one, the
	// backend knows.
	Scheduler string
	// Weights are the endpoints with a weight of their own, sorted by address.
	Weights []Weight
	// ProxyProtocol: endpoints want a PROXY protocol header, version 2.
	ProxyProtocol bool
}

// Weight is an endpoint's share of new connections: 1..65535, all others having
// 1; 0: it gets no new ones and keeps those that it has.
type Weight struct {
	Addr   netip.Addr
	Weight uint16
}

// WeightOf is the weight of an endpoint, and whether it has one of its own.
func (b *Balance) WeightOf(addr netip.Addr) (uint16, bool) {
	i, found := slices.BinarySearchFunc(b.Weights, addr, func(w Weight, a netip.Addr) int { return w.Addr.Compare(a) })
	if !found {
		return 0, false
	}
	return b.Weights[i].Weight, true
}

func (b *Balance) equal(o *Balance) bool {
	return b.Scheduler == o.Scheduler && b.ProxyProtocol == o.ProxyProtocol && slices.Equal(b.Weights, o.Weights)
}

func trimBalance(annotations map[string]string, p *problems) Balance {
	b := Balance{
		Scheduler: trimScheduler(annotations, p),
		Weights:   trimWeights(annotations[annotationWeights], p),
	}
	switch text := annotations[annotationProxy]; text {
	case "":
	case "v2":
		b.ProxyProtocol = true
	default:
		p.add(annotationField(annotationProxy), "%s: must be v2", show(text))
	}
	return b
}

// trimScheduler takes our annotation before kube-router's.
func trimScheduler(annotations map[string]string, p *problems) string {
	key, text := annotationScheduler, annotations[annotationScheduler]
	if text == "" && annotations[routerScheduler] != "" {
		key, text = routerScheduler, annotations[routerScheduler]
		if flags := annotations[routerFlags]; flags != "" {
			text += "," + flags
		}
	}
	text = strings.ToLower(strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' }), ","))
	if len(text) > maxScheduler {
		p.add(annotationField(key), "%s: longer than any scheduler with its flags", show(text))
		return ""
	}
	return strings.Clone(text)
}

// trimWeights reads a JSON map of address to weight. A part that is wrong is left
// out, the others count.
func trimWeights(text string, p *problems) []Weight {
	if text == "" {
		return nil
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &raw); err != nil {
		p.add(annotationField(annotationWeights), `%s: not a JSON map of addresses to weights such as {"10.244.1.7": 3}`, show(text))
		return nil
	}
	weights := map[netip.Addr]uint16{}
	for _, key := range slices.Sorted(maps.Keys(raw)) {
		w, err := trimWeight(key, raw[key])
		if err != nil {
			p.add(annotationField(annotationWeights), "%v", err)
			continue
		}
		weights[w.Addr] = w.Weight
	}
	out := make([]Weight, 0, len(weights))
	for addr, weight := range weights {
		out = append(out, Weight{addr, weight})
	}
	slices.SortFunc(out, func(a, b Weight) int { return a.Addr.Compare(b.Addr) })
	return out
}

func trimWeight(key string, value json.RawMessage) (Weight, error) {
	addr, err := parseAddr(key)
	if err != nil {
		return Weight{}, err
	}
	var weight *uint16
	if err := json.Unmarshal(value, &weight); err != nil || weight == nil {
		return Weight{}, fmt.Errorf("%s: %s: not a weight: 0 to 65535", show(key), show(string(value)))
	}
	return Weight{addr, *weight}, nil
}

func annotationField(key string) string { return "metadata.annotations[" + key + "]" }
