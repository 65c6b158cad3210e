package load

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/api/agentapi"
)

// AgentConfig says whom an agent plays.
type AgentConfig struct {
	Address string         // of the zone
	Roots   *x509.CertPool // that verify the zone
	Token   string         // a dataplane token
	Mesh    string
	Name    string
	// Dataplane is its YAML; without it the Dataplane must exist.
	Dataplane []byte
	// Block is the loopback block of outbounds, such as 127.5.0.0/16; empty with transparent proxying.
	Block string
	// Valve is what the sessions are dialed through; nil is none.
	Valve *Valve
}

// An Agent is the fake agent of one proxy: it enrolls, holds a session and a workload certificate, and offers Connect to its proxy.
type Agent struct {
	cfg      AgentConfig
	instance string

	mu       sync.Mutex
	control  *tls.Certificate
	session  uint64
	identity *workload
	trust    string
	trusted  time.Time // when trust came
	enrolled int
	asked    int // for workload certificates
	problems []string
}

// A workload is a certificate that the agent holds.
type workload struct {
	leaf             []byte
	serial, spiffeID string
}

// NewAgent makes an agent that does nothing before its proxy connects.
func NewAgent(cfg AgentConfig) *Agent {
	return &Agent{cfg: cfg, instance: rand.Text()}
}

// Certificate tells the serial and SPIFFE ID of the workload certificate; empty when there is none.
func (a *Agent) Certificate() (serial, spiffeID string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.identity == nil {
		return "", ""
	}
	return a.identity.serial, a.identity.spiffeID
}

// Asked counts enrollments, sessions and signing requests.
func (a *Agent) Asked() (enrollments, sessions, certificates int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.enrolled, int(a.session), a.asked
}

// Trusted is when the agent last got bundles, and acknowledged them.
func (a *Agent) Trusted() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.trusted
}

// Problems are what the zone complained about.
func (a *Agent) Problems() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]string(nil), a.problems...)
}

// Connect gives a Fleet's proxy its connection to the zone: enrolled, with a session, and with the workload certificate
// that the zone offers in hand. The connection ends with end, or with its session.
func (a *Agent) Connect(ctx context.Context) (conn grpc.ClientConnInterface, end func(), err error) {
	if err := a.enroll(ctx); err != nil {
		return nil, nil, fmt.Errorf("enroll: %w", err)
	}
	a.mu.Lock()
	control := a.control
	a.mu.Unlock()
	cc, err := a.dial(a.cfg.Valve, func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return control, nil })
	if err != nil {
		return nil, nil, err
	}
	live, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s := &session{agent: a, ready: make(chan struct{})}
	ended := make(chan error, 1)
	var running sync.WaitGroup
	running.Go(func() {
		ended <- s.run(live, cc)
		_ = cc.Close() // without a session the rest of the connection is of no use; end closes it as well
	})
	end = func() {
		cancel()
		_ = cc.Close() // it may be closed already
		running.Wait()
	}
	select {
	case <-s.ready:
		return cc, end, nil
	case err = <-ended:
		if code := status.Code(err); code == codes.NotFound || code == codes.Unauthenticated || code == codes.PermissionDenied {
			a.forget()
		}
	case <-ctx.Done():
		err = ctx.Err()
	}
	end()
	return nil, nil, fmt.Errorf("session of %s: %w", a.cfg.Name, err)
}

// forget drops the control certificate, so that the next connection enrolls.
func (a *Agent) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.control = nil
}

func (a *Agent) dial(v *Valve, own func(*tls.CertificateRequestInfo) (*tls.Certificate, error)) (*grpc.ClientConn, error) {
	options := append(DialOptions(),
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
			MinVersion: tls.VersionTLS13, RootCAs: a.cfg.Roots, GetClientCertificate: own,
		})),
		grpc.WithDisableServiceConfig(), grpc.WithNoProxy(),
	)
	if v != nil {
		options = append(options, grpc.WithContextDialer(v.Dial))
	}
	return grpc.NewClient("passthrough:///"+a.cfg.Address, options...)
}

// enroll trades the token for a control certificate, once.
func (a *Agent) enroll(ctx context.Context) error {
	a.mu.Lock()
	have := a.control != nil
	a.mu.Unlock()
	if have {
		return nil
	}
	conn, err := a.dial(nil, nil)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // the answer is in hand
	key, der, err := request()
	if err != nil {
		return err
	}
	out, err := agentapi.NewAgentClient(conn).Enroll(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+a.cfg.Token),
		&agentapi.EnrollRequest{
			ControlRequest: der, Dataplane: a.cfg.Dataplane, Mesh: a.cfg.Mesh, Name: a.cfg.Name,
			Instance: a.instance, Place: "load", OutboundBlock: a.cfg.Block, ClockMs: time.Now().UnixMilli(),
		})
	if err != nil {
		return err
	}
	if len(out.GetControlChain()) == 0 {
		return errors.New("the zone sent no control certificate")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.enrolled++
	a.control = &tls.Certificate{Certificate: out.GetControlChain(), PrivateKey: key}
	return nil
}

func request() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, nil, fmt.Errorf("make a signing request: %w", err)
	}
	return key, der, nil
}

// A session is one stream of an agent. Its state belongs to the goroutine of run.
type session struct {
	agent *Agent
	ready chan struct{} // closed when the proxy may run

	open  bool // ready is closed
	offer *agentapi.IdentityOffer
	key   *ecdsa.PrivateKey // of the request that is not answered
	retry <-chan time.Time
}

// run says hello and reacts until the session ends.
func (s *session) run(ctx context.Context, conn grpc.ClientConnInterface) error {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := agentapi.NewAgentClient(conn).Session(ctx)
	if err != nil {
		cancel()
		return err
	}
	in, failed := make(chan *agentapi.ZoneMessage), make(chan error, 1)
	var reader sync.WaitGroup
	defer reader.Wait()
	defer cancel()
	reader.Go(func() { failed <- receive(ctx, stream, in) })
	out, err := []*agentapi.AgentMessage{s.hello()}, error(nil)
	for {
		for _, m := range out {
			if stream.Send(m) != nil {
				return reason(in, failed)
			}
		}
		select {
		case m := <-in:
			out, err = s.message(m)
		case <-s.retry:
			s.retry = nil
			out, err = s.ask()
		case err = <-failed:
		case <-ctx.Done():
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		out = append(out, s.release()...)
	}
}

// reason is why a stream on which nothing can be sent any more has ended; what still comes before is of no use.
func reason(in <-chan *agentapi.ZoneMessage, failed <-chan error) error {
	for {
		select {
		case <-in:
		case err := <-failed:
			return err
		}
	}
}

func receive(ctx context.Context, stream agentapi.Agent_SessionClient, to chan<- *agentapi.ZoneMessage) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		select {
		case to <- m:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *session) hello() *agentapi.AgentMessage {
	a := s.agent
	a.mu.Lock()
	defer a.mu.Unlock()
	a.session++
	h := &agentapi.Hello{
		Session: a.session, Place: "load", ClockMs: time.Now().UnixMilli(), OutboundBlock: a.cfg.Block,
		Versions: &agentapi.Versions{Agent: "load", Envoy: "1.40.0"}, Features: []string{agentapi.FeatureServiceProbes},
		TrustVersion: a.trust, Proxy: &agentapi.ProxyStatus{Running: a.session > 1}, Secrets: a.secretsLocked(),
	}
	if a.cfg.Block != "" {
		h.Features = append(h.Features, agentapi.FeatureBindOutbounds)
	}
	if a.identity != nil {
		h.IdentityLeaf = a.identity.leaf
	}
	return &agentapi.AgentMessage{Message: &agentapi.AgentMessage_Hello{Hello: h}}
}

// secretsLocked is what Envoy would have acknowledged: everything.
func (a *Agent) secretsLocked() *agentapi.SecretStatus {
	st := &agentapi.SecretStatus{TrustVersion: a.trust}
	if a.identity != nil {
		st.IdentitySerial = a.identity.serial
	}
	return st
}

func (s *session) message(in *agentapi.ZoneMessage) ([]*agentapi.AgentMessage, error) {
	a := s.agent
	switch m := in.GetMessage().(type) {
	case *agentapi.ZoneMessage_Welcome:
		if s.offer = m.Welcome.GetOffer(); s.offer == nil {
			s.offer = &agentapi.IdentityOffer{}
		}
		return s.ask()
	case *agentapi.ZoneMessage_Offer:
		s.offer = m.Offer
		return s.ask()
	case *agentapi.ZoneMessage_Identity:
		return s.identity(m.Identity)
	case *agentapi.ZoneMessage_Trust:
		a.mu.Lock()
		defer a.mu.Unlock()
		a.trust, a.trusted = m.Trust.GetVersion(), time.Now()
		return []*agentapi.AgentMessage{{Message: &agentapi.AgentMessage_Secrets{Secrets: a.secretsLocked()}}}, nil
	case *agentapi.ZoneMessage_Problem:
		a.mu.Lock()
		defer a.mu.Unlock()
		a.problems = append(a.problems, m.Problem.GetText())
		if m.Problem.GetSeverity() == agentapi.Problem_FATAL {
			return nil, errors.New(m.Problem.GetText())
		}
	}
	return nil, nil
}

// ask requests a workload certificate when there is one to have and the held one is of another name.
func (s *session) ask() ([]*agentapi.AgentMessage, error) {
	a := s.agent
	a.mu.Lock()
	defer a.mu.Unlock()
	o := s.offer
	if s.key != nil || o.GetSpiffeId() == "" || o.GetIssuer() == "" || a.identity != nil && a.identity.spiffeID == o.GetSpiffeId() {
		return nil, nil
	}
	key, der, err := request()
	if err != nil {
		return nil, err
	}
	s.key = key
	a.asked++
	return []*agentapi.AgentMessage{{Message: &agentapi.AgentMessage_IdentityRequest{
		IdentityRequest: &agentapi.IdentityRequest{Request: der},
	}}}, nil
}

func (s *session) identity(in *agentapi.Identity) ([]*agentapi.AgentMessage, error) {
	key := s.key
	s.key = nil
	a := s.agent
	a.mu.Lock()
	defer a.mu.Unlock()
	if why := in.GetRefused(); why != "" {
		a.problems = append(a.problems, "certificate refused: "+why)
		if ms := in.GetRetryAfterMs(); ms > 0 {
			s.retry = time.After(time.Duration(ms) * time.Millisecond)
		}
		return nil, nil
	}
	if len(in.GetChain()) == 0 || key == nil {
		return nil, errors.New("the zone sent a workload certificate that was not asked for, or none")
	}
	leaf, err := x509.ParseCertificate(in.GetChain()[0])
	if err != nil {
		return nil, fmt.Errorf("workload certificate: %w", err)
	}
	if !key.PublicKey.Equal(leaf.PublicKey) || len(leaf.URIs) != 1 || leaf.URIs[0].String() != in.GetSpiffeId() {
		return nil, fmt.Errorf("workload certificate: it is for %v and another key, not for %s", leaf.URIs, in.GetSpiffeId())
	}
	a.identity = &workload{in.GetChain()[0], in.GetSerial(), in.GetSpiffeId()}
	return []*agentapi.AgentMessage{{Message: &agentapi.AgentMessage_Secrets{Secrets: a.secretsLocked()}}}, nil
}

// release lets the proxy run, and tells the zone that it does, once it has the identity that it is offered, if any,
// and the bundles to go with it.
func (s *session) release() []*agentapi.AgentMessage {
	a := s.agent
	a.mu.Lock()
	defer a.mu.Unlock()
	o := s.offer
	secure := a.identity != nil && a.identity.spiffeID == o.GetSpiffeId() && a.trust != ""
	if s.open || o == nil || o.GetWithheld() || o.GetSpiffeId() != "" && !secure {
		return nil
	}
	s.open = true
	close(s.ready)
	return []*agentapi.AgentMessage{{Message: &agentapi.AgentMessage_Proxy{Proxy: &agentapi.ProxyStatus{Running: true}}}}
}
