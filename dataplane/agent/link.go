package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/api/agentapi"
	"github.com/causeway-mesh/causeway/dataplane/probe"
	"github.com/causeway-mesh/causeway/dataplane/sds"
)

const (
	enrollTimeout  = 10 * time.Second
	welcomeTimeout = 10 * time.Second
	// Between two attempts to reach the zone: a first one soon, since it may just have restarted, later ones ever rarer.
	retryBase = 50 * time.Millisecond
	retryMax  = 2 * time.Second
	// A refusal that only people can heal is not repeated as often.
	refusedRetry = 15 * time.Second
)

// link is the one connection to the zone. Its state belongs to the goroutine of run, but for what the lock guards.
type link struct {
	a       *agent
	control *held
	session uint64
	next    int // which address is tried next

	offer        *agentapi.IdentityOffer
	identity     *held
	unverified   *held // a certificate that no bundle verifies yet
	requested    *ecdsa.PrivateKey
	trust        *agentapi.Trust
	askAt        time.Time // when to ask for an identity; zero when there is no need
	controlAsked *ecdsa.PrivateKey
	ignored      uint64 // messages of newer zones
	inquired     func() // has the agent take questions; of the present session

	ready     chan struct{} // closed when Envoy may start
	leaving   chan struct{} // closed when the agent says goodbye
	confirmed chan error    // holds the zone's answer to the goodbye
	leaveOnce sync.Once
	readyOnce sync.Once

	mu        sync.Mutex
	addresses []string
	zoneName  string
	welcomed  *agentapi.Welcome
	waiting   string // what Envoy's start waits for, for people
	conn      *grpc.ClientConn
	connected chan struct{} // closed while there is a session, replaced when it ends
	serving   serving
}

func newLink(a *agent) *link {
	return &link{
		a: a, addresses: slices.Clone(a.cfg.Zone.Addresses), waiting: "the zone was not reached yet",
		ready: make(chan struct{}), leaving: make(chan struct{}), confirmed: make(chan error, 1), connected: make(chan struct{}),
		inquired: func() {},
	}
}

// run keeps a session with the zone until ctx ends. It gives up only at the start, when trying again cannot help.
func (l *link) run(ctx context.Context) error {
	wait := retryBase
	for {
		began := time.Now()
		err := l.attempt(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > 2*retryMax {
			wait = retryBase // it had worked
		}
		var hopeless *permanent
		pause := wait/2 + rand.N(wait/2+1)
		switch {
		case errors.As(err, &hopeless) && !l.started():
			return err
		case errors.As(err, &hopeless):
			l.a.log.Error("the zone refuses this agent; the proxy goes on with what it has", "err", err)
			pause = refusedRetry/2 + rand.N(refusedRetry)
		default:
			l.a.log.Warn("no session with the zone; trying again", "err", err, "in", pause.Round(time.Millisecond))
		}
		l.wait("the zone: " + err.Error())
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
		wait = min(2*wait, retryMax)
	}
}

func (l *link) started() bool {
	select {
	case <-l.ready:
		return true
	default:
		return false
	}
}

// attempt enrolls when needed and holds one session. It always returns an error.
func (l *link) attempt(ctx context.Context) error {
	address := l.address()
	if !l.control.valid() {
		if err := l.enroll(ctx, address); err != nil {
			return fmt.Errorf("enroll at %s: %w", address, err)
		}
	}
	conn, err := l.a.dial(address, l.control)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := agentapi.NewAgentClient(conn).Session(ctx)
	if err == nil {
		err = l.serve(ctx, cancel, stream, conn)
	}
	switch status.Code(err) {
	case codes.NotFound, codes.Unauthenticated, codes.PermissionDenied:
		l.control = nil // whether the token still helps is for the next enrollment to say
	}
	return fmt.Errorf("session with %s: %w", address, plain(err))
}

// classify marks the refusals of an enrollment that waiting does not heal.
func classify(err error) error {
	switch status.Code(err) {
	case codes.Unauthenticated, codes.PermissionDenied, codes.InvalidArgument:
		return &permanent{plain(err)}
	}
	return plain(err)
}

// address rotates through the known ones.
func (l *link) address() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.addresses[l.next%len(l.addresses)]
	l.next++
	return at
}

func (l *link) learn(more []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range more[:min(len(more), 100)] {
		if !slices.Contains(l.addresses, m) {
			l.addresses = append(l.addresses, m)
		}
	}
	// The next attempt begins with the instance that worked.
	l.next--
}

func (l *link) zone() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.zoneName
}

// about is what the zone last said about this proxy.
func (l *link) about() *agentapi.Welcome {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.welcomed
}

func (l *link) wait(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = what
}

// waitsFor says for what Envoy waits, for people.
func (l *link) waitsFor() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waiting
}

// upstream gives Envoy's streams the connection of the current session, waiting for one.
func (l *link) upstream(ctx context.Context) (grpc.ClientConnInterface, error) {
	for {
		l.mu.Lock()
		conn, connected := l.conn, l.connected
		l.mu.Unlock()
		if conn != nil {
			return conn, nil
		}
		select {
		case <-connected:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (l *link) open(conn *grpc.ClientConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conn = conn
	close(l.connected)
}

func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil {
		l.conn, l.connected = nil, make(chan struct{})
	}
}

// received is a message of the zone, or the end of the stream.
type received struct {
	msg *agentapi.ZoneMessage
	err error
}

// serve says hello, takes the welcome, and then reacts until the session ends.
func (l *link) serve(ctx context.Context, cancel func(), stream agentapi.Agent_SessionClient, conn *grpc.ClientConn) error {
	in := make(chan received)
	var work sync.WaitGroup
	work.Go(func() {
		for {
			m, err := stream.Recv()
			select {
			case in <- received{m, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	})
	defer work.Wait()
	defer cancel()
	l.session++
	l.requested, l.controlAsked = nil, nil
	if err := stream.Send(&agentapi.AgentMessage{Message: &agentapi.AgentMessage_Hello{Hello: l.hello()}}); err != nil {
		return lastError(in, err)
	}
	if err := l.welcome(ctx, in, conn); err != nil {
		return err
	}
	defer l.close()
	stop := func() {}
	l.inquired = func() {
		stop()
		asked, cancel := context.WithCancel(ctx)
		stop = cancel
		work.Go(func() {
			defer cancel()
			l.answerQuestions(asked, conn)
		})
	}
	return l.exchange(ctx, stream, in)
}

// lastError prefers what the zone said over what sending noticed.
func lastError(in <-chan received, err error) error {
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case r := <-in:
		if r.err != nil {
			return r.err
		}
	case <-timer.C:
	}
	return err
}

func (l *link) hello() *agentapi.Hello {
	a := l.a
	h := &agentapi.Hello{
		Session: l.session, OutboundBlock: a.outboundBlock(), Place: a.place, ClockMs: time.Now().UnixMilli(),
		Versions: &agentapi.Versions{Agent: a.cfg.Version, AgentCommit: a.cfg.Commit, Envoy: a.version, EnvoyBuild: a.build},
		Features: []string{agentapi.FeatureServiceProbes, agentapi.FeatureMetrics, agentapi.FeatureInquiry},
		Inbounds: l.inbounds(), Secrets: l.secrets(), Proxy: l.proxy(), TrustVersion: l.trust.GetVersion(),
	}
	if a.block != nil {
		h.Features = append(h.Features, agentapi.FeatureBindOutbounds)
	}
	if a.names != nil {
		h.Features, h.NamesVersion = append(h.Features, agentapi.FeatureNames), a.names.Version()
	}
	if held, _ := l.a.spire.Held(); l.offer.GetFromWorkloadApi() && held.Valid() {
		h.IdentityLeaf = held.Leaf
	} else if l.identity.valid() {
		h.IdentityLeaf = l.identity.chain[0]
	}
	return h
}

func (l *link) inbounds() *agentapi.InboundStates {
	out := &agentapi.InboundStates{}
	for _, r := range l.a.prober.Results() {
		out.Inbounds = append(out.Inbounds, &agentapi.InboundState{Section: r.Section, Ready: r.Ready, Reason: r.Reason})
	}
	return out
}

func (l *link) secrets() *agentapi.SecretStatus {
	s := l.a.secrets.Status()
	return &agentapi.SecretStatus{IdentitySerial: s.IdentitySerial, TrustVersion: s.TrustVersion, Rejected: s.Rejected}
}

func (l *link) proxy() *agentapi.ProxyStatus {
	s := l.a.supervisor.Status()
	return &agentapi.ProxyStatus{Running: s.running && !l.a.ending.Load(), Restarts: s.restarts, LastExit: s.lastExit}
}

// welcome takes the first answer and opens the way for Envoy's streams.
func (l *link) welcome(ctx context.Context, in <-chan received, conn *grpc.ClientConn) error {
	timer := time.NewTimer(welcomeTimeout)
	defer timer.Stop()
	select {
	case r := <-in:
		if r.err != nil {
			return r.err
		}
		w := r.msg.GetWelcome()
		if w == nil {
			return errors.New("the zone did not begin with a welcome")
		}
		l.mu.Lock()
		l.zoneName, l.welcomed = w.GetZone(), w
		l.mu.Unlock()
		l.learn(w.GetAddresses())
		l.a.prober.Set(targets(w.GetProbes()))
		if l.a.names != nil && !slices.Contains(w.GetFeatures(), agentapi.FeatureNames) {
			l.a.log.Warn("this zone sends no names of the mesh; upgrade it", "zone", w.GetZone())
			l.a.names.Without()
		}
		l.offered(w.GetOffer())
		l.a.metrics.Renew()
		l.a.load.Renew()
		l.open(conn)
		l.a.log.Info("session with the zone", "zone", w.GetZone(), "instance", w.GetInstance(), "session", l.session)
		return nil
	case <-timer.C:
		return fmt.Errorf("the zone did not answer within %s", welcomeTimeout)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func targets(in []*agentapi.Probe) []probe.Target {
	var out []probe.Target
	ms := func(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
	for _, p := range in {
		out = append(out, probe.Target{
			Section: p.GetSection(), Address: p.GetAddress(), Port: p.GetPort(), HTTPPath: p.GetHttpPath(),
			Interval: ms(p.GetIntervalMs()), Timeout: ms(p.GetTimeoutMs()),
			UnhealthyThreshold: p.GetUnhealthyThreshold(), HealthyThreshold: p.GetHealthyThreshold(),
		})
	}
	return out
}

// exchange is the session after the welcome: one loop for what comes from the zone, from the parts of this agent,
// and from the clock.
func (l *link) exchange(ctx context.Context, stream agentapi.Agent_SessionClient, in <-chan received) error {
	leaving := l.leaving
	for {
		if err := l.askIfDue(stream); err != nil {
			return lastError(in, err)
		}
		timer := time.NewTimer(l.untilDue())
		var out *agentapi.AgentMessage
		select {
		case r := <-in:
			timer.Stop()
			if r.err != nil {
				return r.err
			}
			if err := l.message(r.msg); err != nil {
				return err
			}
			continue
		case <-l.a.prober.Changed():
			out = &agentapi.AgentMessage{Message: &agentapi.AgentMessage_Inbounds{Inbounds: l.inbounds()}}
		case <-l.a.secrets.Changed():
			out = &agentapi.AgentMessage{Message: &agentapi.AgentMessage_Secrets{Secrets: l.secrets()}}
		case <-l.a.spire.Changed():
			l.startIfReady()
			held, _ := l.a.spire.Held()
			if !held.Valid() {
				timer.Stop()
				continue
			}
			out = &agentapi.AgentMessage{Message: &agentapi.AgentMessage_Held{Held: &agentapi.HeldIdentity{Leaf: held.Leaf}}}
		case <-l.a.supervisor.changed:
			out = &agentapi.AgentMessage{Message: &agentapi.AgentMessage_Proxy{Proxy: l.proxy()}}
		case <-l.a.metrics.Changed():
			out = &agentapi.AgentMessage{Message: &agentapi.AgentMessage_Metrics{Metrics: l.a.metrics.Status()}}
		case <-l.a.load.Changed():
			if report := l.a.load.Take(); report != nil {
				out = &agentapi.AgentMessage{Message: &agentapi.AgentMessage_Load{Load: report}}
			}
		case <-leaving:
			leaving = nil
			out = &agentapi.AgentMessage{Message: &agentapi.AgentMessage_Goodbye{Goodbye: &agentapi.Goodbye{
				Reason: "the agent stops", DrainMs: l.a.cfg.DrainTime.Milliseconds(),
			}}}
		case <-timer.C:
			continue
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		timer.Stop()
		if out == nil {
			continue
		}
		if err := stream.Send(out); err != nil {
			return lastError(in, err)
		}
	}
}

// message takes one message of the zone; those of a newer zone are ignored.
func (l *link) message(in *agentapi.ZoneMessage) error {
	switch m := in.GetMessage().(type) {
	case *agentapi.ZoneMessage_Offer:
		l.offered(m.Offer)
	case *agentapi.ZoneMessage_Identity:
		l.answered(m.Identity)
	case *agentapi.ZoneMessage_Trust:
		l.trusted(m.Trust)
	case *agentapi.ZoneMessage_Control:
		l.renewed(m.Control)
	case *agentapi.ZoneMessage_Probes:
		l.a.prober.Set(targets(m.Probes.GetProbes()))
	case *agentapi.ZoneMessage_Names:
		if l.a.names != nil {
			return l.a.names.Apply(m.Names)
		}
	case *agentapi.ZoneMessage_External:
		l.external(m.External)
	case *agentapi.ZoneMessage_Inquire:
		l.inquired()
	case *agentapi.ZoneMessage_Metrics:
		l.a.metrics.Set(m.Metrics)
	case *agentapi.ZoneMessage_Problem:
		return l.problem(m.Problem)
	case *agentapi.ZoneMessage_GoodbyeDone:
		var err error
		if u := m.GoodbyeDone.GetUnconfirmed(); u != "" {
			err = errors.New(u)
		}
		select {
		case l.confirmed <- err:
		default:
		}
	default:
		l.ignored++
		l.a.log.Debug("a message of a newer zone was ignored", "ignored", l.ignored)
	}
	return nil
}

// external takes what an egress speaks TLS to external services with.
func (l *link) external(in *agentapi.ExternalSecrets) {
	var list []sds.External
	for _, x := range in.GetSecrets() {
		list = append(list, sds.External{Name: x.GetName(), Authorities: x.GetAuthorities(), Certificate: x.GetCertificate(), Key: x.GetKey()})
	}
	if err := l.a.secrets.SetExternals(list, in.GetComplete()); err != nil {
		l.a.log.Error("the zone sent secrets of external services that cannot be used", "err", err)
	}
}

func (l *link) problem(p *agentapi.Problem) error {
	switch p.GetSeverity() {
	case agentapi.Problem_FATAL:
		l.control = nil
		return errors.New(p.GetText())
	case agentapi.Problem_ERROR:
		l.a.log.Error("the zone reports a problem", "problem", p.GetText())
		l.wait(p.GetText())
	default:
		l.a.log.Warn("the zone reports a problem", "problem", p.GetText())
	}
	return nil
}

// offered decides whether another certificate is needed.
func (l *link) offered(o *agentapi.IdentityOffer) {
	if o == nil {
		o = &agentapi.IdentityOffer{}
	}
	elsewhere := l.offer.GetFromWorkloadApi()
	l.offer, l.askAt = o, time.Time{}
	if o.GetFromWorkloadApi() {
		l.identity, l.unverified = nil, nil
		l.a.spire.Want(o.GetSpiffeId())
	} else if elsewhere {
		l.a.spire.Want("")
		l.trusted(l.trust)
	}
	switch {
	case o.GetSpiffeId() == "", o.GetIssuer() == "":
	case !l.identity.valid() || l.identity.spiffeID != o.GetSpiffeId():
		l.askAt = time.Now()
	case l.identity.issuer != o.GetIssuer():
		// What is held is good until its end; a whole mesh need not renew in the same second.
		l.askAt = time.Now().Add(rand.N(reissueSpread))
	default:
		l.askAt = l.identity.renewAt
	}
	l.startIfReady()
}

// reissueSpread is the time over which proxies take certificates of a new authority.
const reissueSpread = 5 * time.Second

// untilDue is how long nothing has to be asked.
func (l *link) untilDue() time.Duration {
	until := time.Until(l.control.renewAt)
	if !l.askAt.IsZero() && l.requested == nil {
		until = min(until, time.Until(l.askAt))
	}
	if l.controlAsked != nil {
		until = time.Hour
	}
	return max(until, 0)
}

// askIfDue asks for certificates whose time has come.
func (l *link) askIfDue(stream agentapi.Agent_SessionClient) error {
	now := time.Now()
	if !l.askAt.IsZero() && l.requested == nil && !now.Before(l.askAt) {
		key, der, err := request()
		if err != nil {
			return err
		}
		l.requested = key
		m := &agentapi.AgentMessage{Message: &agentapi.AgentMessage_IdentityRequest{IdentityRequest: &agentapi.IdentityRequest{Request: der}}}
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	if l.controlAsked == nil && !now.Before(l.control.renewAt) {
		key, der, err := request()
		if err != nil {
			return err
		}
		l.controlAsked = key
		m := &agentapi.AgentMessage{Message: &agentapi.AgentMessage_ControlRequest{ControlRequest: &agentapi.ControlRequest{Request: der}}}
		return stream.Send(m)
	}
	return nil
}

// answered takes a workload certificate, or the reason why there is none.
func (l *link) answered(in *agentapi.Identity) {
	key := l.requested
	l.requested, l.askAt = nil, time.Time{}
	if why := in.GetRefused(); why != "" {
		l.a.log.Error("the zone refused a workload certificate", "reason", why)
		l.wait("a workload certificate: " + why)
		if ms := in.GetRetryAfterMs(); ms > 0 {
			l.askAt = time.Now().Add(time.Duration(ms) * time.Millisecond)
		} else if l.identity.valid() {
			l.askAt = l.later()
		}
		return
	}
	h, err := workload(key, in)
	if err != nil {
		l.a.log.Error("the zone sent a workload certificate that cannot be used", "err", err)
		l.askAt = l.later()
		return
	}
	l.unverified = h
	l.askAt = h.renewAt
	l.adopt()
}

// later is when to ask again after a refusal: soon enough for the certificate that is held, if any.
func (l *link) later() time.Time {
	wait := refusedRetry
	if l.identity.valid() {
		wait = min(wait, max(time.Until(l.identity.until)/4, 100*time.Millisecond))
	}
	return time.Now().Add(wait)
}

// trusted takes the bundles of the mesh.
func (l *link) trusted(t *agentapi.Trust) {
	l.trust = t
	var bundles []sds.Bundle
	for _, b := range t.GetBundles() {
		bundles = append(bundles, sds.Bundle{Domain: b.GetTrustDomain(), PEM: b.GetPem()})
	}
	l.a.spire.Trust(t.GetVersion(), bundles)
	if l.offer.GetFromWorkloadApi() {
		l.startIfReady()
		return
	}
	if len(bundles) == 0 {
		// Envoy would take no bundle for trust in everybody; it keeps what it has.
		l.startIfReady()
		return
	}
	if err := l.a.secrets.SetTrust(t.GetVersion(), bundles); err != nil {
		l.a.log.Error("the zone sent trust bundles that cannot be used", "err", err)
	}
	l.mu.Lock()
	l.serving.trust = pools(t)
	l.mu.Unlock()
	l.adopt()
}

// adopt serves the newest certificate once the bundles of its own trust domain verify it: peers would refuse any other.
func (l *link) adopt() {
	if l.unverified == nil {
		l.startIfReady()
		return
	}
	if err := verify(l.unverified, l.trust); err != nil {
		l.a.log.Error("a workload certificate is not served: its own mesh would refuse it", "spiffeID", l.unverified.spiffeID, "err", err)
		l.wait("a workload certificate that the trust bundles verify: " + err.Error())
		return
	}
	h := l.unverified
	if err := l.a.secrets.SetIdentity(h.key, h.chain); err != nil {
		l.a.log.Error("a workload certificate cannot be served", "err", err)
		return
	}
	l.identity, l.unverified = h, nil
	l.mu.Lock()
	l.serving.identity = h.certificate()
	l.mu.Unlock()
	l.a.log.Info("workload certificate", "spiffeID", h.spiffeID, "serial", h.serial, "for", time.Until(h.until).Round(time.Second))
	l.startIfReady()
}

// verify checks a chain against the bundle of its trust domain and no other.
func verify(h *held, t *agentapi.Trust) error {
	id, err := url.Parse(h.spiffeID)
	if err != nil {
		return err
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	found := false
	for _, b := range t.GetBundles() {
		if b.GetTrustDomain() == id.Host {
			found = roots.AppendCertsFromPEM([]byte(b.GetPem()))
		}
	}
	if !found {
		return fmt.Errorf("there is no bundle of trust domain %s; create a MeshTrust for it", id.Host)
	}
	var leaf *x509.Certificate
	for i, der := range h.chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		if i == 0 {
			leaf = c
		} else {
			between.AddCert(c)
		}
	}
	// The host's clock may be wrong; when the certificate ends is known from its lifetime.
	_, err = leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: leaf.NotAfter.Add(-time.Second),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	return err
}

// startIfReady lets Envoy start when everything is in hand that its configuration will refer to.
func (l *link) startIfReady() {
	o := l.offer
	switch {
	case o.GetFromWorkloadApi():
		held, problem := l.a.spire.Held()
		if !held.Valid() {
			l.wait(strings.TrimSuffix("a workload certificate from SPIRE: "+problem, ": "))
			return
		}
		l.wait("envoy and its first configuration")
		l.readyOnce.Do(func() { close(l.ready) })
	case o == nil || o.GetWithheld():
		l.wait("an identity that the zone cannot give; see the problem it reports")
	case o.GetSpiffeId() == "" || l.identity.valid() && l.identity.spiffeID == o.GetSpiffeId():
		l.wait("envoy and its first configuration")
		l.readyOnce.Do(func() { close(l.ready) })
	default:
		l.wait("a workload certificate and trust bundles")
	}
}

// renewed takes a control certificate, used from the next connection on.
func (l *link) renewed(in *agentapi.ControlCertificate) {
	key := l.controlAsked
	l.controlAsked = nil
	if in.GetRefused() != "" {
		l.a.log.Error("the zone refused to renew the control certificate; the agent enrolls again when it ends", "reason", in.GetRefused())
		l.control.renewAt = time.Now().Add(refusedRetry)
		return
	}
	h, err := control(key, in.GetChain(), in.GetLifetimeMs())
	if err != nil {
		l.a.log.Error("the zone sent a control certificate that cannot be used", "err", err)
		l.control.renewAt = time.Now().Add(refusedRetry)
		return
	}
	l.control = h
}

// goodbye tells the zone that this proxy leaves and waits until peers know, or ctx ends. Without a session nobody can be told.
func (l *link) goodbye(ctx context.Context) error {
	l.leaveOnce.Do(func() { close(l.leaving) })
	l.mu.Lock()
	connected := l.conn != nil
	l.mu.Unlock()
	if !connected {
		return errors.New("there is no session")
	}
	select {
	case err := <-l.confirmed:
		return err
	case <-ctx.Done():
		return errors.New("it did not answer in time")
	}
}
