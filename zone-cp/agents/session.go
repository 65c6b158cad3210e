package agents

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/api/agentapi"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/token"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/zone-cp/identity"
	"github.com/causeway-mesh/causeway/zone-cp/solo"
)

// Bounds on what one agent may report.
const (
	maxInbounds = 1000
	maxFeatures = 100
	maxProblems = 20
	maxText     = 1024
)

// A session is one stream of one agent. Its state belongs to whoever takes the turn, but for what is said otherwise.
type session struct {
	*solo.Stream
	s     *Service
	key   resource.Key
	grant identity.Grant
	hello *agentapi.Hello
	log   *slog.Logger

	ctx    context.Context // ends with the session
	cancel context.CancelFunc

	// What the session was woken for. Anybody may set these.
	poked    atomic.Bool            // something may be new in the catalog
	reworded atomic.Bool            // the mesh may have something to tell
	told     atomic.Pointer[string] // the outcome of announcing a goodbye
	inquired atomic.Bool            // somebody has a question

	feed     NamesFeed // nil when the agent gets no names
	follower Follower  // nil when nothing can be told

	offer    *agentapi.IdentityOffer
	problem  string
	trust    *identity.Trust
	probes   []*agentapi.Probe
	names    *agentapi.NameSet       // what the agent was sent in this session
	followed []*agentapi.ZoneMessage // what the mesh had to tell
	goodbyes int
	external map[string][sha256.Size]byte // hashes of the secrets of external services that were sent, by name; nil: none yet
}

// Session serves one agent until it leaves.
func (s *Service) Session(rpc agentapi.Agent_SessionServer) error {
	grant, err := peerGrant(rpc.Context())
	if err != nil {
		return err
	}
	return s.sessions.Serve(rpc, func(running *solo.Stream) error { return s.serve(running, rpc, grant) })
}

func (s *Service) serve(running *solo.Stream, rpc agentapi.Agent_SessionServer, grant identity.Grant) error {
	hello, err := s.awaitHello(running, rpc)
	if err != nil {
		return err
	}
	ss, err := s.open(rpc.Context(), running, grant, hello)
	if err != nil {
		return err
	}
	err = ss.serve(rpc)
	s.close(ss, err)
	return err
}

func (s *Service) awaitHello(running *solo.Stream, rpc agentapi.Agent_SessionServer) (*agentapi.Hello, error) {
	timer := time.AfterFunc(s.cfg.HelloTimeout, func() {
		running.End(status.Errorf(codes.DeadlineExceeded, "no hello within %s", s.cfg.HelloTimeout))
	})
	defer timer.Stop()
	m, err := rpc.Recv()
	if err != nil {
		return nil, status.Error(codes.Aborted, "the session ended before its hello")
	}
	if h := m.GetHello(); h != nil {
		return h, nil
	}
	return nil, status.Error(codes.InvalidArgument, "a session must begin with hello")
}

var (
	errStopping = status.Error(codes.Unavailable, "this control plane is stopping; use another instance or try again")
	errReplaced = status.Error(codes.Aborted, "replaced by a newer session of the same agent")
)

// open makes a session the one in charge of its dataplane, or refuses it.
func (s *Service) open(ctx context.Context, running *solo.Stream, grant identity.Grant, hello *agentapi.Hello) (*session, error) {
	key := grant.Key()
	if err := s.standing(s.cfg.Catalog.Snapshot(), grant); err != nil {
		return nil, err
	}
	ss := &session{
		Stream: running, s: s, key: key, grant: grant, hello: hello,
		log: s.cfg.Log.With("mesh", key.Mesh, "dataplane", key.Name),
	}
	ss.ctx, ss.cancel = context.WithCancel(ctx)
	id := make([]byte, 8)
	if _, err := rand.Read(id); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	now := s.cfg.Now()
	held, _ := s.cfg.Authority.Held(key, hello.GetIdentityLeaf())
	r := s.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.live[key]; old != nil {
		if old.grant.Instance != grant.Instance || old.hello.GetSession() >= hello.GetSession() {
			ss.cancel()
			return nil, status.Error(codes.AlreadyExists, old.taken().Error())
		}
		old.End(errReplaced)
	}
	if e, ok := r.current.tree.Get(entry{key: key}); ok {
		if err := s.elsewhere(*e.facts, grant, hello); err != nil {
			ss.cancel()
			return nil, status.Error(codes.AlreadyExists, err.Error())
		}
	}
	r.live[key] = ss
	r.updateLocked(key, func(f *Facts) { ss.begin(f, held, hex.EncodeToString(id), now) })
	hello.IdentityLeaf, hello.Versions, hello.Inbounds, hello.Secrets, hello.Proxy = nil, nil, nil, nil, nil // not kept twice
	s.due.clear(key)
	ss.log.Info("agent connected", "place", clip(hello.GetPlace()), "session", hello.GetSession())
	return ss, nil
}

// taken says who is in charge of a dataplane already.
func (ss *session) taken() error {
	return takenBy(ss.key, ss.grant.Instance, ss.hello.GetPlace())
}

func takenBy(k resource.Key, instance, place string) error {
	return refuse(codes.AlreadyExists, "dataplane %s of mesh %s is served by another agent (instance %s at %s); stop that one, or give this one a name of its own",
		k.Name, k.Mesh, resource.Quote(instance), resource.Quote(place))
}

// standing says whether a grant is still good: the Dataplane registered, its labels covered, the token not revoked.
func (s *Service) standing(snapshot *catalog.Snapshot, g identity.Grant) error {
	dp, ok := snapshot.Get(g.Key())
	if !ok {
		return status.Errorf(codes.NotFound, "%s is not registered any more; enroll again", g.Key())
	}
	if revoked(snapshot, g) {
		return status.Error(codes.PermissionDenied, "the token that this agent enrolled with is revoked; give it another one")
	}
	if err := covers(snapshot, g, dp.Meta); err != nil {
		return status.Error(codes.PermissionDenied, err.Error())
	}
	return nil
}

func revoked(snapshot *catalog.Snapshot, g identity.Grant) bool {
	r, ok := snapshot.Get(token.DataplaneRevocations(g.Mesh))
	if !ok || g.Token == "" {
		return false
	}
	list, ok := r.Spec.(*mesh.Secret)
	if !ok {
		return true // a list that cannot be read must not let anyone in
	}
	for id := range strings.SplitSeq(string(list.Data), ",") {
		if strings.TrimSpace(id) == g.Token {
			return true
		}
	}
	return false
}

// holds notes a certificate that the workload has without having asked for it now.
func (f *Facts) holds(held identity.Issued) {
	if held.Serial != f.Issued.Serial {
		f.Issued = Certificate{
			SPIFFEID: held.SPIFFEID, Serial: held.Serial, Issuer: held.Issuer, NotAfter: held.NotAfter,
			Identity: held.Identity, Count: f.Issued.Count,
		}
	}
}

// begin describes the start of a session in the facts.
func (ss *session) begin(f *Facts, held identity.Issued, id string, now time.Time) {
	h := ss.hello
	if f.subscription != "" {
		last := f.newest(ss.s.cfg.Instance)
		if last.DisconnectTime.IsZero() {
			last.DisconnectTime = now
		}
		f.previous = &last
	}
	f.holds(held)
	v := h.GetVersions()
	f.subscription, f.ConnectedAt, f.LastSeen = id, now, now
	f.Connected, f.Draining, f.ControlPlane = true, false, ss.s.cfg.Instance
	f.Instance, f.Place, f.Session = ss.grant.Instance, clip(h.GetPlace()), h.GetSession()
	f.AgentVersion, f.AgentCommit = clip(v.GetAgent()), clip(v.GetAgentCommit())
	f.EnvoyVersion, f.EnvoyBuild = clip(v.GetEnvoy()), clip(v.GetEnvoyBuild())
	f.Features = nil
	for _, feature := range h.GetFeatures()[:min(len(h.GetFeatures()), maxFeatures)] {
		f.Features = append(f.Features, clip(feature))
	}
	f.OutboundBlock = clip(h.GetOutboundBlock())
	f.TrustSent = ""
	f.Discovery = mesh.DiscoveryStatus{}
	f.MetricsProblems = nil
	f.secrets(h.GetSecrets())
	f.Inbounds = inboundStates(h.GetInbounds())
	f.proxy(h.GetProxy())
}

func (f *Facts) secrets(s *agentapi.SecretStatus) {
	f.IdentityAcknowledged, f.TrustAcknowledged = clip(s.GetIdentitySerial()), clip(s.GetTrustVersion())
	f.Rejected = clip(s.GetRejected())
}

func (f *Facts) proxy(p *agentapi.ProxyStatus) {
	f.EnvoyRunning, f.EnvoyRestarts = p.GetRunning(), p.GetRestarts()
	f.Serving = f.Connected && f.EnvoyRunning && !f.Draining
}

func inboundStates(in *agentapi.InboundStates) map[string]mesh.InboundState {
	out := map[string]mesh.InboundState{}
	for _, i := range in.GetInbounds()[:min(len(in.GetInbounds()), maxInbounds)] {
		out[clip(i.GetSection())] = mesh.StateNotReady
		if i.GetReady() {
			out[clip(i.GetSection())] = mesh.StateReady
		}
	}
	return out
}

// metricsProblems are what an agent says of the metrics that it cannot tell.
func metricsProblems(in *agentapi.MetricsStatus) []string {
	var out []string
	for _, p := range in.GetProblems()[:min(len(in.GetProblems()), maxProblems)] {
		out = append(out, clip(p.GetBackend())+": "+clip(p.GetText()))
	}
	return out
}

func clip(s string) string { return strings.ToValidUTF8(s[:min(len(s), maxText)], "?") }

// serve welcomes the agent and then reacts: to its messages, to changes that concern it, and to its end.
func (ss *session) serve(rpc agentapi.Agent_SessionServer) error {
	defer ss.cancel()
	send := func(out []*agentapi.ZoneMessage) error {
		for _, m := range out {
			if err := rpc.Send(m); err != nil {
				return err
			}
		}
		return nil
	}
	if err := send(ss.welcome()); err != nil {
		return err
	}
	if ss.feed = ss.openNames(); ss.feed != nil {
		defer ss.feed.Close()
	}
	if ss.follower = ss.follow(); ss.follower != nil {
		defer ss.follower.Close()
	}
	return solo.React(ss.Stream, rpc.Recv,
		func(m *agentapi.AgentMessage) error { return send(ss.message(m)) },
		func() error {
			out, err := ss.fresh()
			if err != nil {
				return err
			}
			return send(out)
		})
}

// poke has the session find out what is new for it in the catalog.
func (ss *session) poke() {
	ss.poked.Store(true)
	ss.Wake()
}

// reword has the session find out what the mesh has to tell its agent.
func (ss *session) reword() {
	ss.reworded.Store(true)
	ss.Wake()
}

// tell lets the agent know how announcing its goodbye went.
func (ss *session) tell(unconfirmed string) {
	ss.told.Store(&unconfirmed)
	ss.Wake()
}

// inquire has the agent open a stream on which it can be asked.
func (ss *session) inquire() {
	ss.inquired.Store(true)
	ss.Wake()
}

// fresh is what the agent has not been told of all that the session was woken for.
func (ss *session) fresh() (out []*agentapi.ZoneMessage, err error) {
	if ss.poked.Swap(false) {
		if err := ss.s.standing(ss.s.cfg.Catalog.Snapshot(), ss.grant); err != nil {
			return nil, err
		}
		out = ss.news()
	}
	if ss.feed != nil {
		out = append(out, ss.refreshNames(ss.feed.Names())...)
	}
	if ss.follower != nil && ss.reworded.Swap(false) {
		out = append(out, ss.words(ss.follower.Messages())...)
	}
	if ss.inquired.Swap(false) {
		out = append(out, &agentapi.ZoneMessage{Message: &agentapi.ZoneMessage_Inquire{Inquire: &agentapi.Inquire{}}})
	}
	if unconfirmed := ss.told.Swap(nil); unconfirmed != nil {
		out = append(out, &agentapi.ZoneMessage{Message: &agentapi.ZoneMessage_GoodbyeDone{
			GoodbyeDone: &agentapi.GoodbyeDone{Unconfirmed: *unconfirmed},
		}})
	}
	return out, nil
}

// close ends a session. Its proxy stops serving at once when it said goodbye, otherwise after a moment.
func (s *Service) close(ss *session, err error) {
	ss.cancel()
	r := s.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.live[ss.key] != ss {
		return
	}
	delete(r.live, ss.key)
	if s.cfg.LoadEnded != nil {
		s.cfg.LoadEnded(ss.key)
	}
	if s.stopping.Load() {
		// This control plane ends, not the agent: its proxies are as good as before.
		return
	}
	now := s.cfg.Now()
	r.updateLocked(ss.key, func(f *Facts) {
		f.Connected, f.LastSeen = false, now
		if f.Draining {
			f.Serving = false
			s.due.set(deadline{ss.key, deregister, now.Add(s.cfg.DeregisterAfter)})
			return
		}
		s.due.set(deadline{ss.key, stopServing, now.Add(s.cfg.Grace)})
		gone := now.Add(s.cfg.ForgetAfter)
		if _, registered := s.cfg.Catalog.Snapshot().Get(ss.key); !registered {
			gone = now.Add(s.cfg.Grace)
		}
		s.due.set(deadline{ss.key, deregister, gone})
	})
	ss.log.Info("agent disconnected", "goodbye", ss.goodbyes > 0, "err", err)
}

// welcome is the first answer: how to run, which identity there is, and whom to trust.
func (ss *session) welcome() []*agentapi.ZoneMessage {
	ss.refreshOffer()
	ss.probes = ss.currentProbes()
	workload, address := ss.about()
	out := []*agentapi.ZoneMessage{{Message: &agentapi.ZoneMessage_Welcome{Welcome: &agentapi.Welcome{
		Workload: workload, Address: address,
		Zone: ss.s.cfg.Zone, Instance: ss.s.cfg.Instance, Mesh: ss.key.Mesh, Name: ss.key.Name,
		Probes: ss.probes, Offer: ss.offer, Addresses: ss.s.cfg.Addresses, ClockMs: ss.s.cfg.Now().UnixMilli(),
		Features: ss.s.features(),
	}}}}
	if w := clockWarning(ss.hello.GetClockMs(), ss.s.cfg.Now()); w != "" {
		out = append(out, problem(agentapi.Problem_WARNING, w))
	}
	if ss.problem != "" {
		out = append(out, problem(agentapi.Problem_ERROR, ss.problem))
	}
	out = append(out, ss.refreshTrust(ss.hello.GetTrustVersion())...)
	return append(out, ss.refreshExternal()...)
}

// about is what access logs and traces tell of the proxy.
func (ss *session) about() (workload, address string) {
	r, _ := ss.s.cfg.Catalog.Snapshot().Get(ss.key)
	dp, ok := r.Spec.(*mesh.Dataplane)
	if !ok {
		return "", ""
	}
	return r.Label(resource.LabelWorkload), dp.Networking.Address
}

// news is what changed since the agent was last told.
func (ss *session) news() []*agentapi.ZoneMessage {
	var out []*agentapi.ZoneMessage
	if p := ss.currentProbes(); !sameProbes(p, ss.probes) {
		ss.probes = p
		out = append(out, &agentapi.ZoneMessage{Message: &agentapi.ZoneMessage_Probes{Probes: &agentapi.Probes{Probes: p}}})
	}
	// Trust goes before an offer of a new authority's certificate: whoever presents one must be believed.
	out = append(out, ss.refreshTrust("")...)
	out = append(out, ss.refreshExternal()...)
	if ss.refreshOffer() {
		if ss.problem != "" {
			out = append(out, problem(agentapi.Problem_ERROR, ss.problem))
		}
		out = append(out, &agentapi.ZoneMessage{Message: &agentapi.ZoneMessage_Offer{Offer: ss.offer}})
	}
	return out
}

// features are what this zone does beyond the first version of the protocol.
func (s *Service) features() []string {
	out := []string{agentapi.FeatureInquiry}
	if s.cfg.Names != nil {
		out = append(out, agentapi.FeatureNames)
	}
	return out
}

// openNames follows the names for an agent that answers them; nil for another.
func (ss *session) openNames() NamesFeed {
	if ss.s.cfg.Names == nil || !slices.Contains(ss.hello.GetFeatures(), agentapi.FeatureNames) {
		return nil
	}
	feed, err := ss.s.cfg.Names(ss.ctx, ss.key, ss.Wake)
	if err != nil {
		ss.log.Warn("the agent gets no names; it keeps those it has", "err", err)
		return nil
	}
	return feed
}

// refreshNames sends what differs from what the agent has. Of an earlier session it may have the very same.
func (ss *session) refreshNames(now *agentapi.NameSet) []*agentapi.ZoneMessage {
	old := ss.names
	if now == nil || now == old {
		return nil
	}
	ss.names = now
	if old == nil && ss.hello.GetNamesVersion() == now.Version() {
		return nil
	}
	return now.Since(old)
}

// follow follows what the mesh has to tell the agent; nil when nothing can be told.
func (ss *session) follow() Follower {
	if ss.s.cfg.Follow == nil {
		return nil
	}
	f, err := ss.s.cfg.Follow(ss.ctx, ss.key, ss.reword)
	if err != nil {
		ss.log.Warn("the agent is not told what the mesh has to tell it; it keeps to what it knows", "err", err)
		return nil
	}
	return f
}

// words leaves out what the agent was told before, as it stands.
func (ss *session) words(messages []*agentapi.ZoneMessage) []*agentapi.ZoneMessage {
	old := ss.followed
	ss.followed = messages
	if len(old) != len(messages) {
		return messages
	}
	var out []*agentapi.ZoneMessage
	for i, m := range messages {
		if !proto.Equal(m, old[i]) {
			out = append(out, m)
		}
	}
	return out
}

func problem(severity agentapi.Problem_Severity, text string) *agentapi.ZoneMessage {
	return &agentapi.ZoneMessage{Message: &agentapi.ZoneMessage_Problem{Problem: &agentapi.Problem{Severity: severity, Text: text}}}
}

// refreshOffer finds out which identity the dataplane has now and says whether that, or what is wrong with it, is new.
// An identity that exists but cannot be given is still expected: the proxy must not run without it.
func (ss *session) refreshOffer() bool {
	o, err := ss.s.cfg.Authority.Offer(ss.key)
	next, trouble := &agentapi.IdentityOffer{SpiffeId: o.SPIFFEID, Issuer: o.Issuer, FromWorkloadApi: o.Elsewhere}, ""
	switch {
	case errors.Is(err, identity.ErrNoIdentity):
	case err != nil:
		next.Withheld = true
		trouble = "no identity can be given: " + err.Error()
	case o.Issuer == "" && !o.Elsewhere:
		trouble = "the certificate authority is not ready; see the conditions of the MeshIdentity"
	}
	same := ss.offer != nil && ss.offer.GetSpiffeId() == next.GetSpiffeId() && ss.offer.GetIssuer() == next.GetIssuer() &&
		ss.offer.GetWithheld() == next.GetWithheld() && ss.offer.GetFromWorkloadApi() == next.GetFromWorkloadApi() && ss.problem == trouble
	ss.offer, ss.problem = next, trouble
	return !same
}

// refreshTrust sends the bundles when they differ from what the agent has.
func (ss *session) refreshTrust(held string) []*agentapi.ZoneMessage {
	t := ss.s.cfg.Authority.Trust(ss.key.Mesh)
	if t == ss.trust {
		return nil
	}
	known := ss.trust != nil && ss.trust.Version == t.Version || held == t.Version
	ss.trust = t
	ss.s.registry.updateOf(ss, func(f *Facts) { f.TrustSent = t.Version })
	if known {
		return nil
	}
	m := &agentapi.Trust{Version: t.Version}
	for _, b := range t.Bundles {
		m.Bundles = append(m.Bundles, &agentapi.Bundle{TrustDomain: b.Domain, Pem: b.PEM})
	}
	return []*agentapi.ZoneMessage{{Message: &agentapi.ZoneMessage_Trust{Trust: m}}}
}

// message handles one message of the agent.
func (ss *session) message(in *agentapi.AgentMessage) []*agentapi.ZoneMessage {
	update := func(edit func(*Facts)) { ss.s.registry.updateOf(ss, edit) }
	switch m := in.GetMessage().(type) {
	case *agentapi.AgentMessage_IdentityRequest:
		return []*agentapi.ZoneMessage{{Message: &agentapi.ZoneMessage_Identity{Identity: ss.sign(m.IdentityRequest)}}}
	case *agentapi.AgentMessage_ControlRequest:
		return []*agentapi.ZoneMessage{{Message: &agentapi.ZoneMessage_Control{Control: ss.renewControl(m.ControlRequest)}}}
	case *agentapi.AgentMessage_Inbounds:
		states := inboundStates(m.Inbounds)
		update(func(f *Facts) { f.Inbounds = states })
	case *agentapi.AgentMessage_Secrets:
		update(func(f *Facts) { f.secrets(m.Secrets) })
	case *agentapi.AgentMessage_Proxy:
		update(func(f *Facts) { f.proxy(m.Proxy) })
	case *agentapi.AgentMessage_Metrics:
		problems := metricsProblems(m.Metrics)
		update(func(f *Facts) { f.MetricsProblems = problems })
	case *agentapi.AgentMessage_Load:
		if ss.s.cfg.Load != nil {
			ss.s.cfg.Load(ss.key, m.Load)
		}
	case *agentapi.AgentMessage_Held:
		if held, ok := ss.s.cfg.Authority.Held(ss.key, m.Held.GetLeaf()); ok {
			update(func(f *Facts) { f.holds(held) })
		}
	case *agentapi.AgentMessage_Goodbye:
		ss.goodbye(m.Goodbye)
	case *agentapi.AgentMessage_Hello:
		return []*agentapi.ZoneMessage{problem(agentapi.Problem_WARNING, "hello is the first message only and was ignored")}
	default:
		ss.s.metrics.unknown.Inc()
	}
	return nil
}

// sign answers a request for a workload certificate.
func (ss *session) sign(in *agentapi.IdentityRequest) *agentapi.Identity {
	now := ss.s.cfg.Now()
	if wait, ok := ss.s.registry.allowRequest(ss.key, now, ss.s.cfg.RequestInterval); !ok {
		return refusedIdentity("one signing request per "+ss.s.cfg.RequestInterval.String()+" is answered", wait)
	}
	if err := ss.s.standing(ss.s.cfg.Catalog.Snapshot(), ss.grant); err != nil {
		return refusedIdentity(status.Convert(err).Message(), 0)
	}
	issued, err := ss.s.cfg.Authority.Sign(ss.ctx, ss.key, in.GetRequest())
	if err != nil {
		ss.s.metrics.signed.WithLabelValues("refused").Inc()
		ss.log.Warn("signing request refused", "err", err)
		retry := time.Duration(0)
		if errors.Is(err, identity.ErrNotReady) {
			retry = ss.s.cfg.RequestInterval
		}
		return refusedIdentity(err.Error(), retry)
	}
	ss.s.metrics.signed.WithLabelValues("signed").Inc()
	ss.log.Info("workload certificate issued", "spiffeID", issued.SPIFFEID, "serial", issued.Serial, "notAfter", issued.NotAfter)
	ss.s.registry.updateOf(ss, func(f *Facts) {
		f.Issued = Certificate{
			SPIFFEID: issued.SPIFFEID, Serial: issued.Serial, Issuer: issued.Issuer, NotAfter: issued.NotAfter,
			Identity: issued.Identity, IssuedAt: now, Count: f.Issued.Count + 1,
		}
	})
	return &agentapi.Identity{
		Chain: issued.Chain, SpiffeId: issued.SPIFFEID, Serial: issued.Serial, Issuer: issued.Issuer,
		NotAfterMs: issued.NotAfter.UnixMilli(), LifetimeMs: issued.Lifetime.Milliseconds(),
	}
}

func refusedIdentity(why string, retry time.Duration) *agentapi.Identity {
	return &agentapi.Identity{Refused: why, RetryAfterMs: (retry + time.Millisecond - 1).Milliseconds()}
}

// renewControl extends what the agent connects with, under the grant it has.
func (ss *session) renewControl(in *agentapi.ControlRequest) *agentapi.ControlCertificate {
	if err := ss.s.standing(ss.s.cfg.Catalog.Snapshot(), ss.grant); err != nil {
		return &agentapi.ControlCertificate{Refused: status.Convert(err).Message()}
	}
	chain, lifetime, err := ss.s.cfg.Control.Issue(in.GetRequest(), ss.grant)
	if err != nil {
		return &agentapi.ControlCertificate{Refused: err.Error()}
	}
	return &agentapi.ControlCertificate{Chain: chain, LifetimeMs: lifetime.Milliseconds()}
}

// goodbye takes the proxy out of service and lets the agent know once those who send to it were told.
func (ss *session) goodbye(in *agentapi.Goodbye) {
	if ss.goodbyes++; ss.goodbyes > 1 {
		return
	}
	ss.s.registry.updateOf(ss, func(f *Facts) { f.Draining, f.Serving = true, false })
	ss.log.Info("agent drains", "reason", clip(in.GetReason()))
	if ss.s.cfg.Announced == nil && ss.s.cfg.Peers == nil {
		ss.tell("")
		return
	}
	f, _ := ss.s.registry.Snapshot().Get(ss.key)
	ss.s.work.Go(func() {
		if err := ss.s.announce(ss.ctx, ss.key, f.subscription); err != nil {
			ss.tell(err.Error())
			return
		}
		ss.tell("")
	})
}

// currentProbes are the service probes of the registered Dataplane.
func (ss *session) currentProbes() []*agentapi.Probe {
	r, ok := ss.s.cfg.Catalog.Snapshot().Get(ss.key)
	if !ok {
		return nil
	}
	spec, ok := r.Spec.(*mesh.Dataplane)
	if !ok {
		return nil
	}
	var out []*agentapi.Probe
	for _, in := range spec.Networking.Inbound {
		if p := in.ServiceProbe; p != nil && in.StateOrReady() != mesh.StateIgnored {
			out = append(out, probeOf(spec, in, p))
		}
	}
	return out
}

func probeOf(dp *mesh.Dataplane, in mesh.Inbound, p *mesh.ServiceProbe) *agentapi.Probe {
	out := &agentapi.Probe{
		Section: in.SectionName(), Address: dp.Networking.WorkloadAddress(in), Port: in.ServicePortOrPort(),
		IntervalMs: 10_000, TimeoutMs: 1000, UnhealthyThreshold: 3, HealthyThreshold: 1,
	}
	if p.Interval != nil {
		out.IntervalMs = p.Interval.Milliseconds()
	}
	if p.Timeout != nil {
		out.TimeoutMs = p.Timeout.Milliseconds()
	}
	if p.UnhealthyThreshold != nil {
		out.UnhealthyThreshold = *p.UnhealthyThreshold
	}
	if p.HealthyThreshold != nil {
		out.HealthyThreshold = *p.HealthyThreshold
	}
	if p.HTTP != nil {
		out.HttpPath = "/"
		if p.HTTP.Path != "" {
			out.HttpPath = p.HTTP.Path
		}
	}
	return out
}

func sameProbes(a, b []*agentapi.Probe) bool {
	return slices.EqualFunc(a, b, func(x, y *agentapi.Probe) bool { return proto.Equal(x, y) })
}
