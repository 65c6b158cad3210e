package rest

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store/catalog"
)

// A proxyStatus is how well a proxy or a service does.
type proxyStatus int

const (
	offline proxyStatus = iota
	partiallyDegraded
	allOnline
)

// A tally counts by status.
type tally struct {
	// Total of them.
	Total int `json:"total"`
	// Online ones are connected and ready.
	Online int `json:"online"`
	// Offline ones are not connected.
	Offline int `json:"offline"`
	// PartiallyDegraded ones are connected, and some of their inbounds are not ready.
	PartiallyDegraded int `json:"partiallyDegraded"`
}

func (t *tally) add(s proxyStatus) {
	t.Total++
	switch s {
	case allOnline:
		t.Online++
	case partiallyDegraded:
		t.PartiallyDegraded++
	default:
		t.Offline++
	}
}

// A count is how many there are.
type count struct {
	// Total of them.
	Total int `json:"total"`
}

// A controlPlaneCount counts zones by connection.
type controlPlaneCount struct {
	// Online ones are connected.
	Online int `json:"online"`
	// Total of them.
	Total int `json:"total"`
}

// statusOfDataplane judges a dataplane by its connection and the readiness of what it serves.
func statusOfDataplane(f facts, o observed) proxyStatus {
	connected := o.online()
	if f.Networking.Gateway != nil {
		if connected {
			return allOnline
		}
		return offline
	}
	total, ready := 0, 0
	see := func(state string) {
		switch state {
		case "", "Ready":
			total, ready = total+1, ready+1
		case "Ignored":
		default:
			total++
		}
	}
	for _, in := range f.Networking.Inbound {
		see(in.State)
	}
	for _, l := range f.Networking.Listeners {
		see(l.State)
	}
	switch {
	case !connected || ready == 0:
		return offline
	case ready < total:
		return partiallyDegraded
	default:
		return allOnline
	}
}

// A meshTotals is the body of a MeshInsight.
type meshTotals struct {
	// Dataplanes of the mesh.
	Dataplanes tally `json:"dataplanes"`
	// DataplanesByType counts them by sort.
	DataplanesByType dataplanesByType `json:"dataplanesByType"`
	// DpVersions counts them by version.
	DpVersions dpVersions `json:"dpVersions"`
	// MTLS counts them by identity.
	MTLS mtlsTotals `json:"mTLS"`
	// Resources counts them by type.
	Resources map[string]count `json:"resources"`
}

type dataplanesByType struct {
	// Standard proxies stand beside a workload.
	Standard tally `json:"standard"`
	// Gateway proxies stand beside a gateway of any sort.
	Gateway tally `json:"gateway"`
	// GatewayDelegated proxies stand beside a gateway of its own.
	GatewayDelegated tally `json:"gatewayDelegated"`
}

type dpVersions struct {
	// KumaDp counts by version of the agent.
	KumaDp map[string]*tally `json:"kumaDp"`
	// Envoy counts by version of Envoy.
	Envoy map[string]*tally `json:"envoy"`
}

type mtlsTotals struct {
	// IssuedBackends counts by the identity that issued the certificate.
	IssuedBackends map[string]*tally `json:"issuedBackends"`
	// SupportedBackends counts by the identities that are accepted.
	SupportedBackends map[string]*tally `json:"supportedBackends"`
}

func (s *Server) meshInsightItem(snap *catalog.Snapshot, mesh resource.Resource) (json.RawMessage, error) {
	f := newFields()
	f.meta("MeshInsight", resource.Kind{}, mesh.Meta)
	b, err := json.Marshal(s.meshTotals(snap, mesh.Name))
	if err != nil {
		return nil, err
	}
	f.inline(b)
	return f.done()
}

func (s *Server) meshTotals(snap *catalog.Snapshot, mesh string) meshTotals {
	t := meshTotals{
		DpVersions: dpVersions{KumaDp: map[string]*tally{}, Envoy: map[string]*tally{}},
		MTLS:       mtlsTotals{IssuedBackends: map[string]*tally{}, SupportedBackends: map[string]*tally{}},
		Resources:  map[string]count{},
	}
	snap.Each("Dataplane", mesh, func(r resource.Resource) bool {
		t.add(dataplaneFacts(r.Raw), readInsight(s.dataplaneInsight(r)))
		return true
	})
	for _, k := range s.kinds.All() {
		if n := snap.Count(k.Name, mesh); k.Scope == resource.ScopeMesh && n > 0 {
			t.Resources[k.Name] = count{n}
		}
	}
	return t
}

func (t *meshTotals) add(f facts, o observed) {
	status := statusOfDataplane(f, o)
	t.Dataplanes.add(status)
	if f.Networking.Gateway != nil {
		t.DataplanesByType.Gateway.add(status)
		t.DataplanesByType.GatewayDelegated.add(status)
	} else {
		t.DataplanesByType.Standard.add(status)
	}
	if n := len(o.Subscriptions); n > 0 {
		v := o.Subscriptions[n-1].Version
		addTo(t.DpVersions.KumaDp, v.KumaDp.Version, status)
		addTo(t.DpVersions.Envoy, v.Envoy.Version, status)
	}
	addTo(t.MTLS.IssuedBackends, o.MTLS.IssuedBackend, status)
	for _, b := range o.MTLS.SupportedBackends {
		addTo(t.MTLS.SupportedBackends, b, status)
	}
}

func addTo(m map[string]*tally, key string, s proxyStatus) {
	if key == "" {
		return
	}
	if m[key] == nil {
		m[key] = &tally{}
	}
	m[key].add(s)
}

// A globalTotals is the body of /global-insight.
type globalTotals struct {
	// CreatedAt is now.
	CreatedAt time.Time `json:"createdAt"`
	// Services of all meshes.
	Services serviceTotals `json:"services"`
	// Zones and what stands at their borders.
	Zones zoneTotals `json:"zones"`
	// Dataplanes of all meshes.
	Dataplanes proxyTotals `json:"dataplanes"`
	// Policies of all meshes.
	Policies count `json:"policies"`
	// Meshes that exist.
	Meshes count `json:"meshes"`
	// Resources counts them by type.
	Resources map[string]count `json:"resources"`
}

// serviceTotals counts services.
type serviceTotals struct {
	// Total of all sorts.
	Total int `json:"total"`
	// Internal services are MeshServices.
	Internal tally `json:"internal"`
	// External services are MeshExternalServices.
	External count `json:"external"`
	// GatewayDelegated are delegated gateways.
	GatewayDelegated tally `json:"gatewayDelegated"`
}

// zoneTotals counts what zones consist of.
type zoneTotals struct {
	// ControlPlanes of zones.
	ControlPlanes controlPlaneCount `json:"controlPlanes"`
	// ZoneIngresses is 0: an ingress is a Dataplane with a listener.
	ZoneIngresses controlPlaneCount `json:"zoneIngresses"`
	// ZoneEgresses is 0: an egress is a Dataplane with a listener.
	ZoneEgresses controlPlaneCount `json:"zoneEgresses"`
}

// proxyTotals counts proxies by sort.
type proxyTotals struct {
	// Standard proxies stand beside a workload.
	Standard tally `json:"standard"`
	// GatewayDelegated proxies stand beside a gateway.
	GatewayDelegated tally `json:"gatewayDelegated"`
}

func (s *Server) globalInsight(c echo.Context) error {
	if err := s.require(c, ReadResources); err != nil {
		return err
	}
	snap := s.catalog.Snapshot()
	t := globalTotals{CreatedAt: s.cfg.Now().UTC(), Resources: map[string]count{}, Meshes: count{snap.Count(meshType, "")}}
	snap.Each("Dataplane", "", func(r resource.Resource) bool {
		f := dataplaneFacts(r.Raw)
		status := statusOfDataplane(f, readInsight(s.dataplaneInsight(r)))
		if f.Networking.Gateway != nil {
			t.Dataplanes.GatewayDelegated.add(status)
			t.Services.GatewayDelegated.add(status)
		} else {
			t.Dataplanes.Standard.add(status)
		}
		return true
	})
	snap.Each("MeshService", "", func(r resource.Resource) bool {
		t.Services.Internal.add(statusOfService(snap, r))
		return true
	})
	snap.Each("Zone", "", func(r resource.Resource) bool {
		t.Zones.ControlPlanes.Total++
		if online(s.zoneInsight(r.Name)) {
			t.Zones.ControlPlanes.Online++
		}
		return true
	})
	t.Services.External.Total = snap.Count("MeshExternalService", "")
	t.Services.Total = t.Services.Internal.Total + t.Services.External.Total + t.Services.GatewayDelegated.Total
	for _, k := range s.kinds.All() {
		n := snap.Count(k.Name, "")
		if n > 0 {
			t.Resources[k.Name] = count{n}
		}
		if k.Policy != nil {
			t.Policies.Total += n
		}
	}
	return c.JSON(http.StatusOK, t)
}

// statusOfService judges a service by its proxies when they are counted, else by the state it has.
func statusOfService(snap *catalog.Snapshot, r resource.Resource) proxyStatus {
	var status struct {
		DataplaneProxies *struct{ Healthy, Total int } `json:"dataplaneProxies"`
	}
	if b, ok := statusOf(snap, r); ok && json.Unmarshal(b, &status) == nil && status.DataplaneProxies != nil {
		switch p := status.DataplaneProxies; {
		case p.Healthy == 0:
			return offline
		case p.Healthy < p.Total:
			return partiallyDegraded
		default:
			return allOnline
		}
	}
	var spec struct {
		State string `json:"state"`
	}
	if json.Unmarshal(r.Raw, &spec) == nil && spec.State == "Available" {
		return allOnline
	}
	return offline
}

// globalCounts is the body of /global-insights.
type globalCounts struct {
	// CreationTime is now.
	CreationTime time.Time `json:"creationTime"`
	// Resources counts them by type.
	Resources map[string]count `json:"resources"`
	// Type is GlobalInsights; there is no other.
	Type string `json:"type"`
}

// globalInsights is the older form: how many there are of each type.
func (s *Server) globalInsights(c echo.Context) error {
	if err := s.require(c, ReadResources); err != nil {
		return err
	}
	snap := s.catalog.Snapshot()
	types := map[string]count{}
	for _, k := range s.kinds.All() {
		types[k.Name] = count{snap.Count(k.Name, "")}
	}
	return c.JSON(http.StatusOK, globalCounts{s.cfg.Now().UTC(), types, "GlobalInsights"})
}
