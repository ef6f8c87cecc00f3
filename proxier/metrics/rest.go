package metrics

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"k8s.io/component-base/metrics/legacyregistry"

	// Has client-go count its requests in the registry above: rest_client_*.
	_ "k8s.io/component-base/metrics/prometheus/restclient"
)

// restClient gathers what client-go counts of its requests to the API server. The
// registry that it writes to is the process's and holds other things too.
func restClient() prometheus.Gatherer {
	return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		all, err := legacyregistry.DefaultGatherer.Gather()
		var own []*dto.MetricFamily
		for _, family := range all {
			if strings.HasPrefix(family.GetName(), "rest_client_") {
				own = append(own, family)
			}
		}
		return own, err
	})
}
