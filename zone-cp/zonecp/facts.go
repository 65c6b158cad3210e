package zonecp

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
	"github.com/causeway-mesh/causeway/zone-cp/agents"
	"github.com/causeway-mesh/causeway/zone-cp/derive"
)

// observed tells the compiler what agents report.
type observed struct {
	feed    *agents.Feed
	streams *streams
}

// byAgent says that a Dataplane was registered by its agent, of which the registry knows.
func byAgent(m resource.Meta) bool { return m.Label(resource.LabelManagedBy) == "dataplane-agent" }

// Next implements push.Facts.
func (o observed) Next(ctx context.Context) (map[resource.Key]*view.Facts, bool, error) {
	u, err := o.feed.Next(ctx)
	if err != nil {
		return nil, false, err
	}
	out := map[resource.Key]*view.Facts{}
	if u.All {
		u.Snapshot.Each("", func(k resource.Key, f agents.Facts) bool {
			out[k] = factsOf(f)
			return true
		})
		return out, true, nil
	}
	for _, k := range u.Changed {
		if f, ok := u.Snapshot.Get(k); ok {
			out[k] = factsOf(f)
		} else {
			out[k] = nil
			o.streams.forget(k)
		}
	}
	return out, false, nil
}

func factsOf(f agents.Facts) *view.Facts {
	return &view.Facts{Inbounds: f.Inbounds, Draining: f.Draining, Down: !f.Serving && !f.Draining}
}

// insights shows the API what agents report.
type insights struct {
	registry *agents.Registry
	instance string
	streams  *streams
}

// Dataplane implements rest.Insights.
func (i insights) Dataplane(meshName, name string) (json.RawMessage, bool) {
	if i.registry == nil {
		return nil, false // the API is up before the agents' service
	}
	k := resource.Key{Type: mesh.TypeDataplane, Mesh: meshName, Name: name}
	in, ok := i.registry.Snapshot().Insight(k, i.instance)
	if !ok {
		return nil, false
	}
	status, rejected, streamed := i.streams.of(k)
	f, _ := i.registry.Snapshot().Get(k)
	if f.ControlPlane != i.instance {
		streamed, rejected = false, nil // its stream is with another instance now
	}
	if n := len(in.Subscriptions); streamed && n > 0 {
		in.Subscriptions = slices.Clone(in.Subscriptions)
		in.Subscriptions[n-1].Status = status
	}
	b, err := json.Marshal(struct {
		mesh.DataplaneInsight
		// Rejections are an addition of Causeway: what Envoy refuses, and whose policies are behind it.
		Rejections []rejection `json:"rejections,omitempty"`
		// MetricsProblems are, too: which metrics the agent cannot tell as a MeshMetric wants it.
		MetricsProblems []string `json:"metricsProblems,omitempty"`
	}{in, rejected, f.MetricsProblems})
	return b, err == nil
}

// Zone implements rest.Insights; what a global control plane sees of zones is not known here.
func (insights) Zone(string) (json.RawMessage, bool) { return nil, false }

// issued tells what is derived from what agents report.
type issued struct{ feed *agents.Feed }

// Next implements derive.Source.
func (i issued) Next(ctx context.Context) (map[resource.Key]*derive.Facts, bool, error) {
	u, err := i.feed.Next(ctx)
	if err != nil {
		return nil, false, err
	}
	out := map[resource.Key]*derive.Facts{}
	take := func(k resource.Key, f agents.Facts) bool {
		out[k] = &derive.Facts{Issued: f.Issued.SPIFFEID != "", Draining: f.Draining || !f.Serving, Inbounds: f.Inbounds}
		return true
	}
	if u.All {
		u.Snapshot.Each("", take)
		return out, true, nil
	}
	for _, k := range u.Changed {
		out[k] = nil
		if f, ok := u.Snapshot.Get(k); ok {
			take(k, f)
		}
	}
	return out, false, nil
}
