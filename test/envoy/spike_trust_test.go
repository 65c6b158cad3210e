package envoy

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
)

// spiffeTrust is trust with a bundle for each trust domain.
func spiffeTrust(t testing.TB, bundles map[string][]byte) *tlsv3.Secret {
	conf := &tlsv3.SPIFFECertValidatorConfig{}
	for domain, ca := range bundles {
		conf.TrustDomains = append(conf.TrustDomains, &tlsv3.SPIFFECertValidatorConfig_TrustDomain{Name: domain, TrustBundle: inline(ca)})
	}
	return &tlsv3.Secret{Name: "trust", Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
		CustomValidatorConfig: &corev3.TypedExtensionConfig{Name: "envoy.tls.cert_validator.spiffe", TypedConfig: packed(t, conf)},
	}}}
}

func uri(match *matcherv3.StringMatcher) *tlsv3.CertificateValidationContext {
	return &tlsv3.CertificateValidationContext{MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{{
		SanType: tlsv3.SubjectAltNameMatcher_URI, Matcher: match,
	}}}
}

func startingWith(prefix string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: prefix}}
}

// guarded is mutual with rules of the configuration beside those of the secret.
func guarded(source *corev3.ConfigSource, rules *tlsv3.CertificateValidationContext) *tlsv3.CommonTlsContext {
	c := mutual(source)
	c.ValidationContextType = &tlsv3.CommonTlsContext_CombinedValidationContext{
		CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
			DefaultValidationContext:         rules,
			ValidationContextSdsSecretConfig: &tlsv3.SdsSecretConfig{Name: "trust", SdsConfig: source},
		},
	}
	return c
}

// server is a TLS listener whose trust comes by SDS, with the stream to change it.
func tlsServer(t testing.TB, ca *authority, common *tlsv3.CommonTlsContext, trust *tlsv3.Secret) (port uint32, trustStream *stream) {
	t.Helper()
	server, p, s := start(t)
	port = freePort(t)
	s.boot0(t, everything{
		clusters:  messages(staticCluster("app", echo(t, "app"))),
		listeners: messages(listener("in", port, withServerTLS(t, httpChain(t, connectionManager(t, "in")), common))),
		routes:    messages(routes("in", "app")),
	})
	server.secretStream(t, "identity", 1).push(t, resourcev3.SecretType, v1(identitySecret("identity", ca.issue(t, "spiffe://east/server")))...)
	trustStream = server.secretStream(t, "trust", 1)
	trustStream.push(t, resourcev3.SecretType, v1(trust)...)
	p.untilLive(t)
	return port, trustStream
}

// The SPIFFE validator holds each trust domain to its own bundle; a concatenation of bundles does not.
func TestSpikeTrustDomains(t *testing.T) {
	t.Parallel()
	east, west, north := newAuthority(t, "east"), newAuthority(t, "west"), newAuthority(t, "north")
	perDomain := spiffeTrust(t, map[string][]byte{"east": east.pem, "west": west.pem})
	for name, c := range map[string]struct {
		trust *tlsv3.Secret
		rules *tlsv3.CertificateValidationContext
		want  map[string]bool
	}{
		"bundle per domain": {perDomain, uri(startingWith("spiffe://")), map[string]bool{
			"east by east": true, "west by west": true, "east by west": false, "west by east": false,
			"north by north": false, "north by east": false, "nobody": false,
		}},
		"bundle per domain, one identity": {perDomain, uri(startingWith("spiffe://west/")), map[string]bool{
			"east by east": false, "west by west": true, "east by west": false, "west by east": false, "nobody": false,
		}},
		"bundles in one": {trustSecret("trust", slices.Concat(east.pem, west.pem)), uri(startingWith("spiffe://")), map[string]bool{
			"east by east": true, "west by west": true, "east by west": true, "north by east": true, "north by north": false, "nobody": false,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			port, _ := tlsServer(t, east, guarded(fromSDS(5*time.Second), c.rules), c.trust)
			signers := map[string]*authority{"east": east, "west": west, "north": north}
			for who, want := range c.want {
				domain, signer, _ := strings.Cut(who, " by ")
				var code int
				var err error
				if who == "nobody" {
					code, _, err = askTLS(port, nil, "")
				} else {
					own := signers[signer].issue(t, "spiffe://"+domain+"/client").tls(t)
					code, _, err = askTLS(port, &own, "")
				}
				if got := err == nil && code == http.StatusOK; got != want {
					t.Errorf("%s: %d %v, want %v", who, code, err, want)
				}
			}
		})
	}
}

// The same holds for a client that checks its server.
func TestSpikeClientChecksTrustDomain(t *testing.T) {
	t.Parallel()
	east, west := newAuthority(t, "east"), newAuthority(t, "west")
	server, p, s := start(t)
	e := everything{clusters: messages(staticCluster("unused", 1))}
	var ports []uint32
	for name, ca := range map[string]*authority{"honest": west, "liar": east} {
		upstream := serveTLSAs(t, ca.issue(t, "spiffe://west/app"), name)
		port := freePort(t)
		ports = append(ports, port)
		e.clusters = append(e.clusters, withClientTLS(t, staticCluster(name, upstream), guarded(fromSDS(5*time.Second), uri(startingWith("spiffe://west/app")))))
		e.listeners = append(e.listeners, listener(name, port, httpChain(t, connectionManager(t, name))))
		e.routes = append(e.routes, routes(name, name))
	}
	s.first(t, resourcev3.ClusterType)
	s.push(t, resourcev3.ClusterType, v1(e.clusters...)...)
	server.secretStream(t, "identity", 1).push(t, resourcev3.SecretType, v1(identitySecret("identity", east.issue(t, "spiffe://east/client")))...)
	server.secretStream(t, "trust", 1).push(t, resourcev3.SecretType,
		v1(spiffeTrust(t, map[string][]byte{"east": east.pem, "west": west.pem}))...)
	s.first(t, resourcev3.ListenerType)
	s.push(t, resourcev3.ListenerType, v1(e.listeners...)...)
	s.supply(t, resourcev3.RouteType, e.routes)
	p.untilLive(t)
	for i, l := range e.listeners {
		code, body, err := fetch(client(t), ports[i], "/")
		switch {
		case nameOf(l) == "honest" && (code != http.StatusOK || err != nil):
			t.Errorf("a server of west signed by west: %d %s %v", code, body, err)
		case nameOf(l) == "liar" && (code != http.StatusServiceUnavailable || p.stat(t, "cluster.liar.ssl.fail_verify_error") == 0):
			t.Errorf("a server of west signed by east: %d %s %v", code, body, err)
		}
	}
}

// Trust that says nothing is acknowledged and lets everybody in, with any certificate or none; a rule
// of the configuration on the names makes Envoy refuse it and keep the former.
func TestSpikeEmptyTrustFailsOpen(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "zone")
	own, foreign := ca.issue(t, "spiffe://east/client").tls(t), newAuthority(t, "foreign").issue(t, "spiffe://east/client").tls(t)
	for name, c := range map[string]struct {
		common *tlsv3.CommonTlsContext
		nack   string
		open   bool
	}{
		"secret alone":      {mutual(fromSDS(5 * time.Second)), "", true},
		"with rule on name": {guarded(fromSDS(5*time.Second), uri(startingWith("spiffe://"))), "SAN-based verification of peer certificates without trusted CA is insecure and not allowed", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			good := trustSecret("trust", ca.pem)
			port, trust := tlsServer(t, ca, c.common, good)
			admitted := func() (out []string) {
				if _, _, err := askTLS(port, &own, ""); err == nil {
					out = append(out, "own")
				}
				if _, _, err := askTLS(port, &foreign, ""); err == nil {
					out = append(out, "foreign")
				}
				if _, _, err := askTLS(port, nil, ""); err == nil {
					out = append(out, "nobody")
				}
				return out
			}
			for what, secret := range map[string]*tlsv3.Secret{
				"empty secret":           {Name: "trust"},
				"empty context":          {Name: "trust", Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{}}},
				"certificate, not trust": identitySecret("trust", ca.issue(t, "spiffe://east/app")),
			} {
				if got := admitted(); !slices.Equal(got, []string{"own"}) {
					t.Fatalf("with good trust: %v", got)
				}
				if text := trust.answer(t, trust.send(t, resourcev3.SecretType, nil, versioned(what, secret)...)); text != c.nack {
					t.Errorf("%s: %q, want %q", what, text, c.nack)
				}
				if got := admitted(); slices.Contains(got, "foreign") != c.open || slices.Contains(got, "nobody") != c.open {
					t.Errorf("%s admits %v", what, got)
				}
				trust.push(t, resourcev3.SecretType, v1(good)...)
			}
			// Taken away, the secret stays in force.
			if text := trust.answer(t, trust.send(t, resourcev3.SecretType, []string{"trust"})); text != "" {
				t.Error(text)
			}
			if got := admitted(); !slices.Equal(got, []string{"own"}) {
				t.Errorf("with the trust removed: %v", got)
			}
		})
	}
}
