package rest_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/api"
	"github.com/causeway-mesh/causeway/api/rest"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/store/memory"
)

// fixed are targets that do not change.
type fixed []rest.Target

func (f fixed) Targets(context.Context, string) ([]rest.Target, error) { return f, nil }
func (fixed) Changed() <-chan struct{}                                 { return nil }

// TestMonitoringAssignments: a client of kuma_sd_configs gets what is for it, and nothing while it knows that already.
func TestMonitoringAssignments(t *testing.T) {
	c, err := catalog.Open(t.Context(), catalog.Config{Store: memory.New(), Kinds: api.Kinds()})
	if err != nil {
		t.Fatal(err)
	}
	s, err := rest.New(rest.Config{Catalog: c, Zone: "east", Access: rest.Access{rest.ReadResources: {Groups: []string{rest.UnauthenticatedAll}}}, Targets: fixed{
		{Mesh: "default", Dataplane: "web-1", Scheme: "http", Address: "192.0.2.1:5670", Path: "/metrics"},
		{Mesh: "default", Dataplane: "web-1", Scheme: "https", Address: "192.0.2.1:5671", Path: "/all", ClientID: "main"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(body string) (int, string) {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v3/discovery:monitoringassignments?fetch-timeout=10ms", strings.NewReader(body)))
		return w.Code, w.Body.String()
	}
	for client, address := range map[string]string{"main": "192.0.2.1:5671", "somebody": "192.0.2.1:5670"} {
		code, body := ask(`{"node":{"id":"` + client + `"},"type_url":"x"}`)
		var answer struct {
			Version   string `json:"version_info"`
			Resources []struct{ Targets []struct{ Address string } }
		}
		if err := json.Unmarshal([]byte(body), &answer); err != nil || code != http.StatusOK || len(answer.Resources) != 1 || answer.Resources[0].Targets[0].Address != address {
			t.Errorf("%s gets %d %s (%v), want %s", client, code, body, err, address)
		}
		if code, body := ask(`{"node":{"id":"` + client + `"},"version_info":"` + answer.Version + `"}`); code != http.StatusNotModified || body != "" {
			t.Errorf("%s knows it already and gets %d %s", client, code, body)
		}
	}
	if code, _ := ask("no JSON"); code != http.StatusBadRequest {
		t.Errorf("nonsense is answered with %d", code)
	}
}
