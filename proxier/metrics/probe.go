package metrics

import (
	"net/http"
	"strconv"
)

// Probe counts the answer to a probe at /healthz or /livez, by its HTTP status
// code. Other paths are nobody's probes and are not counted.
func (m *Metrics) Probe(path string, code int) {
	switch path {
	case "/healthz":
		m.healthz.WithLabelValues(strconv.Itoa(code)).Inc()
	case "/livez":
		m.livez.WithLabelValues(strconv.Itoa(code)).Inc()
	}
}

// CountProbes is the handler with its answers counted by Probe.
func (m *Metrics) CountProbes(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.Path
		answer := &answer{ResponseWriter: w, code: http.StatusOK}
		next.ServeHTTP(answer, r)
		m.Probe(path, answer.code)
	})
}

// answer remembers the status code: 200 unless the handler says otherwise before
// it writes.
type answer struct {
	http.ResponseWriter
	code int
	done bool
}

// WriteHeader implements http.ResponseWriter. Codes below 200 are not the answer
// yet.
func (a *answer) WriteHeader(code int) {
	if !a.done && code >= http.StatusOK {
		a.code, a.done = code, true
	}
	a.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (a *answer) Write(b []byte) (int, error) {
	a.done = true
	return a.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }
