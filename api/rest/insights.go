package rest

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store/catalog"
)

// Insights tells what is observed, as the JSON of DataplaneInsight and ZoneInsight without type and name.
type Insights interface {
	Dataplane(mesh, name string) (json.RawMessage, bool)
	Zone(name string) (json.RawMessage, bool)
}

type nothingObserved struct{}

func (nothingObserved) Dataplane(string, string) (json.RawMessage, bool) { return nil, false }
func (nothingObserved) Zone(string) (json.RawMessage, bool)              { return nil, false }

func (s *Server) insightRoutes() {
	e := s.echo
	if k, ok := s.kinds.ByName("Dataplane"); ok {
		s.overviews(k, "/dataplanes", "/meshes/:mesh/dataplanes", s.dataplaneOverview)
		e.GET("/dataplane-insights", s.listWith(k, s.dataplaneInsightItem))
		e.GET("/meshes/:mesh/dataplane-insights", s.listWith(k, s.dataplaneInsightItem))
		e.GET("/meshes/:mesh/dataplane-insights/:name", s.itemWith(k, s.dataplaneInsightItem))
	}
	if k, ok := s.kinds.ByName("Zone"); ok {
		s.overviews(k, "/zones", "/zones", s.zoneOverview)
		e.GET("/zone-insights", s.listWith(k, s.zoneInsightItem))
		e.GET("/zone-insights/:name", s.itemWith(k, s.zoneInsightItem))
	}
	if k, ok := s.kinds.ByName(meshType); ok {
		e.GET("/mesh-insights", s.listWith(k, s.meshInsightItem))
		e.GET("/mesh-insights/:name", s.itemWith(k, s.meshInsightItem))
	}
	e.GET("/global-insight", s.globalInsight)
	e.GET("/global-insights", s.globalInsights)
	none := func(c echo.Context) error {
		if err := s.require(c, ReadResources); err != nil {
			return err
		}
		return writePage(c, page{})
	}
	e.GET("/service-insights", none) // clients of older versions ask; services are MeshServices now
	e.GET("/meshes/:mesh/service-insights", none)
}

// overviews serves lists and items that join a resource with what is observed of it, under their new and older names.
func (s *Server) overviews(k resource.Kind, all, one string, item renderer) {
	lists := map[string]bool{all: true, one: true}
	for p := range lists {
		s.echo.GET(p+"/_overview", s.listWith(k, item))
		s.echo.GET(p+"+insights", s.listWith(k, item))
	}
	s.echo.GET(one+"/:name/_overview", s.itemWith(k, item))
	s.echo.GET(one+"+insights/:name", s.itemWith(k, item))
}

func (s *Server) itemWith(k resource.Kind, item renderer) echo.HandlerFunc {
	return func(c echo.Context) error {
		if err := s.require(c, readPermission(k)); err != nil {
			return err
		}
		snap := s.catalog.Snapshot()
		r, ok := snap.Get(keyOf(c, k))
		if !ok {
			return titled(couldNotGet, resource.ErrNotFound)
		}
		b, err := item(snap, r)
		if err != nil {
			return titled(couldNotGet, err)
		}
		return c.JSONBlob(http.StatusOK, b)
	}
}

func (s *Server) kind(name string) resource.Kind {
	k, _ := s.kinds.ByName(name)
	return k
}

func (s *Server) dataplaneInsight(r resource.Resource) json.RawMessage {
	return validOrEmpty(s.cfg.Insights.Dataplane(r.Mesh, r.Name))
}

func (s *Server) zoneInsight(name string) json.RawMessage {
	return validOrEmpty(s.cfg.Insights.Zone(name))
}

func validOrEmpty(b json.RawMessage, ok bool) json.RawMessage {
	if !ok || !json.Valid(b) {
		return json.RawMessage("{}")
	}
	return b
}

func (s *Server) dataplaneOverview(_ *catalog.Snapshot, r resource.Resource) (json.RawMessage, error) {
	return overview("DataplaneOverview", s.kind(r.Type), r, "dataplane", "dataplaneInsight", s.dataplaneInsight(r), nil)
}

func (s *Server) zoneOverview(_ *catalog.Snapshot, r resource.Resource) (json.RawMessage, error) {
	pending, err := s.pendingJSON(r.Name)
	if err != nil {
		return nil, err
	}
	return overview("ZoneOverview", s.kind(r.Type), r, "zone", "zoneInsight", s.zoneInsight(r.Name), pending)
}

func overview(typ string, k resource.Kind, r resource.Resource, specField, insightField string, insight, pending json.RawMessage) (json.RawMessage, error) {
	f := newFields()
	f.meta(typ, k, r.Meta)
	spec := r.Raw
	if len(spec) == 0 {
		spec = []byte("{}")
	}
	f.raw(specField, spec)
	f.raw(insightField, insight)
	if pending != nil {
		f.raw("pendingRemovals", pending)
	}
	return f.done()
}

func (s *Server) dataplaneInsightItem(_ *catalog.Snapshot, r resource.Resource) (json.RawMessage, error) {
	return insightItem("DataplaneInsight", r, s.dataplaneInsight(r))
}

func (s *Server) zoneInsightItem(_ *catalog.Snapshot, r resource.Resource) (json.RawMessage, error) {
	return insightItem("ZoneInsight", r, s.zoneInsight(r.Name))
}

func insightItem(typ string, r resource.Resource, insight json.RawMessage) (json.RawMessage, error) {
	f := newFields()
	f.meta(typ, resource.Kind{}, r.Meta)
	f.inline(insight)
	return f.done()
}

// observed is what the API reads in an insight.
type observed struct {
	Subscriptions []struct {
		ConnectTime    time.Time `json:"connectTime"`
		DisconnectTime time.Time `json:"disconnectTime"`
		Version        struct {
			KumaDp struct {
				Version string `json:"version"`
			} `json:"kumaDp"`
			Envoy struct {
				Version string `json:"version"`
			} `json:"envoy"`
		} `json:"version"`
	} `json:"subscriptions"`
	MTLS struct {
		IssuedBackend     string   `json:"issuedBackend"`
		SupportedBackends []string `json:"supportedBackends"`
	} `json:"mTLS"`
}

func readInsight(b json.RawMessage) observed {
	var o observed
	if json.Unmarshal(b, &o) != nil {
		return observed{}
	}
	return o
}

// online says whether some connection has begun and not ended.
func (o observed) online() bool {
	for _, s := range o.Subscriptions {
		if !s.ConnectTime.IsZero() && s.DisconnectTime.IsZero() {
			return true
		}
	}
	return false
}

func online(insight json.RawMessage) bool { return readInsight(insight).online() }
