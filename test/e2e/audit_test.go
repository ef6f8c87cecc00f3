package e2e

import (
	"net/http"
	"testing"
	"time"
)

// neverForbidden: the role system:node-proxier is enough for all that the program
// asked in all tests. An API server that is starting refuses all that it does not
// know yet.
func (c *cluster) neverForbidden(t *testing.T) {
	did := map[string]int{}
	for _, r := range c.requests(t, time.Time{}) {
		did[r.Verb+" "+r.ObjectRef.Resource]++
		if r.ResponseStatus.Code == http.StatusForbidden && !c.isStarting(r.ReceivedAt) {
			t.Errorf("forbidden: %s %s", r.Verb, r.URI)
		}
	}
	if len(did) == 0 {
		return // no test ran
	}
	for _, must := range []string{"watch services", "watch endpointslices", "watch nodes", "watch servicecidrs", "create events"} {
		if did[must] == 0 {
			t.Errorf("it never did %s: the audit log is not to be trusted", must)
		}
	}
	t.Logf("what the program asked in all tests: %v", did)
}
