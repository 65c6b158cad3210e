package zonecp

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/zone-cp/agents"
	"github.com/causeway-mesh/causeway/zone-cp/push"
	"github.com/causeway-mesh/causeway/zone-cp/xds"
)

// sessions joins ADS streams with the tables of the dataplanes whose agents relay them.
type sessions struct {
	engine   *push.Engine
	rejected *rejections
	log      *slog.Logger
}

// Open implements xds.Sessions. Whose stream it is says the agent's certificate, never the node.
func (s sessions) Open(ctx context.Context, _ *corev3.Node) (xds.Subscription, error) {
	dp, err := agents.PeerDataplane(ctx)
	if err != nil {
		return nil, err
	}
	sess, err := s.engine.Open(ctx, dp)
	if err != nil {
		return nil, status.Error(codes.Unavailable, fmt.Sprintf("follow the configuration of %s: %v", dp, err))
	}
	return &subscription{sess, s.rejected, s.log.With("mesh", dp.Mesh, "dataplane", dp.Name)}, nil
}

type subscription struct {
	*push.Session
	rejected *rejections
	log      *slog.Logger
}

// Rejected implements xds.Subscription.
func (s *subscription) Rejected(list []xds.Rejection) {
	for _, r := range s.rejected.set(s.Key(), list) {
		s.log.Warn("configuration is withheld from the proxy; what it had before stays", "type", r.Type, "name", r.Name, "policies", r.Policies, "err", r.Reason)
	}
}

// Close implements xds.Subscription.
func (s *subscription) Close() {
	s.rejected.set(s.Key(), nil)
	s.Session.Close()
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

// rejections remembers what is withheld from connected proxies.
type rejections struct {
	mu sync.Mutex
	of map[resource.Key][]rejection
}

// set replaces the rejections of a dataplane and returns those that are new.
func (r *rejections) set(dp resource.Key, list []xds.Rejection) (added []rejection) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var now []rejection
	for _, x := range list {
		n := rejection{Type: x.Type.String(), Name: x.Name, Reason: x.Text}
		for _, k := range x.Origins {
			n.Policies = append(n.Policies, k.String())
		}
		now = append(now, n)
		if !slices.ContainsFunc(r.of[dp], n.equal) {
			added = append(added, n)
		}
	}
	if len(now) == 0 {
		delete(r.of, dp)
		return nil
	}
	r.of[dp] = now
	return added
}

// get lists the rejections of a dataplane.
func (r *rejections) get(dp resource.Key) []rejection {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.of[dp]
}
