package metrics

import (
	"encoding/json"
	"net/http"
	"net/http/pprof"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// configKey is under what the configuration stands in the answer of /configz: its
// API group.
const configKey = "kubeproxy.config.k8s.io"

// ServerOptions are what a metrics server answers with.
type ServerOptions struct {
	// Metrics answers at /metrics: Metrics.Handler.
	Metrics http.Handler
	// Mode is the proxy mode, the answer of /proxyMode.
	Mode string
	// Config is the configuration in effect, a KubeProxyConfiguration that
	// marshals to JSON, called for each request. nil: there is no /configz.
	Config func() (any, error)
	// Profiling opens /debug/pprof. A CPU profile takes 30 s unless the request
	// says otherwise: the server's write timeout must leave it that.
	Profiling bool
}

// NewServer returns what upstream answers at its metrics address, 127.0.0.1:10249
// by default. Paths that it does not know are not found.
func NewServer(o ServerOptions) http.Handler {
	mux := http.NewServeMux()
	if o.Metrics != nil {
		mux.Handle("/metrics", o.Metrics)
	}
	mux.Handle("/metrics/slis", slis())
	mux.HandleFunc("/healthz", text("ok"))
	mux.HandleFunc("/healthz/ping", text("ok"))
	mux.HandleFunc("/proxyMode", text(o.Mode))
	if o.Config != nil {
		mux.HandleFunc("/configz", configz(o.Config))
	}
	if o.Profiling {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// slis are the service level indicators of KEP-3466: one check, ping, which is
// healthy whenever it is asked.
func slis() http.Handler {
	registry := prometheus.NewRegistry()
	labels := []string{"name", "type"}
	healthy := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "kubernetes_healthcheck", Help: "The result of a health check: 1 is healthy."}, labels)
	checks := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kubernetes_healthchecks_total", Help: "Health checks by their result."}, append(labels, "status"))
	registry.MustRegister(healthy, checks)
	healthy.WithLabelValues("ping", "healthz").Set(1)
	handler := promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		checks.WithLabelValues("ping", "healthz", "success").Inc()
		handler.ServeHTTP(w, r)
	})
}

// text answers with a text that has no line end, as upstream's.
func text(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		reply(w, "text/plain; charset=utf-8", []byte(body))
	}
}

func configz(config func() (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		c, err := config()
		if err != nil {
			http.Error(w, "read the configuration: "+err.Error(), http.StatusInternalServerError)
			return
		}
		body, err := json.Marshal(map[string]any{configKey: c})
		if err != nil {
			http.Error(w, "print the configuration: "+err.Error(), http.StatusInternalServerError)
			return
		}
		reply(w, "application/json", body)
	}
}

func reply(w http.ResponseWriter, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(body) // the client went away
}
