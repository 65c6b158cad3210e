package zonecp

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/zone-cp/agents"
	"github.com/causeway-mesh/causeway/zone-cp/push"
	"github.com/causeway-mesh/causeway/zone-cp/xds"
)

// sessions joins ADS streams with the tables of the dataplanes whose agents relay them.
type sessions struct {
	engine  *push.Engine
	streams *streams
	log     *slog.Logger
}

// Open implements xds.Sessions. Whose stream it is says the agent's certificate, never the node.
func (s sessions) Open(ctx context.Context, node *corev3.Node, changed func()) (xds.Subscription, error) {
	dp, err := agents.PeerDataplane(ctx)
	if err != nil {
		return nil, err
	}
	sess, err := s.engine.Open(ctx, dp, xds.EnvoyVersion(node), changed)
	if err != nil {
		return nil, status.Error(codes.Unavailable, fmt.Sprintf("follow the configuration of %s: %v", dp, err))
	}
	return &subscription{sess, s.streams, s.streams.open(dp), s.log.With("mesh", dp.Mesh, "dataplane", dp.Name)}, nil
}

// refused passes on what Envoys refuse, so that the patch that is to blame is left out.
func (z *Zone) refused(ctx context.Context, version string, f *envoy.Fragment, text string) {
	if err := z.engine.Refuse(ctx, version, f, text); err != nil {
		z.log.Debug("a refusal is not taken note of", "type", f.Type, "name", f.Name, "err", err)
	}
}

type subscription struct {
	*push.Session
	streams *streams
	counts  *counts
	log     *slog.Logger
}

// Sent implements xds.Subscription.
func (s *subscription) Sent(t envoy.Type) { s.counts.of[t].sent.Add(1) }

// Answered implements xds.Subscription.
func (s *subscription) Answered(t envoy.Type, accepted bool) {
	c := &s.counts.of[t]
	if accepted {
		c.acknowledged.Add(1)
	} else {
		c.rejected.Add(1)
	}
	s.counts.last.Store(time.Now().UnixNano())
}

// Rejected implements xds.Subscription.
func (s *subscription) Rejected(list []xds.Rejection) {
	for _, r := range s.streams.reject(s.Key(), list) {
		s.log.Warn("configuration is withheld from the proxy; what it had before stays", "type", r.Type, "name", r.Name, "policies", r.Policies, "err", r.Reason)
	}
}

// Close implements xds.Subscription.
func (s *subscription) Close() {
	s.streams.reject(s.Key(), nil)
	s.Session.Close()
}

// counts is how the responses of one stream fare. It is written on the path of every push, so it takes no lock.
type counts struct {
	of   [envoy.NumTypes]struct{ sent, acknowledged, rejected atomic.Uint64 }
	last atomic.Int64 // of the last answer, in nanoseconds
}

// status renders the counts for the API.
func (c *counts) status() mesh.DiscoveryStatus {
	var out mesh.DiscoveryStatus
	if last := c.last.Load(); last != 0 {
		out.LastUpdateTime = time.Unix(0, last).UTC()
	}
	into := [envoy.NumTypes]*mesh.DiscoveryTypeStats{
		envoy.Cluster: &out.CDS, envoy.Endpoint: &out.EDS, envoy.Listener: &out.LDS, envoy.Route: &out.RDS, envoy.Extension: {},
	}
	for t := range envoy.NumTypes {
		n := mesh.DiscoveryTypeStats{
			ResponsesSent:         mesh.Count(c.of[t].sent.Load()),
			ResponsesAcknowledged: mesh.Count(c.of[t].acknowledged.Load()),
			ResponsesRejected:     mesh.Count(c.of[t].rejected.Load()),
		}
		*into[t] = n
		out.Total.ResponsesSent += n.ResponsesSent
		out.Total.ResponsesAcknowledged += n.ResponsesAcknowledged
		out.Total.ResponsesRejected += n.ResponsesRejected
	}
	return out
}

// A rejection is what a proxy does not get, for people.
type rejection struct {
	Type   string `json:"type"`
	Name   string `json:"name"`
	Reason string `json:"reason"`
	// Policies are those that contributed; with one, it is the culprit.
	Policies []string `json:"policies,omitempty"`
}

func (r rejection) equal(o rejection) bool {
	return r.Type == o.Type && r.Name == o.Name && r.Reason == o.Reason && slices.Equal(r.Policies, o.Policies)
}

// streams remembers how the last ADS stream of each dataplane fares.
type streams struct {
	mu       sync.Mutex
	counts   map[resource.Key]*counts
	rejected map[resource.Key][]rejection
}

func newStreams() *streams {
	return &streams{counts: map[resource.Key]*counts{}, rejected: map[resource.Key][]rejection{}}
}

// open starts counting anew for a dataplane.
func (s *streams) open(dp resource.Key) *counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &counts{}
	s.counts[dp] = c
	return c
}

// forget drops what is known about a dataplane that is gone.
func (s *streams) forget(dp resource.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.counts, dp)
	delete(s.rejected, dp)
}

// reject replaces the rejections of a dataplane and returns those that are new.
func (s *streams) reject(dp resource.Key, list []xds.Rejection) (added []rejection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var now []rejection
	for _, x := range list {
		n := rejection{Type: x.Type.String(), Name: x.Name, Reason: x.Text}
		for _, k := range x.Origins {
			n.Policies = append(n.Policies, k.String())
		}
		now = append(now, n)
		if !slices.ContainsFunc(s.rejected[dp], n.equal) {
			added = append(added, n)
		}
	}
	if len(now) == 0 {
		delete(s.rejected, dp)
		return nil
	}
	s.rejected[dp] = now
	return added
}

// of tells how the last stream of a dataplane fares; ok is false when there was none.
func (s *streams) of(dp resource.Key) (status mesh.DiscoveryStatus, rejected []rejection, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.counts[dp]
	if ok {
		status = c.status()
	}
	return status, s.rejected[dp], ok
}
