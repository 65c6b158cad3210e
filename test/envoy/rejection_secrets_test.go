package envoy

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/dataplane/sds"
)

// fromAgent is the source of secrets as the compiler writes it.
func fromAgent() *corev3.ConfigSource {
	return edited(fromSDS(fetchWait), func(c *corev3.ConfigSource) {
		g := c.GetApiConfigSource().GrpcServices[0].GetEnvoyGrpc()
		g.ClusterName = envoy.AgentCluster
		g.RetryPolicy = &corev3.RetryPolicy{RetryBackOff: &corev3.BackoffStrategy{
			BaseInterval: durationpb.New(20 * time.Millisecond), MaxInterval: durationpb.New(200 * time.Millisecond),
		}}
	})
}

// door is a service behind TLS: whoever comes needs a certificate that the bundles verify.
type door struct {
	service
	table *envoy.Table
}

func newDoor(t testing.TB, m *market) *door {
	t.Helper()
	d := &door{service: m.services(t, 1)[0]}
	l := m.listener(t, d.service).(*listenerv3.Listener)
	withServerTLS(t, l.FilterChains[0], guarded(fromAgent(), uri(startingWith("spiffe://"))))
	d.table = m.table(t, d.service)
	frags := []*envoy.Fragment{fragmentOf(t, l)}
	for _, typ := range []envoy.Type{envoy.Cluster, envoy.Endpoint, envoy.Route, envoy.Extension} {
		frags = append(frags, d.table.Get(typ, d.name))
	}
	d.table = &envoy.Table{Shared: envoy.NewPart(frags), Sequence: d.table.Sequence}
	return d
}

// knock comes on a connection of its own and returns the serial number of the certificate that it was shown.
func (d *door) knock(own *tls.Certificate) (serial string, err error) {
	code, peer, err := askTLS(d.port, own, "")
	if err != nil {
		return "", err
	}
	if code != http.StatusOK {
		return "", fmt.Errorf("status %d", code)
	}
	return hex.EncodeToString(peer.SerialNumber.Bytes()), nil
}

// renew gives the proxy a new identity and returns its serial number.
func (s *sidecar) renew(t testing.TB, ca *authority) (serial string) {
	t.Helper()
	own := ca.issue(t, "spiffe://east/server").tls(t)
	leaf, err := x509.ParseCertificate(own.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := s.secrets.SetIdentity(own.PrivateKey.(*ecdsa.PrivateKey), own.Certificate); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(leaf.SerialNumber.Bytes())
}

func (s *sidecar) trust(t testing.TB, label string, bundles ...sds.Bundle) {
	t.Helper()
	if err := s.secrets.SetTrust(label, bundles); err != nil {
		t.Fatal(err)
	}
}

// doubled is trust that only Envoy finds wrong: a domain has two bundles.
func doubled(domain string, ca *authority) []sds.Bundle {
	one := sds.Bundle{Domain: domain, PEM: string(ca.pem)}
	return []sds.Bundle{one, one}
}

// Bad trust at an update: what was in force stays, the identity that changes in the same instant is not held up, whichever Envoy hears
// of first, and neither a connection fails nor does a stranger come in.
func TestRejectionOfSecretAtUpdate(t *testing.T) {
	t.Parallel()
	z, m := newZone(t), newMarket(t, 1)
	east, west := newAuthority(t, "east"), newAuthority(t, "west")
	friend, stranger := east.issue(t, "spiffe://east/client").tls(t), west.issue(t, "spiffe://west/client").tls(t)
	outsiders := map[string]*tls.Certificate{"a stranger": &stranger, "nobody": nil}
	d := newDoor(t, m)
	s := z.prepare(t, "web", d.table)
	first := s.renew(t, east)
	s.trust(t, "first", sds.Bundle{Domain: "east", PEM: string(east.pem)})
	s.launch(t)
	s.untilSerial(t, d, friend, first)
	s.untilSecrets(t, first, "first")

	guests := startGuests(t, d, friend)
	damage := func(label string) {
		s.trust(t, label, append(doubled(label+".west", west), sds.Bundle{Domain: "east", PEM: string(east.pem)})...)
	}
	for round := range 6 {
		label := fmt.Sprint("damaged-", round)
		var serial string
		if round%2 == 0 {
			serial = s.renew(t, east)
			damage(label)
		} else {
			damage(label)
			serial = s.renew(t, east)
		}
		s.untilSerial(t, d, friend, serial)
		s.untilRefused(t, "trust", label)
		s.untilSecrets(t, serial, "first")
		refusesAll(t, d, outsiders)
		if got := s.secrets.Status().Rejected; !strings.HasPrefix(got, "trust: Multiple trust bundles") {
			t.Errorf("rejected is %q", got)
		}
	}
	s.notRefused(t, "identity")

	s.cutSecrets()
	last := s.renew(t, east)
	s.untilSerial(t, d, friend, last)
	s.untilSecrets(t, last, "first")
	refusesAll(t, d, outsiders)
	s.untilServedAfterLDS(t, d, m, friend)

	s.trust(t, "corrected", sds.Bundle{Domain: "east", PEM: string(east.pem)}, sds.Bundle{Domain: "west", PEM: string(west.pem)})
	s.untilSecrets(t, last, "corrected")
	until(t, "the stranger is known now", func() (any, bool) {
		_, err := d.knock(&stranger)
		return err, err == nil
	})
	refusesAll(t, d, map[string]*tls.Certificate{"nobody": nil})
	if got := s.secrets.Status().Rejected; got != "" {
		t.Errorf("after the correction rejected is %q", got)
	}
	s.notRefused(t, "identity")
	guests.stop(t)
}

// untilServedAfterLDS changes the listener: a refused secret that Envoy still remembered would take it down.
func (s *sidecar) untilServedAfterLDS(t testing.TB, d *door, m *market, own tls.Certificate) {
	t.Helper()
	l := m.listener(t, d.service).(*listenerv3.Listener)
	l.StatPrefix = "changed"
	withServerTLS(t, l.FilterChains[0], guarded(fromAgent(), uri(startingWith("spiffe://"))))
	frags := []*envoy.Fragment{fragmentOf(t, l)}
	for _, typ := range []envoy.Type{envoy.Cluster, envoy.Endpoint, envoy.Route, envoy.Extension} {
		frags = append(frags, d.table.Get(typ, d.name))
	}
	m.last++
	table := &envoy.Table{Shared: envoy.NewPart(frags), Sequence: m.last}
	s.set(table)
	s.untilAcked(t, table)
	if _, rejected := s.state(); len(rejected) > 0 {
		t.Errorf("the changed listener is blamed: %v", rejected)
	}
	if _, err := d.knock(&own); err != nil {
		t.Errorf("after a change of the listener: %v", err)
	}
}

// Bad trust at first configuration lets nobody in, and heals when it is corrected.
func TestRejectionOfSecretAtFirstConfiguration(t *testing.T) {
	t.Parallel()
	z, m := newZone(t), newMarket(t, 1)
	east, west := newAuthority(t, "east"), newAuthority(t, "west")
	friend, stranger := east.issue(t, "spiffe://east/client").tls(t), west.issue(t, "spiffe://west/client").tls(t)
	everybody := map[string]*tls.Certificate{"a friend": &friend, "a stranger": &stranger, "nobody": nil}
	d := newDoor(t, m)
	s := z.prepare(t, "web", d.table)
	serial := s.renew(t, east)
	s.trust(t, "damaged", doubled("east", east)...)
	s.launch(t)
	s.untilRefused(t, "trust", "damaged")
	s.untilAcked(t, d.table)
	refusesAll(t, d, everybody)

	s.cutSecrets()
	s.untilSecretStreams(t, 2)
	refusesAll(t, d, everybody)

	s.trust(t, "corrected", sds.Bundle{Domain: "east", PEM: string(east.pem)})
	s.untilSecrets(t, serial, "corrected")
	s.untilSerial(t, d, friend, serial)
	refusesAll(t, d, map[string]*tls.Certificate{"a stranger": &stranger, "nobody": nil})
}

// What Envoy has refused once it acknowledges the second time, without using it. So nothing that was refused may be offered again
// when Envoy comes back: it would be called acknowledged.
func TestRejectionOfSecretIsRemembered(t *testing.T) {
	t.Parallel()
	z, m := newZone(t), newMarket(t, 1)
	east := newAuthority(t, "east")
	d := newDoor(t, m)
	s := z.prepare(t, "web", d.table)
	s.renew(t, east)
	s.trust(t, "damaged", doubled("east", east)...)
	s.launch(t)
	s.untilRefused(t, "trust", "damaged")
	s.untilAcked(t, d.table)
	before := s.stat(t, "sds.trust.update_success")
	s.cutSecrets()
	s.untilSecretStreams(t, 2)
	s.untilStat(t, "sds.identity.update_attempt", s.stat(t, "sds.identity.update_attempt"))
	if got := s.secrets.Status().TrustVersion; got != "" {
		t.Errorf("trust %q is called acknowledged; Envoy counted %d updates of it before it came back, %d after",
			got, before, s.stat(t, "sds.trust.update_success"))
	}
}

func (s *sidecar) untilSerial(t testing.TB, d *door, own tls.Certificate, want string) {
	t.Helper()
	if took := until(t, "the certificate "+want+" is shown", func() (any, bool) {
		got, err := d.knock(&own)
		return fmt.Sprint(got, err), got == want
	}); took > prompt {
		t.Errorf("the certificate %s is shown after %s", want, took)
	}
}

func (s *sidecar) untilSecrets(t testing.TB, serial, trust string) {
	t.Helper()
	until(t, "the agent knows what Envoy acknowledged", func() (any, bool) {
		x := s.secrets.Status()
		return x, x.IdentitySerial == serial && x.TrustVersion == trust
	})
}

// untilRefused waits until the agent has said which secret was refused, in which version, and why.
func (s *sidecar) untilRefused(t testing.TB, secret, version string) {
	t.Helper()
	until(t, "the refusal of a secret is reported", func() (any, bool) {
		log := s.agentLog.lines.all()
		for _, line := range log {
			if strings.Contains(line, "secret="+secret) && strings.Contains(line, "version="+version) && strings.Contains(line, "Multiple trust bundles") {
				return nil, true
			}
		}
		return log, false
	})
}

// notRefused wants that a secret was never blamed.
func (s *sidecar) notRefused(t testing.TB, secret string) {
	t.Helper()
	for _, line := range s.agentLog.lines.all() {
		if strings.Contains(line, "secret="+secret) {
			t.Errorf("Envoy refused a secret that is good: %s", line)
		}
	}
}

// untilSecretStreams waits until Envoy has come back for a number of secrets.
func (s *sidecar) untilSecretStreams(t testing.TB, n int) {
	t.Helper()
	until(t, "Envoy asks for its secrets again", func() (any, bool) {
		got := s.stat(t, "cluster."+envoy.AgentCluster+".upstream_rq_active")
		return got, got == n+1 // and ADS
	})
}

func refusesAll(t testing.TB, d *door, guests map[string]*tls.Certificate) {
	t.Helper()
	for who, own := range guests {
		if serial, err := d.knock(own); err == nil {
			t.Errorf("%s is let in by %s", who, serial)
		}
	}
}

// guests knock all the time.
type guests struct {
	quit  chan struct{}
	run   sync.WaitGroup
	n     int
	wrong []error
}

func startGuests(t testing.TB, d *door, own tls.Certificate) *guests {
	g := &guests{quit: make(chan struct{})}
	g.run.Go(func() {
		tick := time.NewTicker(pace)
		defer tick.Stop()
		for {
			select {
			case <-g.quit:
				return
			case <-tick.C:
			}
			g.n++
			if _, err := d.knock(&own); err != nil {
				g.wrong = append(g.wrong, err)
			}
		}
	})
	return g
}

func (g *guests) stop(t testing.TB) {
	t.Helper()
	close(g.quit)
	g.run.Wait()
	if g.n == 0 || len(g.wrong) > 0 {
		t.Errorf("%d connections, failed: %v", g.n, g.wrong)
	}
}
