package health

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"switchyard/proxier"
)

const syncPeriod = 30 * time.Second

func get(h http.Handler, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	return w
}

func TestHealthz(t *testing.T) {
	for name, c := range map[string]struct {
		steps          func(h *Healthz)
		healthz, livez int
	}{
		"before anything":     {func(h *Healthz) {}, 200, 200},
		"a change waits":      {func(h *Healthz) { h.Queued(4); time.Sleep(2*syncPeriod - 1) }, 200, 200},
		"a change waits long": {func(h *Healthz) { h.Queued(4); time.Sleep(2 * syncPeriod) }, 503, 503},
		"counted from the oldest": {func(h *Healthz) {
			h.Queued(4)
			time.Sleep(syncPeriod)
			h.Queued(4)
			time.Sleep(syncPeriod)
		}, 503, 503},
		"applied": {func(h *Healthz) {
			h.Queued(4)
			time.Sleep(time.Hour)
			h.Applied(4, time.Now())
		}, 200, 200},
		"quiet for long": {func(h *Healthz) { h.Queued(4); h.Applied(4, time.Now()); time.Sleep(time.Hour) }, 200, 200},
		"one family is late": {func(h *Healthz) {
			h.Queued(4)
			h.Queued(6)
			h.Applied(4, time.Now())
			time.Sleep(time.Hour)
		}, 503, 503},
		"a change came while the one before was applied": {func(h *Healthz) {
			h.Queued(4)
			read := time.Now()
			time.Sleep(time.Second)
			h.Queued(4)
			h.Applied(4, read)
			time.Sleep(time.Hour)
		}, 503, 503},
		"that change is not late yet": {func(h *Healthz) {
			h.Queued(4)
			time.Sleep(syncPeriod)
			read := time.Now()
			time.Sleep(time.Second)
			h.Queued(4)
			h.Applied(4, read)
			time.Sleep(2*syncPeriod - 1)
		}, 200, 200},
		"draining":          {func(h *Healthz) { h.SetEligible(false) }, 503, 200},
		"draining is over":  {func(h *Healthz) { h.SetEligible(false); h.SetEligible(true) }, 200, 200},
		"draining and late": {func(h *Healthz) { h.SetEligible(false); h.Queued(6); time.Sleep(time.Hour) }, 503, 503},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := NewHealthz(syncPeriod, nil)
				h.SetEligible(true)
				c.steps(h)
				for path, want := range map[string]int{"/healthz": c.healthz, "/livez": c.livez, "/": 404, "/healthz/x": 404} {
					if got := get(h, path).Code; got != want {
						t.Errorf("%s: %d, want %d", path, got, want)
					}
				}
				if h.Healthy() != (c.livez == 200) {
					t.Errorf("healthy is %v although /livez is %d", h.Healthy(), c.livez)
				}
			})
		})
	}
}

func TestHealthzBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHealthz(syncPeriod, nil)
		start := time.Now()
		stamp := func(d time.Duration) string {
			text, _ := json.Marshal(start.Add(d))
			return string(text)
		}
		h.Applied(proxier.IPv4, time.Now())
		h.Queued(proxier.IPv6)
		time.Sleep(time.Minute)
		now, then, never := stamp(time.Minute), stamp(0), `"0001-01-01T00:00:00Z"`
		status := `"status":{"IPv4":{"lastUpdated":` + then + `,"healthy":true},"IPv6":{"lastUpdated":`
		check := func(why, path, want string) {
			t.Helper()
			w := get(h, path)
			if got := strings.TrimSuffix(w.Body.String(), "\n"); got != want {
				t.Errorf("%s: %s\n got %s\nwant %s", why, path, got, want)
			}
			if w.Header().Get("Content-Type") != "application/json" || w.Header().Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%s: headers %v", why, w.Header())
			}
		}
		late := status + never + `,"healthy":false}}}`
		check("late", "/livez", `{"lastUpdated":`+then+`,"currentTime":`+now+`,"healthy":false,`+late)
		check("late", "/healthz", `{"lastUpdated":`+then+`,"currentTime":`+now+`,"nodeEligible":false,"healthy":false,`+late)
		h.Applied(proxier.IPv6, time.Now())
		fine := status + now + `,"healthy":true}}}`
		check("now is the last update of a healthy one", "/livez", `{"lastUpdated":`+now+`,"currentTime":`+now+`,"healthy":true,`+fine)
		time.Sleep(time.Minute)
		later := stamp(2 * time.Minute)
		check("not eligible: the true last update", "/healthz", `{"lastUpdated":`+now+`,"currentTime":`+later+`,"nodeEligible":false,"healthy":true,`+fine)
		h.SetEligible(true)
		check("eligible", "/healthz", `{"lastUpdated":`+later+`,"currentTime":`+later+`,"nodeEligible":true,"healthy":true,`+fine)
	})
}
