package agents

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/api/agentapi"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/pki"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/token"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/zone-cp/identity"
)

const (
	author = "zone agents"
	// managedByAgent marks Dataplanes that agents registered and that go away with them.
	managedByAgent = "dataplane-agent"
	// maxInstance bounds what an agent says about itself.
	maxInstance = 128
	// clockSkew is a difference of clocks that people are told about.
	clockSkew = token.Leeway
)

// Enroll checks a token, registers the Dataplane and issues a control certificate.
func (s *Service) Enroll(ctx context.Context, in *agentapi.EnrollRequest) (*agentapi.EnrollResponse, error) {
	out, err := s.enroll(ctx, in)
	if err != nil {
		code := codeOf(err)
		s.metrics.enrollments.WithLabelValues(code.String()).Inc()
		s.cfg.Log.Info("an agent was not enrolled", "mesh", in.GetMesh(), "dataplane", in.GetName(), "place", in.GetPlace(), "err", err)
		return nil, status.Error(code, err.Error())
	}
	s.metrics.enrollments.WithLabelValues(codes.OK.String()).Inc()
	return out, nil
}

// refusal is an error with the gRPC code that tells an agent whether to try again.
type refusal struct {
	code codes.Code
	err  error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

func refuse(code codes.Code, format string, args ...any) error {
	return &refusal{code, fmt.Errorf(format, args...)}
}

func codeOf(err error) codes.Code {
	var r *refusal
	var problems resource.Problems
	var request *pki.RequestError
	switch {
	case errors.As(err, &r):
		return r.code
	case errors.As(err, &problems), errors.As(err, &request), errors.Is(err, resource.ErrUnknownKind):
		return codes.InvalidArgument
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrUnknownOutcome):
		return codes.Unavailable
	case errors.Is(err, store.ErrConflict):
		return codes.Aborted
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return codes.Unavailable
	default:
		return codes.Internal
	}
}

func (s *Service) enroll(ctx context.Context, in *agentapi.EnrollRequest) (*agentapi.EnrollResponse, error) {
	if in.GetInstance() == "" || len(in.GetInstance()) > maxInstance || len(in.GetPlace()) > maxInstance {
		return nil, refuse(codes.InvalidArgument, "instance: must have 1 to %d characters", maxInstance)
	}
	grant, err := s.grant(ctx, in)
	if err != nil {
		return nil, err
	}
	snapshot := s.cfg.Catalog.Snapshot()
	if _, ok := snapshot.Get(resource.Key{Type: mesh.TypeMesh, Name: grant.Mesh}); !ok {
		return nil, refuse(codes.NotFound, "mesh %s does not exist in this zone; create it first", resource.Quote(grant.Mesh))
	}
	wanted, warnings, err := s.wanted(snapshot, in, grant.Mesh)
	if err != nil {
		return nil, err
	}
	if grant.Name != "" && grant.Name != wanted.Name {
		return nil, refuse(codes.PermissionDenied, "the token is for dataplane %s, not %s", resource.Quote(grant.Name), resource.Quote(wanted.Name))
	}
	grant.Name, grant.Instance = wanted.Name, in.GetInstance()
	if err := s.allowed(snapshot, grant, wanted); err != nil {
		return nil, err
	}
	if ss := s.registry.session(wanted.Key()); ss != nil && ss.grant.Instance != grant.Instance {
		return nil, ss.taken()
	}
	if f, ok := s.registry.Snapshot().Get(wanted.Key()); ok {
		if err := s.elsewhere(f, grant, nil); err != nil {
			return nil, err
		}
	}
	chain, lifetime, err := s.cfg.Control.Issue(in.GetControlRequest(), grant)
	if err != nil {
		return nil, err
	}
	if err := s.register(ctx, snapshot, wanted); err != nil {
		return nil, err
	}
	if w := clockWarning(in.GetClockMs(), s.cfg.Now()); w != "" {
		warnings = append(warnings, w)
	}
	return &agentapi.EnrollResponse{
		ControlChain: chain, LifetimeMs: lifetime.Milliseconds(),
		Mesh: grant.Mesh, Name: grant.Name, Zone: s.cfg.Zone,
		ClockMs: s.cfg.Now().UnixMilli(), Warnings: warnings,
	}, nil
}

// grant checks the token of a request and returns what it allows, its name empty when it allows any.
func (s *Service) grant(ctx context.Context, in *agentapi.EnrollRequest) (identity.Grant, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get("authorization")
	if len(values) != 1 {
		return identity.Grant{}, refuse(codes.Unauthenticated, "a dataplane token is needed; issue one with `causeway token create dataplane`")
	}
	bearer, ok := strings.CutPrefix(values[0], "Bearer ")
	if !ok {
		return identity.Grant{}, refuse(codes.Unauthenticated, "the authorization must be a bearer token")
	}
	claims, verified, err := s.cfg.Tokens.Dataplane(bearer)
	if err != nil {
		if w := clockWarning(in.GetClockMs(), s.cfg.Now()); w != "" {
			return identity.Grant{}, refuse(codes.Unauthenticated, "%w; %s", err, w)
		}
		return identity.Grant{}, refuse(codes.Unauthenticated, "%w", err)
	}
	if claims.Type != "" && claims.Type != "dataplane" {
		return identity.Grant{}, refuse(codes.PermissionDenied, "the token is for a proxy of type %s, not for a dataplane", resource.Quote(claims.Type))
	}
	if in.GetMesh() != "" && in.GetMesh() != claims.Mesh {
		return identity.Grant{}, refuse(codes.PermissionDenied, "the token is for mesh %s, not %s", resource.Quote(claims.Mesh), resource.Quote(in.GetMesh()))
	}
	return identity.Grant{Mesh: claims.Mesh, Name: claims.Name, Token: verified.ID, Workload: claims.Workload, Tags: claims.Tags}, nil
}

// clockWarning says when the clocks of agent and zone differ so much that tokens and certificates suffer.
func clockWarning(agentMs int64, now time.Time) string {
	if agentMs == 0 {
		return ""
	}
	d := time.UnixMilli(agentMs).Sub(now).Round(time.Second)
	switch {
	case d > clockSkew:
		return fmt.Sprintf("the clock of the agent's host is %s ahead of the zone's; set one of them", d)
	case d < -clockSkew:
		return fmt.Sprintf("the clock of the agent's host is %s behind the zone's; set one of them", -d)
	}
	return ""
}

// wanted is the Dataplane as it should be registered: what the agent brought, or what exists under the name it gave.
func (s *Service) wanted(snapshot *catalog.Snapshot, in *agentapi.EnrollRequest, inMesh string) (resource.Resource, []string, error) {
	if len(in.GetDataplane()) > 0 {
		return s.brought(in, inMesh)
	}
	key := resource.Key{Type: mesh.TypeDataplane, Mesh: inMesh, Name: in.GetName()}
	if key.Name == "" {
		return resource.Resource{}, nil, refuse(codes.InvalidArgument, "either a Dataplane or its name must be given")
	}
	r, ok := snapshot.Get(key)
	if !ok {
		return resource.Resource{}, nil, refuse(codes.NotFound, "%s does not exist; create it first, or give the agent the whole Dataplane", key)
	}
	r, err := withHost(s.cfg.Catalog.Kinds(), r, in)
	return r, nil, err
}

func (s *Service) brought(in *agentapi.EnrollRequest, inMesh string) (resource.Resource, []string, error) {
	docs, err := s.cfg.Catalog.Kinds().DecodeYAML(in.GetDataplane(), false)
	if err != nil {
		return resource.Resource{}, nil, fmt.Errorf("dataplane: %w", err)
	}
	if len(docs) != 1 || docs[0].Type != mesh.TypeDataplane {
		return resource.Resource{}, nil, refuse(codes.InvalidArgument, "dataplane: must be one resource of type Dataplane")
	}
	r := docs[0].Resource
	var warnings []string
	for _, w := range docs[0].Warnings {
		warnings = append(warnings, w.String())
	}
	if r.Mesh == "" {
		r.Mesh = inMesh
	}
	if r.Name == "" {
		r.Name = in.GetName()
	}
	switch {
	case r.Mesh != inMesh:
		return r, nil, refuse(codes.PermissionDenied, "the token is for mesh %s, the Dataplane is of mesh %s", resource.Quote(inMesh), resource.Quote(r.Mesh))
	case in.GetName() != "" && in.GetName() != r.Name:
		return r, nil, refuse(codes.InvalidArgument, "name: the agent is called %s, its Dataplane %s", resource.Quote(in.GetName()), resource.Quote(r.Name))
	}
	own := r.Spec.(*mesh.Dataplane).Networking.OutboundBlock
	if block := in.GetOutboundBlock(); own != "" && block != "" && own != block {
		return r, nil, refuse(codes.InvalidArgument, "networking.outboundBlock: is %s, but the agent bound %s", own, resource.Quote(block))
	}
	r, err = withHost(s.cfg.Catalog.Kinds(), r, in)
	if err != nil {
		return r, nil, err
	}
	r.Labels = s.labels(r.Meta)
	r.Spec.(*mesh.Dataplane).ListenerLabels(r.Labels)
	return r, warnings, s.check(r)
}

// check is what a write of the Dataplane would be judged by.
func (s *Service) check(r resource.Resource) error {
	kind, _ := s.cfg.Catalog.Kinds().ByName(r.Type)
	ps := resource.CheckName("name", kind.Names, r.Name)
	ps.Append(resource.CheckLabels("labels", r.Labels))
	if z := r.Zone(); z != s.cfg.Zone {
		ps.Add(resource.Path("labels").Key(resource.LabelZone), "is %s, this is zone %s", resource.Quote(z), s.cfg.Zone)
	}
	if kind.Validate != nil {
		ps.Append(kind.Validate(r))
	}
	if err := ps.Err(); err != nil {
		return fmt.Errorf("dataplane: %w", err)
	}
	return nil
}

// labels are those of the user and those that the zone computes.
func (s *Service) labels(m resource.Meta) map[string]string {
	out := map[string]string{}
	maps.Copy(out, m.Labels)
	out[resource.LabelMesh] = m.Mesh
	out[resource.LabelDisplayName] = m.Name
	out[resource.LabelOrigin] = resource.OriginZone
	out[resource.LabelEnv] = "universal"
	out[resource.LabelManagedBy] = managedByAgent
	if out[resource.LabelZone] == "" {
		out[resource.LabelZone] = s.cfg.Zone
	}
	return out
}

// withHost records what the agent knows of its host: where it binds outbounds, and that there is no IPv6 for redirected connections.
func withHost(kinds *resource.Kinds, r resource.Resource, in *agentapi.EnrollRequest) (resource.Resource, error) {
	spec, ok := r.Spec.(*mesh.Dataplane)
	if !ok {
		return r, nil
	}
	block, tp := in.GetOutboundBlock(), spec.Networking.TransparentProxying
	switch {
	case tp == nil && block != "" && spec.Networking.OutboundBlock != block:
		return withField(kinds, r, block, "networking", "outboundBlock")
	case tp == nil || !in.GetWithoutIpv6() || tp.IPFamilyMode == "IPv4":
		return r, nil
	case tp.IPFamilyMode == "IPv6":
		return r, refuse(codes.InvalidArgument, "networking.transparentProxying.ipFamilyMode: is IPv6, which the host of the agent does not have; use IPv4")
	}
	return withField(kinds, r, "IPv4", "networking", "transparentProxying", "ipFamilyMode")
}

// withField sets one field of a resource and leaves the rest as it was written.
func withField(kinds *resource.Kinds, r resource.Resource, value string, path ...string) (resource.Resource, error) {
	raw, err := setField(r.Raw, value, path)
	if err != nil {
		return r, fmt.Errorf("record %s: %w", strings.Join(path, "."), err)
	}
	r.Raw = raw
	kind, _ := kinds.ByName(r.Type)
	r.Spec, err = kind.DecodeSpec(r.Raw)
	return r, err
}

func setField(raw json.RawMessage, value string, path []string) (json.RawMessage, error) {
	if len(path) == 0 {
		return json.Marshal(value)
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, err
	}
	inner, err := setField(fields[path[0]], value, path[1:])
	if err != nil {
		return nil, err
	}
	fields[path[0]] = inner
	return json.Marshal(fields)
}

// allowed checks the grant against the Dataplane as it would be and, so that no token takes over another's, as it is.
func (s *Service) allowed(snapshot *catalog.Snapshot, g identity.Grant, wanted resource.Resource) error {
	if err := covers(snapshot, g, wanted.Meta); err != nil {
		return refuse(codes.PermissionDenied, "%w", err)
	}
	stored, ok := snapshot.Get(wanted.Key())
	if !ok {
		return nil
	}
	if z := stored.Zone(); z != "" && z != s.cfg.Zone {
		return refuse(codes.PermissionDenied, "%s belongs to zone %s", wanted.Key(), z)
	}
	if err := covers(snapshot, g, stored.Meta); err != nil {
		return refuse(codes.PermissionDenied, "%s is registered already, and %w", wanted.Key(), err)
	}
	return nil
}

// register writes the Dataplane when it differs from what is stored. It is not ready before its agent opens a session.
func (s *Service) register(ctx context.Context, snapshot *catalog.Snapshot, wanted resource.Resource) error {
	key := wanted.Key()
	stored, exists := snapshot.Get(key)
	// What is known of its readiness comes first: a proxy that nothing is known of counts as declared, and this one's Envoy
	// does not listen yet.
	known, _ := s.registry.Snapshot().Get(key)
	fresh := s.registry.session(key) == nil && !s.connectedElsewhere(known)
	if fresh {
		now := s.cfg.Now()
		s.registry.update(key, func(f *Facts) {
			if f.LastSeen.IsZero() {
				f.LastSeen, f.ControlPlane = now, s.cfg.Instance
			}
			known = *f
		})
	}
	if !exists || !maps.Equal(stored.Labels, wanted.Labels) || string(stored.Raw) != string(wanted.Raw) {
		b := catalog.Batch{
			Author: author, Reason: "registration of " + key.String(),
			Puts: []catalog.Put{{Resource: wanted, Expect: int64(stored.Version)}},
		}
		if s.cfg.Peers != nil && fresh && !exists {
			// The other instances, too, have to know at once that its proxy does not run yet.
			data, err := encodeStanding(known)
			if err != nil {
				return fmt.Errorf("register %s: %w", key, err)
			}
			b.Derived = []catalog.DerivedPut{{Key: standingKey(key), Data: data, Owner: &key}}
		}
		_, err := s.cfg.Catalog.Commit(ctx, b)
		if err != nil && !exists {
			s.registry.forget(key)
		}
		if errors.Is(err, store.ErrConflict) {
			return refuse(codes.Aborted, "%s was changed at the same moment; try again", key)
		}
		if err != nil {
			return fmt.Errorf("register %s: %w", key, err)
		}
		s.cfg.Log.Info("dataplane registered", "mesh", key.Mesh, "dataplane", key.Name, "new", !exists)
	}
	if fresh {
		s.due.set(deadline{key, deregister, s.cfg.Now().Add(s.cfg.ForgetAfter)})
	}
	return nil
}
