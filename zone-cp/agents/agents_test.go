package agents

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/api/agentapi"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/token"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/store/memory"
	"github.com/causeway-mesh/causeway/store/seal"
	"github.com/causeway-mesh/causeway/zone-cp/identity"
)

// world is what outlives a restart of the zone: its store, its key and its server certificate.
type world struct {
	t      testing.TB
	store  *memory.Store
	sealer *seal.Sealer
	server tls.Certificate
	roots  *x509.CertPool
}

// zone is one life of a zone control plane as far as agents see it.
type zone struct {
	*world
	*Service
	catalog *catalog.Catalog
	control *identity.Control
	issuer  *token.Issuer
	addr    string
	stop    func()
}

func newWorld(t testing.TB) *world {
	t.Helper()
	key, err := seal.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := seal.New(key)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, store: memory.New(), sealer: sealer, roots: x509.NewCertPool()}
	w.server = serverCertificate(t)
	w.roots.AddCert(w.server.Leaf)
	t.Cleanup(func() { w.store.Close() })
	return w
}

func serverCertificate(t testing.TB) tls.Certificate {
	t.Helper()
	k := newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "zone"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}, &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "zone"}}, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k, Leaf: leaf}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

const objects = `
type: Mesh
name: default
---
type: MeshIdentity
mesh: default
name: identity
spec:
  selector: {dataplane: {}}
  provider: {type: Bundled, bundled: {autogenerate: {enabled: true}}}
`

// start runs a zone on the world's store. Edit may change the configuration of the service.
func (w *world) start(edit ...func(*Config)) *zone {
	w.t.Helper()
	t := w.t
	ctx, cancel := context.WithCancel(context.Background())
	c, err := catalog.Open(ctx, catalog.Config{Store: w.store, Kinds: resource.NewKinds(mesh.Kinds...), Sealer: w.sealer})
	if err != nil {
		t.Fatal(err)
	}
	z := &zone{world: w, catalog: c}
	waitCatalog := run(t, ctx, c.Run)
	if _, ok := c.Snapshot().Get(resource.Key{Type: mesh.TypeMesh, Name: "default"}); !ok {
		z.apply(objects)
		key, err := token.NewSigningKey()
		if err != nil {
			t.Fatal(err)
		}
		z.put(token.Secret(token.DataplaneSigningKey("default", 1), key))
	}
	authority := identity.New(identity.Config{Catalog: c, Zone: "east"})
	waitAuthority := run(t, ctx, authority.Run)
	z.control, err = identity.OpenControl(ctx, c, "east", 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	secrets := token.SecretsFunc(func() token.Secrets { return c.Snapshot() })
	z.issuer = token.NewIssuer(secrets, nil)
	cfg := Config{
		Catalog: c, Authority: authority, Control: z.control, Tokens: token.NewValidator(secrets, nil), Observations: w.store,
		Zone: "east", Instance: "zone-1", InsightInterval: 10 * time.Millisecond, RequestInterval: time.Millisecond,
	}
	for _, e := range edit {
		e(&cfg)
	}
	z.Service, err = New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	waitService := run(t, ctx, z.Service.Run)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	z.addr = l.Addr().String()
	server := grpc.NewServer(z.ServerOptions(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &w.server, nil })...)
	z.Register(server)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	stopped := false
	z.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		waitService()
		server.Stop()
		<-served
		waitAuthority()
		waitCatalog()
	}
	t.Cleanup(z.stop)
	z.until("the authority is ready", func() bool {
		key := catalog.StatusOf(resource.Key{Type: mesh.TypeMeshIdentity, Mesh: "default", Name: "identity"})
		b, _ := c.Snapshot().Derived(key.Type, key.Mesh, key.Name)
		return strings.Contains(string(b), `"type":"Ready","status":"True"`)
	})
	return z
}

func run(t testing.TB, ctx context.Context, f func(context.Context) error) (wait func()) {
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	return func() {
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}
}

func (z *zone) apply(yaml string) {
	z.t.Helper()
	ds, err := z.catalog.Kinds().DecodeYAML([]byte(yaml), true)
	if err != nil {
		z.t.Fatal(err)
	}
	for _, d := range ds {
		z.put(d.Resource)
	}
}

func (z *zone) put(r resource.Resource) {
	z.t.Helper()
	if _, err := z.catalog.Commit(z.t.Context(), catalog.Batch{Puts: []catalog.Put{{Resource: r, Expect: store.ExpectAny}}}); err != nil {
		z.t.Fatal(err)
	}
}

// until waits for a condition that depends on the catalog or the registry.
func (z *zone) until(what string, ok func() bool) {
	z.t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			f, _ := z.registry.Snapshot().Get(web)
			z.t.Fatalf("waited in vain until %s; facts %+v", what, f)
		}
	}
}

func (z *zone) token(d token.Dataplane) string {
	z.t.Helper()
	d.Mesh = "default"
	s, err := z.issuer.Dataplane(d, time.Hour)
	if err != nil {
		z.t.Fatal(err)
	}
	return s
}

func (z *zone) facts(k resource.Key) Facts {
	f, _ := z.registry.Snapshot().Get(k)
	return f
}

var (
	web      = resource.Key{Type: mesh.TypeDataplane, Mesh: "default", Name: "web-1"}
	webToken = token.Dataplane{Name: "web-1", Workload: "web"}
)

const webYAML = `
type: Dataplane
mesh: default
name: web-1
labels: {kuma.io/workload: web}
networking:
  address: 127.0.0.1
  inbound:
  - {port: 8080, name: http}
  - {port: 9090, servicePort: 9091, serviceProbe: {interval: 1s, http: {path: /ok}}}
`

// agent is a client that speaks the protocol by hand.
type agent struct {
	t        testing.TB
	z        *zone
	key      *ecdsa.PrivateKey
	instance string
	session  uint64
	cert     *tls.Certificate
}

func (z *zone) agent(instance string) *agent {
	return &agent{t: z.t, z: z, key: newKey(z.t), instance: instance}
}

func (a *agent) connect(cert *tls.Certificate) agentapi.AgentClient {
	a.t.Helper()
	cfg := &tls.Config{RootCAs: a.z.roots}
	if cert != nil {
		cfg.Certificates = []tls.Certificate{*cert}
	}
	conn, err := grpc.NewClient(a.z.addr, grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { conn.Close() })
	return agentapi.NewAgentClient(conn)
}

func csr(t testing.TB, k *ecdsa.PrivateKey, edit ...func(*x509.CertificateRequest)) []byte {
	t.Helper()
	r := &x509.CertificateRequest{}
	for _, e := range edit {
		e(r)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, r, k)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func (a *agent) enroll(bearer string, edit ...func(*agentapi.EnrollRequest)) (*agentapi.EnrollResponse, error) {
	a.t.Helper()
	in := &agentapi.EnrollRequest{
		ControlRequest: csr(a.t, a.key), Dataplane: []byte(webYAML), Instance: a.instance, Place: "host-" + a.instance, ClockMs: time.Now().UnixMilli(),
	}
	for _, e := range edit {
		e(in)
	}
	ctx, cancel := context.WithTimeout(a.t.Context(), 10*time.Second)
	defer cancel()
	if bearer != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+bearer)
	}
	out, err := a.connect(nil).Enroll(ctx, in)
	if err == nil {
		a.cert = &tls.Certificate{Certificate: out.GetControlChain(), PrivateKey: a.key}
	}
	return out, err
}

// stream is an open session.
type stream struct {
	t testing.TB
	agentapi.Agent_SessionClient
	cancel func()
}

func (a *agent) open(edit ...func(*agentapi.Hello)) *stream {
	a.t.Helper()
	a.session++
	h := &agentapi.Hello{
		Session: a.session, Versions: &agentapi.Versions{Agent: "0.1", Envoy: "1.40.0"}, Place: "host-" + a.instance, ClockMs: time.Now().UnixMilli(),
		Proxy: &agentapi.ProxyStatus{Running: true}, Features: []string{agentapi.FeatureServiceProbes},
	}
	for _, e := range edit {
		e(h)
	}
	ctx, cancel := context.WithCancel(context.Background())
	a.t.Cleanup(cancel)
	s, err := a.connect(a.cert).Session(ctx)
	if err != nil {
		a.t.Fatal(err)
	}
	st := &stream{a.t, s, cancel}
	st.send(&agentapi.AgentMessage{Message: &agentapi.AgentMessage_Hello{Hello: h}})
	return st
}

func (s *stream) send(m *agentapi.AgentMessage) {
	s.t.Helper()
	if err := s.Send(m); err != nil && !errors.Is(err, io.EOF) { // receiving tells how a stream ended
		s.t.Fatal(err)
	}
}

// next returns the next message for which want is true; others are skipped.
func (s *stream) next(what string, want func(*agentapi.ZoneMessage) bool) *agentapi.ZoneMessage {
	s.t.Helper()
	timer := time.AfterFunc(10*time.Second, s.cancel)
	defer timer.Stop()
	for {
		m, err := s.Recv()
		if err != nil {
			s.t.Fatalf("waiting for %s: %v", what, err)
		}
		if want(m) {
			return m
		}
	}
}

// end returns how the zone ended the session.
func (s *stream) end() error {
	timer := time.AfterFunc(10*time.Second, s.cancel)
	defer timer.Stop()
	for {
		if _, err := s.Recv(); err != nil {
			return err
		}
	}
}

func (s *stream) welcome() *agentapi.Welcome {
	s.t.Helper()
	return s.next("welcome", func(m *agentapi.ZoneMessage) bool { return m.GetWelcome() != nil }).GetWelcome()
}

func (s *stream) identity(k *ecdsa.PrivateKey) *agentapi.Identity {
	s.t.Helper()
	s.send(&agentapi.AgentMessage{Message: &agentapi.AgentMessage_IdentityRequest{IdentityRequest: &agentapi.IdentityRequest{
		Request: csr(s.t, k, func(r *x509.CertificateRequest) {
			r.URIs = []*url.URL{{Scheme: "spiffe", Host: "default.east.mesh.local", Path: "/workload/bank"}}
		}),
	}}})
	return s.next("identity", func(m *agentapi.ZoneMessage) bool { return m.GetIdentity() != nil }).GetIdentity()
}

func wantCode(t *testing.T, err error, code codes.Code, parts ...string) {
	t.Helper()
	if status.Code(err) != code {
		t.Errorf("error %v, want code %s", err, code)
	}
	for _, p := range parts {
		if err == nil || !strings.Contains(err.Error(), p) {
			t.Errorf("error %v lacks %q", err, p)
		}
	}
}

func TestEnrollSessionIdentity(t *testing.T) {
	z := newWorld(t).start(func(c *Config) { c.Addresses = []string{"127.0.0.1:1", "127.0.0.1:2"} })
	a := z.agent("one")
	out, err := a.enroll(z.token(webToken), func(r *agentapi.EnrollRequest) { r.OutboundBlock = "127.7.0.0/16" })
	if err != nil {
		t.Fatal(err)
	}
	if out.GetName() != "web-1" || out.GetZone() != "east" || out.GetLifetimeMs() < time.Hour.Milliseconds()-1000 {
		t.Errorf("response %v", out)
	}
	stored, ok := z.catalog.Snapshot().Get(web)
	if !ok {
		t.Fatal("the Dataplane was not registered")
	}
	if diff := cmp.Diff(map[string]string{
		"kuma.io/mesh": "default", "kuma.io/display-name": "web-1", "kuma.io/origin": "zone", "kuma.io/zone": "east", "kuma.io/env": "universal",
		"kuma.io/workload": "web", "kuma.io/managed-by": "dataplane-agent",
	}, stored.Labels); diff != "" {
		t.Errorf("labels:\n%s", diff)
	}
	if b := stored.Spec.(*mesh.Dataplane).Networking.OutboundBlock; b != "127.7.0.0/16" {
		t.Errorf("outbound block %q", b)
	}
	if got := z.registry.Snapshot().Inbound(web, "http", mesh.StateReady); got != mesh.StateNotReady {
		t.Errorf("a proxy without a session is %s", got)
	}

	s := a.open()
	w := s.welcome()
	if len(w.GetAddresses()) != 2 || w.GetOffer().GetSpiffeId() != "spiffe://default.east.mesh.local/workload/web" || w.GetOffer().GetIssuer() == "" {
		t.Errorf("welcome %v", w)
	}
	if len(w.GetProbes()) != 1 || w.GetProbes()[0].GetHttpPath() != "/ok" || w.GetProbes()[0].GetPort() != 9091 || w.GetProbes()[0].GetSection() != "9090" {
		t.Errorf("probes %v", w.GetProbes())
	}
	trust := s.next("trust", func(m *agentapi.ZoneMessage) bool { return m.GetTrust() != nil }).GetTrust()
	id := s.identity(a.key)
	leaf, err := x509.ParseCertificate(id.GetChain()[0])
	if err != nil {
		t.Fatal(err)
	}
	if leaf.URIs[0].String() != "spiffe://default.east.mesh.local/workload/web" || len(leaf.URIs) != 1 {
		t.Errorf("requested names were not ignored: %v", leaf.URIs)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(trust.GetBundles()[0].GetPem()))
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots}); err != nil {
		t.Errorf("bundle and certificate do not match: %v", err)
	}
	s.send(&agentapi.AgentMessage{Message: &agentapi.AgentMessage_Secrets{Secrets: &agentapi.SecretStatus{IdentitySerial: id.GetSerial(), TrustVersion: trust.GetVersion()}}})
	s.send(&agentapi.AgentMessage{Message: &agentapi.AgentMessage_Inbounds{Inbounds: &agentapi.InboundStates{Inbounds: []*agentapi.InboundState{{Section: "9090", Ready: true}}}}})
	z.until("the inbound is ready", func() bool {
		return z.registry.Snapshot().Inbound(web, "9090", mesh.StateNotReady) == mesh.StateReady
	})
	f := z.facts(web)
	if f.Issued.Serial != id.GetSerial() || f.IdentityAcknowledged != id.GetSerial() || f.TrustAcknowledged != trust.GetVersion() || f.TrustSent != trust.GetVersion() {
		t.Errorf("facts %+v", f)
	}
	if gap := z.registry.Snapshot().TrustGap("default", trust.GetVersion()); len(gap) != 0 {
		t.Errorf("gap %v", gap)
	}
	if gap := z.registry.Snapshot().TrustGap("default", "next"); len(gap) != 1 {
		t.Errorf("gap of an unsent version %v", gap)
	}
	in, ok := z.registry.Snapshot().Insight(web, "zone-1")
	if !ok || !in.IsOnline() || in.MTLS == nil || in.MTLS.CertificateRegenerations != 1 || !strings.HasPrefix(in.MTLS.IssuedBackend, "kri_mid_default_") {
		t.Errorf("insight %+v", in)
	}
}

func TestEnrollmentIsRefused(t *testing.T) {
	w := newWorld(t)
	z := w.start()
	past := token.NewIssuer(token.SecretsFunc(func() token.Secrets { return z.catalog.Snapshot() }), func() time.Time { return time.Now().Add(-3 * time.Hour) })
	expired, err := past.Dataplane(token.Dataplane{Mesh: "default", Name: "web-1", Workload: "web"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	yaml := func(old, new string) func(*agentapi.EnrollRequest) {
		return func(r *agentapi.EnrollRequest) { r.Dataplane = []byte(strings.Replace(webYAML, old, new, 1)) }
	}
	nothing := func(*agentapi.EnrollRequest) {}
	for name, c := range map[string]struct {
		token string
		edit  func(*agentapi.EnrollRequest)
		code  codes.Code
		want  []string
	}{
		"no token":      {"", nothing, codes.Unauthenticated, []string{"causeway token create dataplane"}},
		"garbage token": {"hello", nothing, codes.Unauthenticated, []string{"not a JWT"}},
		"expired":       {expired, nothing, codes.Unauthenticated, []string{"expired 2h"}},
		"expired and clock behind": {
			expired, func(r *agentapi.EnrollRequest) { r.ClockMs = time.Now().Add(-2*time.Hour - time.Minute).UnixMilli() },
			codes.Unauthenticated,
			[]string{"expired 2h", "clock of the agent's host is 2h1m0s behind"},
		},
		"workload not covered":    {z.token(token.Dataplane{Name: "web-1"}), nothing, codes.PermissionDenied, []string{"does not cover label kuma.io/workload=web"}},
		"workload of another":     {z.token(token.Dataplane{Name: "web-1", Workload: "stock"}), nothing, codes.PermissionDenied, []string{`for workload "stock"`, `"web"`}},
		"token of another name":   {z.token(token.Dataplane{Name: "web-2", Workload: "web"}), nothing, codes.PermissionDenied, []string{`"web-2"`, `"web-1"`}},
		"token of another type":   {z.token(token.Dataplane{Type: "ingress", Workload: "web"}), nothing, codes.PermissionDenied, []string{`"ingress"`}},
		"tag of another":          {z.token(token.Dataplane{Workload: "web", Tags: map[string][]string{"team": {"a", "b"}}}), nothing, codes.PermissionDenied, []string{"label team to be a or b", "none"}},
		"other mesh":              {z.token(webToken), yaml("mesh: default", "mesh: other"), codes.PermissionDenied, []string{`"other"`}},
		"other kind":              {z.token(webToken), func(r *agentapi.EnrollRequest) { r.Dataplane = []byte("type: Mesh\nname: x\n") }, codes.InvalidArgument, []string{"type Dataplane"}},
		"two documents":           {z.token(webToken), func(r *agentapi.EnrollRequest) { r.Dataplane = []byte(webYAML + "---" + webYAML) }, codes.InvalidArgument, nil},
		"not YAML":                {z.token(webToken), func(r *agentapi.EnrollRequest) { r.Dataplane = []byte("{") }, codes.InvalidArgument, []string{"dataplane", "YAML"}},
		"invalid address":         {z.token(webToken), yaml("address: 127.0.0.1", "address: 0.0.0.0"), codes.InvalidArgument, []string{"networking.address"}},
		"name with a slash":       {z.token(token.Dataplane{Workload: "web"}), yaml("name: web-1", "name: ../web"), codes.InvalidArgument, []string{"name: "}},
		"KRI metacharacters":      {z.token(token.Dataplane{Workload: "web"}), yaml("name: web-1", "name: kri_dp_default"), codes.InvalidArgument, []string{"name: "}},
		"label with a newline":    {z.token(webToken), yaml("labels: {", `labels: {team: "a\nERROR forged", `), codes.InvalidArgument, []string{"labels"}},
		"another zone's":          {z.token(webToken), yaml("labels: {", "labels: {kuma.io/zone: west, "), codes.InvalidArgument, []string{"kuma.io/zone", "west"}},
		"agent called otherwise":  {z.token(webToken), func(r *agentapi.EnrollRequest) { r.Name = "web-9" }, codes.InvalidArgument, []string{"web-9"}},
		"name that is not there":  {z.token(token.Dataplane{}), func(r *agentapi.EnrollRequest) { r.Dataplane, r.Name = nil, "ghost" }, codes.NotFound, []string{"ghost", "create it first"}},
		"neither name nor object": {z.token(token.Dataplane{}), func(r *agentapi.EnrollRequest) { r.Dataplane = nil }, codes.InvalidArgument, nil},
		"bad signing request":     {z.token(webToken), func(r *agentapi.EnrollRequest) { r.ControlRequest = []byte("x") }, codes.InvalidArgument, []string{"PKCS #10"}},
		"no instance":             {z.token(webToken), func(r *agentapi.EnrollRequest) { r.Instance = "" }, codes.InvalidArgument, []string{"instance"}},
		"other block": {z.token(webToken), func(r *agentapi.EnrollRequest) {
			r.Dataplane = []byte(strings.Replace(webYAML, "address: 127.0.0.1", "address: 127.0.0.1\n  outboundBlock: 127.9.0.0/16", 1))
			r.OutboundBlock = "127.8.0.0/16"
		}, codes.InvalidArgument, []string{"networking.outboundBlock"}},
	} {
		t.Run(name, func(t *testing.T) {
			a := z.agent("one")
			a.t = t
			_, err := a.enroll(c.token, c.edit)
			wantCode(t, err, c.code, c.want...)
			if c.token != "" && err != nil && strings.Contains(err.Error(), c.token) && c.token != "hello" {
				t.Error("the message shows the token")
			}
		})
	}
	if _, ok := z.catalog.Snapshot().Get(web); ok {
		t.Error("a refused agent registered its Dataplane")
	}
}

// Acceptance: U auth dp: a token of another service cannot take over a proxy
func TestTokenCannotTakeOverAnother(t *testing.T) {
	z := newWorld(t).start()
	if _, err := z.agent("one").enroll(z.token(token.Dataplane{Workload: "web"})); err != nil {
		t.Fatal(err)
	}
	_, err := z.agent("two").enroll(z.token(token.Dataplane{Workload: "stock"}), func(r *agentapi.EnrollRequest) {
		r.Dataplane = []byte(strings.Replace(webYAML, "workload: web", "workload: stock", 1))
	})
	wantCode(t, err, codes.PermissionDenied, "registered already", `"stock"`)
}

func TestSecondLiveAgentIsRefused(t *testing.T) {
	z := newWorld(t).start()
	tok := z.token(webToken)
	one, two := z.agent("one"), z.agent("two")
	if _, err := one.enroll(tok); err != nil {
		t.Fatal(err)
	}
	if _, err := two.enroll(tok); err != nil { // nobody is connected yet
		t.Fatal(err)
	}
	s := one.open()
	s.welcome()
	wantCode(t, two.open().end(), codes.AlreadyExists, `"one"`, `"host-one"`, "name of its own")
	_, err := two.enroll(tok)
	wantCode(t, err, codes.AlreadyExists, `"one"`)

	again := one.open()
	again.welcome()
	wantCode(t, s.end(), codes.Aborted, "replaced by a newer session")
	one.session = 0
	wantCode(t, one.open().end(), codes.AlreadyExists) // an older session does not replace a newer one
	if f := z.facts(web); !f.Connected || f.Session != 2 {
		t.Errorf("facts %+v", f)
	}
}

func TestControlCertificateIsNeeded(t *testing.T) {
	w := newWorld(t)
	z := w.start()
	a := z.agent("one")
	wantCode(t, a.open().end(), codes.Unauthenticated, "enroll first")

	if _, err := a.enroll(z.token(webToken)); err != nil {
		t.Fatal(err)
	}
	a.cert.PrivateKey = newKey(t)
	if err := a.try(); err == nil {
		t.Error("a certificate without its key was accepted")
	}
	foreign := newWorld(t).start()
	b := foreign.agent("one")
	if _, err := b.enroll(foreign.token(webToken)); err != nil {
		t.Fatal(err)
	}
	b.z = z
	if err := b.try(); err == nil {
		t.Error("a control certificate of another zone was accepted")
	}
}

// try says why a session cannot be opened, nil when it can.
func (a *agent) try() error {
	ctx, cancel := context.WithTimeout(a.t.Context(), 5*time.Second)
	defer cancel()
	s, err := a.connect(a.cert).Session(ctx)
	if err != nil {
		return err
	}
	if err := s.Send(&agentapi.AgentMessage{Message: &agentapi.AgentMessage_Hello{Hello: &agentapi.Hello{Session: 1}}}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	_, err = s.Recv()
	return err
}

func TestGoodbyeAndReturn(t *testing.T) {
	announced := make(chan resource.Key, 1)
	release := make(chan error)
	z := newWorld(t).start(func(c *Config) {
		c.DeregisterAfter = 50 * time.Millisecond
		c.Announced = func(ctx context.Context, k resource.Key) error {
			announced <- k
			select {
			case err := <-release:
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	a := z.agent("one")
	if _, err := a.enroll(z.token(webToken)); err != nil {
		t.Fatal(err)
	}
	s := a.open()
	s.welcome()
	z.until("the proxy serves", func() bool { return z.facts(web).Serving })
	s.send(&agentapi.AgentMessage{Message: &agentapi.AgentMessage_Goodbye{Goodbye: &agentapi.Goodbye{Reason: "stop"}}})
	if k := <-announced; k != web {
		t.Errorf("announced %s", k)
	}
	if f := z.facts(web); f.Serving || !f.Draining || !f.Connected {
		t.Errorf("while draining: %+v", f)
	}
	release <- errors.New("two proxies are slow")
	done := s.next("goodbye done", func(m *agentapi.ZoneMessage) bool { return m.GetGoodbyeDone() != nil })
	if got := done.GetGoodbyeDone().GetUnconfirmed(); got != "two proxies are slow" {
		t.Errorf("unconfirmed %q", got)
	}
	s.cancel()
	z.until("the Dataplane is deregistered", func() bool {
		_, ok := z.catalog.Snapshot().Get(web)
		return !ok
	})
	z.until("its facts are forgotten", func() bool { return z.registry.Snapshot().Len() == 0 })
}

func TestBrokenStreamKeepsTheDataplane(t *testing.T) {
	z := newWorld(t).start(func(c *Config) { c.Grace = 300 * time.Millisecond })
	a := z.agent("one")
	if _, err := a.enroll(z.token(webToken)); err != nil {
		t.Fatal(err)
	}
	s := a.open()
	s.welcome()
	s.cancel()
	z.until("the break is seen", func() bool { return !z.facts(web).Connected })
	if !z.facts(web).Serving {
		t.Error("a proxy whose session just broke is out of service")
	}
	z.until("the grace is over", func() bool { return !z.facts(web).Serving })
	if _, ok := z.catalog.Snapshot().Get(web); !ok {
		t.Error("the Dataplane is gone")
	}
	a.open().welcome()
	z.until("it serves again", func() bool { return z.facts(web).Serving })
	in, _ := z.registry.Snapshot().Insight(web, "zone-1")
	if len(in.Subscriptions) != 2 || in.Subscriptions[0].IsOnline() || !in.Subscriptions[1].IsOnline() {
		t.Errorf("subscriptions %+v", in.Subscriptions)
	}
}

func TestVanishedAgentIsForgottenInTheEnd(t *testing.T) {
	z := newWorld(t).start(func(c *Config) { c.ForgetAfter = 20 * time.Millisecond })
	a := z.agent("one")
	if _, err := a.enroll(z.token(webToken)); err != nil {
		t.Fatal(err)
	}
	z.until("an agent that never came is deregistered", func() bool {
		_, ok := z.catalog.Snapshot().Get(web)
		return !ok
	})
}

func TestDataplaneOfAPersonIsNotDeregistered(t *testing.T) {
	z := newWorld(t).start(func(c *Config) { c.DeregisterAfter = time.Millisecond })
	z.apply(strings.Replace(webYAML, "labels: {", "labels: {kuma.io/zone: east, ", 1))
	a := z.agent("one")
	_, err := a.enroll(z.token(webToken), func(r *agentapi.EnrollRequest) {
		r.Dataplane, r.Name, r.OutboundBlock = nil, "web-1", "127.3.0.0/16"
	})
	if err != nil {
		t.Fatal(err)
	}
	stored, _ := z.catalog.Snapshot().Get(web)
	if b := stored.Spec.(*mesh.Dataplane).Networking.OutboundBlock; b != "127.3.0.0/16" {
		t.Errorf("outbound block %q", b)
	}
	s := a.open()
	s.welcome()
	s.send(&agentapi.AgentMessage{Message: &agentapi.AgentMessage_Goodbye{Goodbye: &agentapi.Goodbye{}}})
	s.next("goodbye done", func(m *agentapi.ZoneMessage) bool { return m.GetGoodbyeDone() != nil })
	s.cancel()
	z.until("the deadline passed", func() bool {
		z.due.mu.Lock()
		defer z.due.mu.Unlock()
		return !z.facts(web).Connected && len(z.due.at) == 0
	})
	if _, ok := z.catalog.Snapshot().Get(web); !ok {
		t.Error("the Dataplane that a person wrote is gone")
	}
}

func TestSameEnrollmentWritesNothing(t *testing.T) {
	z := newWorld(t).start()
	a := z.agent("one")
	for range 2 {
		if _, err := a.enroll(z.token(webToken), func(r *agentapi.EnrollRequest) { r.OutboundBlock = "127.7.0.0/16" }); err != nil {
			t.Fatal(err)
		}
	}
	if r, _ := z.catalog.Snapshot().Get(web); r.Version != 1 {
		t.Errorf("version %d", r.Version)
	}
}

func TestZoneRestartReissuesNothing(t *testing.T) {
	w := newWorld(t)
	z := w.start()
	a := z.agent("one")
	if _, err := a.enroll(z.token(webToken)); err != nil {
		t.Fatal(err)
	}
	s := a.open()
	w1 := s.welcome()
	trust := s.next("trust", func(m *agentapi.ZoneMessage) bool { return m.GetTrust() != nil }).GetTrust()
	id := s.identity(a.key)
	z.until("the proxy serves", func() bool { return z.facts(web).Serving })
	z.stop()
	wantCode(t, s.end(), codes.Unavailable)

	position, err := w.store.Position(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	z = w.start()
	a.z = z
	z.until("insights are restored", func() bool { return z.registry.Snapshot().Len() == 1 })
	f := z.facts(web)
	if f.Connected || !f.Serving || f.Issued.Serial != id.GetSerial() {
		t.Errorf("right after the start: %+v", f)
	}
	again := a.open(func(h *agentapi.Hello) { h.IdentityLeaf, h.TrustVersion = id.GetChain()[0], trust.GetVersion() })
	w2 := again.welcome()
	if w2.GetOffer().GetIssuer() != w1.GetOffer().GetIssuer() || w2.GetOffer().GetIssuer() != id.GetIssuer() {
		t.Errorf("another issuer: %v, was %v", w2.GetOffer(), w1.GetOffer())
	}
	// Whatever comes next is the answer to this message: neither trust nor identity was pushed before it.
	again.send(&agentapi.AgentMessage{Message: &agentapi.AgentMessage_Goodbye{Goodbye: &agentapi.Goodbye{}}})
	if m, err := again.Recv(); err != nil || m.GetGoodbyeDone() == nil {
		t.Errorf("after the welcome came %v, %v", m, err)
	}
	if f := z.facts(web); f.Issued.Serial != id.GetSerial() || f.Issued.Count != 1 {
		t.Errorf("issued %+v", f.Issued)
	}
	if now, _ := w.store.Position(t.Context()); now != position {
		t.Errorf("the restart wrote to the store: %s, was %s", now, position)
	}
}

func TestChangesReachTheSession(t *testing.T) {
	z := newWorld(t).start()
	a := z.agent("one")
	tok := z.token(token.Dataplane{Name: "web-1", Tags: map[string][]string{"kuma.io/workload": {"web", "shop"}}})
	if _, err := a.enroll(tok); err != nil {
		t.Fatal(err)
	}
	s := a.open()
	s.welcome()
	edit := func(old, new string) {
		t.Helper()
		r, _ := z.catalog.Snapshot().Get(web)
		d, err := z.catalog.Kinds().DecodeYAML([]byte(strings.Replace(webYAML, old, new, 1)), true)
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range r.Labels {
			if k != "kuma.io/workload" {
				d[0].Labels[k] = v
			}
		}
		z.put(d[0].Resource)
	}
	edit("workload: web", "workload: shop")
	o := s.next("offer", func(m *agentapi.ZoneMessage) bool { return m.GetOffer() != nil }).GetOffer()
	if o.GetSpiffeId() != "spiffe://default.east.mesh.local/workload/shop" {
		t.Errorf("offer %v", o)
	}
	edit("interval: 1s", "interval: 2s")
	s.next("an offer or probes", func(m *agentapi.ZoneMessage) bool {
		return len(m.GetProbes().GetProbes()) == 1 && m.GetProbes().GetProbes()[0].GetIntervalMs() == 2000
	})
	edit("workload: web", "workload: bank")
	wantCode(t, s.end(), codes.PermissionDenied, "kuma.io/workload")
	z.until("the session is closed", func() bool { return !z.facts(web).Connected })
}

func TestDeletedIdentityAndDataplane(t *testing.T) {
	z := newWorld(t).start()
	a := z.agent("one")
	if _, err := a.enroll(z.token(webToken)); err != nil {
		t.Fatal(err)
	}
	s := a.open()
	s.welcome()
	remove := func(k resource.Key) {
		t.Helper()
		if _, err := z.catalog.Commit(t.Context(), catalog.Batch{Deletes: []catalog.Delete{{Key: k, Expect: store.ExpectAny}}}); err != nil {
			t.Fatal(err)
		}
	}
	remove(resource.Key{Type: mesh.TypeMeshIdentity, Mesh: "default", Name: "identity"})
	o := s.next("offer", func(m *agentapi.ZoneMessage) bool { return m.GetOffer() != nil }).GetOffer()
	if o.GetSpiffeId() != "" || o.GetWithheld() {
		t.Errorf("offer %v", o)
	}
	if id := s.identity(a.key); id.GetRefused() == "" {
		t.Errorf("an identity was issued: %v", id)
	}
	remove(web)
	wantCode(t, s.end(), codes.NotFound, "enroll again")
	z.until("it is forgotten", func() bool { return z.registry.Snapshot().Len() == 0 })
}

func TestRevokedTokenEndsTheSession(t *testing.T) {
	z := newWorld(t).start()
	tok := z.token(webToken)
	a := z.agent("one")
	if _, err := a.enroll(tok); err != nil {
		t.Fatal(err)
	}
	s := a.open()
	s.welcome()
	_, v, err := z.cfg.Tokens.Dataplane(tok)
	if err != nil {
		t.Fatal(err)
	}
	z.put(token.Secret(token.DataplaneRevocations("default"), []byte("other, "+v.ID)))
	wantCode(t, s.end(), codes.PermissionDenied, "revoked")
	wantCode(t, a.open().end(), codes.PermissionDenied, "revoked")
	_, err = a.enroll(tok)
	wantCode(t, err, codes.Unauthenticated, "revoked")
}

func TestSigningIsLimited(t *testing.T) {
	z := newWorld(t).start(func(c *Config) { c.RequestInterval = time.Hour })
	a := z.agent("one")
	if _, err := a.enroll(z.token(webToken)); err != nil {
		t.Fatal(err)
	}
	s := a.open()
	s.welcome()
	if id := s.identity(a.key); id.GetRefused() != "" {
		t.Fatal(id.GetRefused())
	}
	again := a.open() // a new session does not reset the limit
	again.welcome()
	if id := again.identity(a.key); !strings.Contains(id.GetRefused(), "one signing request per") || id.GetRetryAfterMs() == 0 {
		t.Errorf("answer %v", id)
	}
}

func TestControlRenewal(t *testing.T) {
	z := newWorld(t).start()
	a := z.agent("one")
	if _, err := a.enroll(z.token(webToken)); err != nil {
		t.Fatal(err)
	}
	s := a.open()
	s.welcome()
	next := newKey(t)
	s.send(&agentapi.AgentMessage{Message: &agentapi.AgentMessage_ControlRequest{ControlRequest: &agentapi.ControlRequest{Request: csr(t, next)}}})
	got := s.next("control certificate", func(m *agentapi.ZoneMessage) bool { return m.GetControl() != nil }).GetControl()
	if got.GetRefused() != "" {
		t.Fatal(got.GetRefused())
	}
	a.cert = &tls.Certificate{Certificate: got.GetChain(), PrivateKey: next}
	a.open().welcome()
}

func TestSessionMustBeginWithHello(t *testing.T) {
	z := newWorld(t).start(func(c *Config) { c.HelloTimeout = 50 * time.Millisecond })
	a := z.agent("one")
	if _, err := a.enroll(z.token(webToken)); err != nil {
		t.Fatal(err)
	}
	begin := func() *stream {
		ctx, cancel := context.WithCancel(t.Context())
		t.Cleanup(cancel)
		s, err := a.connect(a.cert).Session(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return &stream{t, s, cancel}
	}
	s := begin()
	s.send(&agentapi.AgentMessage{})
	wantCode(t, s.end(), codes.InvalidArgument, "begin with hello")
	wantCode(t, begin().end(), codes.DeadlineExceeded, "no hello")
}

func TestFeedCoalesces(t *testing.T) {
	r := newRegistry()
	f := r.Subscribe()
	u, err := f.Next(t.Context())
	if err != nil || !u.All {
		t.Fatalf("first update %+v, %v", u, err)
	}
	for i := range 5 {
		r.update(web, func(x *Facts) { x.Session = uint64(i) })
		r.update(resource.Key{Type: mesh.TypeDataplane, Mesh: "default", Name: "a"}, func(*Facts) {})
	}
	u, err = f.Next(t.Context())
	if err != nil || u.All || len(u.Changed) != 2 || u.Changed[1] != web {
		t.Fatalf("second update %+v, %v", u, err)
	}
	if got, _ := u.Snapshot.Get(web); got.Session != 4 {
		t.Errorf("facts %+v", got)
	}
	f.Close()
	f.Close()
	if _, err := f.Next(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("closed feed: %v", err)
	}
}

// FuzzMessages sends decoded messages of any content to a session: nothing an agent says may break the zone.
func FuzzMessages(f *testing.F) {
	z := newWorld(f).start()
	a := z.agent("one")
	if _, err := a.enroll(z.token(webToken)); err != nil {
		f.Fatal(err)
	}
	s := a.open()
	s.welcome()
	ss := z.registry.session(web)
	for _, m := range []*agentapi.AgentMessage{
		{},
		{Message: &agentapi.AgentMessage_Hello{Hello: &agentapi.Hello{Session: 9}}},
		{Message: &agentapi.AgentMessage_IdentityRequest{IdentityRequest: &agentapi.IdentityRequest{Request: csr(f, a.key)}}},
		{Message: &agentapi.AgentMessage_Inbounds{Inbounds: &agentapi.InboundStates{Inbounds: []*agentapi.InboundState{{Section: "\xff", Ready: true}}}}},
		{Message: &agentapi.AgentMessage_Secrets{Secrets: &agentapi.SecretStatus{IdentitySerial: "1"}}},
		{Message: &agentapi.AgentMessage_Proxy{Proxy: &agentapi.ProxyStatus{Running: true}}},
		{Message: &agentapi.AgentMessage_ControlRequest{ControlRequest: &agentapi.ControlRequest{}}},
	} {
		f.Add(marshal(m))
	}
	f.Add([]byte{0xfa, 0x07, 0x00}) // a message of the future
	f.Fuzz(func(t *testing.T, raw []byte) {
		m := unmarshal(raw)
		if m == nil || m.GetGoodbye() != nil {
			return
		}
		for _, out := range ss.message(m) {
			if len(marshal(out)) > maxMessage {
				t.Errorf("an answer of %d bytes", len(marshal(out)))
			}
		}
		var x Facts
		ss.hello = &agentapi.Hello{}
		if h := m.GetHello(); h != nil {
			ss.hello = h
		}
		ss.begin(&x, identity.Issued{}, "id", time.Now())
		if len(x.Inbounds) > maxInbounds || len(x.Features) > maxFeatures || len(x.Place) > 2*maxText {
			t.Errorf("unbounded facts: %d %d", len(x.Inbounds), len(x.Features))
		}
		if _, err := pack(z.registry.Snapshot()); err != nil {
			t.Errorf("insights: %v", err)
		}
	})
}

// FuzzFrames sends raw frames: a zone must survive what is no message at all.
func FuzzFrames(f *testing.F) {
	z := newWorld(f).start()
	a := z.agent("one")
	if _, err := a.enroll(z.token(webToken)); err != nil {
		f.Fatal(err)
	}
	cfg := &tls.Config{RootCAs: z.roots, Certificates: []tls.Certificate{*a.cert}}
	conn, err := grpc.NewClient(z.addr, grpc.WithTransportCredentials(credentials.NewTLS(cfg)), grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{})))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { conn.Close() })
	f.Add([]byte{0x0a, 0x02, 0x08, 0x01}, []byte{0xff})
	f.Add([]byte{0x0a}, []byte{})
	f.Fuzz(func(t *testing.T, first, second []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		s, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, agentapi.Agent_Session_FullMethodName)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range [][]byte{first, second} {
			if s.SendMsg(&b) != nil {
				break
			}
		}
		if err := s.CloseSend(); err != nil {
			t.Log(err)
		}
		var in []byte
		for s.RecvMsg(&in) == nil {
		}
	})
}

// rawCodec passes bytes as they are.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) ([]byte, error) {
	b, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("%T is not bytes", v)
	}
	return *b, nil
}

func (rawCodec) Unmarshal(data []byte, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("%T is not bytes", v)
	}
	*b = append((*b)[:0], data...)
	return nil
}

func marshal(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		return nil
	}
	return b
}

func unmarshal(raw []byte) *agentapi.AgentMessage {
	m := &agentapi.AgentMessage{}
	if proto.Unmarshal(raw, m) != nil {
		return nil
	}
	return m
}
