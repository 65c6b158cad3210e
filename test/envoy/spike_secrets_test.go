package envoy

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/proto"
)

// secretStream waits for the newest of n streams that asked for a secret.
func (s *server) secretStream(t testing.TB, name string, n int) *stream {
	t.Helper()
	var found *stream
	until(t, fmt.Sprintf("%d secret streams for %s", n, name), func() (any, bool) {
		count := 0
		for _, st := range s.secretStreams() {
			if st.subscriptions(resourcev3.SecretType, name) > 0 {
				found = st
				count++
			}
		}
		return count, count == n
	})
	return found
}

// askTLS presents a certificate to a TLS listener and returns the status and the certificate of the other side.
func askTLS(port uint32, own *tls.Certificate, sni string) (int, *x509.Certificate, error) {
	conf := &tls.Config{InsecureSkipVerify: true, ServerName: sni} //nolint:gosec // the test looks at the certificate itself
	if own != nil {
		// Sent whatever issuers the server lists: a liar would not ask either.
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own, nil }
	}
	tr := &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr, Timeout: patience}).Get("https://" + address(port))
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	return resp.StatusCode, resp.TLS.PeerCertificates[0], nil
}

// throughTLS is a client listener that leads by mutual TLS to a server listener of the same Envoy,
// on a new connection for each request.
func throughTLS(t testing.TB, source *corev3.ConfigSource, in, out, upstream uint32) everything {
	once := edited(edsCluster("svc", 5*time.Second), func(c *clusterv3.Cluster) {
		c.MaxRequestsPerConnection = uint32Value(1) //nolint:staticcheck // short here, and still honoured
	})
	return everything{
		clusters: []proto.Message{
			staticCluster("app", upstream),
			withClientTLS(t, once, mutual(source)),
			withClientTLS(t, edsCluster("other", 5*time.Second), mutual(source)),
		},
		endpoints: messages(assignment("svc", in), assignment("other", in)),
		listeners: messages(
			listener("in", in, withServerTLS(t, httpChain(t, connectionManager(t, "in")), mutual(source))),
			listener("out", out, httpChain(t, connectionManager(t, "out"))),
		),
		routes: messages(routes("in", "app"), routes("out", "svc")),
	}
}

// SDS and ADS on one Unix socket, as the agent serves them.
func TestSpikeSecretsBesideADS(t *testing.T) {
	t.Parallel()
	server, p, s := start(t)
	ca := newAuthority(t, "first")
	in, out := freePort(t), freePort(t)
	e := throughTLS(t, fromSDS(5*time.Second), in, out, echo(t, "app"))

	// Envoy waits for its secrets: no listener is asked for, so that nothing is served without them.
	s.first(t, resourcev3.ClusterType)
	s.push(t, resourcev3.ClusterType, v1(e.clusters...)...)
	s.supply(t, resourcev3.EndpointType, e.endpoints)
	identity, trust := server.secretStream(t, "identity", 1), server.secretStream(t, "trust", 1)
	for _, r := range s.log() {
		if r.TypeUrl == resourcev3.ListenerType {
			t.Error("Envoy asked for listeners before its clusters had secrets")
		}
	}
	identity.push(t, resourcev3.SecretType, v1(identitySecret("identity", ca.issue(t, "spiffe://zone/app")))...)
	trust.push(t, resourcev3.SecretType, v1(trustSecret("trust", ca.pem))...)
	s.first(t, resourcev3.ListenerType)
	s.push(t, resourcev3.ListenerType, v1(e.listeners...)...)
	s.supply(t, resourcev3.RouteType, e.routes)
	p.untilLive(t)

	// One stream per secret, shared by all that name it with the same source; one connection for everything.
	if n := len(server.secretStreams()); n != 2 {
		t.Errorf("%d secret streams, want 2", n)
	}
	if n := p.stat(t, "cluster.xds.upstream_cx_total"); n != 1 {
		t.Errorf("%d connections to the agent, want 1", n)
	}
	h := client(t)
	if code, _, err := fetch(h, out, "/"); code != http.StatusOK {
		t.Fatalf("first request: %d %v", code, err)
	}

	// A refused secret is told on its own stream, and the former one goes on.
	for want, secret := range map[string]*tlsv3.Secret{
		"Failed to load certificate chain from <inline>": identitySecret("identity", pair{[]byte("no"), []byte("key")}),
		"Failed to load private key from <inline>, Cause: error:0b000074:X.509 certificate routines:OPENSSL_internal:KEY_VALUES_MISMATCH": identitySecret("identity",
			pair{ca.issue(t, "spiffe://zone/app").cert, ca.issue(t, "spiffe://zone/app").key}),
	} {
		if text := identity.answer(t, identity.send(t, resourcev3.SecretType, nil, versioned("bad", secret)...)); text != want {
			t.Errorf("a bad certificate: %q, want %q", text, want)
		}
	}
	if code, _, err := fetch(h, out, "/"); code != http.StatusOK {
		t.Errorf("with a refused certificate: %d %v", code, err)
	}
	// Envoy keeps the refused one all the same: a good secret that is used together with it is refused, too,
	// until the last good one was sent again.
	text := trust.answer(t, trust.send(t, resourcev3.SecretType, nil, versioned("2", trustSecret("trust", slices.Concat(ca.pem, newAuthority(t, "more").pem)))...))
	if !strings.HasPrefix(text, "Failed to load ") {
		t.Errorf("a good bundle beside a refused certificate: %q", text)
	}
	late := withClientTLS(t, staticCluster("late", 1), mutual(fromSDS(5*time.Second)))
	text = s.answer(t, s.send(t, resourcev3.ClusterType, nil, v1(late)...))
	if !strings.HasPrefix(text, "Error adding/updating cluster(s) late: Failed to load ") {
		t.Errorf("a new cluster beside a refused certificate: %q", text)
	}
	identity.push(t, resourcev3.SecretType, v1(identitySecret("identity", ca.issue(t, "spiffe://zone/app")))...)
	trust.push(t, resourcev3.SecretType, versioned("2", trustSecret("trust", ca.pem))...)

	// Rotation of the authority under load: both trusted, then the new certificate, then only the new one.
	load := startLoad(t, out, 2)
	before := ca
	for i := range 5 {
		after := newAuthority(t, fmt.Sprint("next ", i))
		version := fmt.Sprint("rotation ", i)
		trust.push(t, resourcev3.SecretType, versioned(version+" both", trustSecret("trust", slices.Concat(before.pem, after.pem)))...)
		renewed := after.issue(t, "spiffe://zone/app")
		identity.push(t, resourcev3.SecretType, versioned(version, identitySecret("identity", renewed))...)
		own := after.issue(t, "spiffe://zone/client").tls(t)
		until(t, "new connections see the new certificate", func() (any, bool) {
			code, got, err := askTLS(in, &own, "")
			return err, err == nil && code == http.StatusOK && got.Equal(renewed.tls(t).Leaf)
		})
		trust.push(t, resourcev3.SecretType, versioned(version, trustSecret("trust", after.pem))...)
		stale := before.issue(t, "spiffe://zone/client").tls(t)
		until(t, "the old authority is refused", func() (any, bool) {
			_, _, err := askTLS(in, &stale, "")
			return err, err != nil
		})
		before = after
	}
	n, failed := load.stop()
	t.Logf("%d requests over five rotations", n)
	if len(failed) > 0 {
		t.Errorf("failed: %v", failed)
	}

	// The agent restarts under load: Envoy keeps its secrets and says which it has.
	load = startLoad(t, out, 2)
	server.stop()
	if err := os.Remove(server.socket); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	gone := time.Now()
	server.listen(t)
	server.accept(t)
	identity, trust = server.secretStream(t, "identity", 2), server.secretStream(t, "trust", 2)
	t.Logf("all streams are back after %s", time.Since(gone))
	for name, st := range map[string]*stream{"identity": identity, "trust": trust} {
		if got := st.first(t, resourcev3.SecretType).InitialResourceVersions[name]; got != "rotation 4" {
			t.Errorf("%s returns with version %q", name, got)
		}
	}
	if n, failed := load.stop(); len(failed) > 0 || n == 0 {
		t.Errorf("%d requests while the agent restarted, failed: %v", n, failed)
	}
}

// The bytes of a secret's source are part of its identity. Changed, Envoy makes a second copy of the secret:
// over SDS it asks on a new stream; over ADS it asks for nothing and serves without the secret after the timeout.
func TestSpikeChangedSecretSource(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		source func(time.Duration) *corev3.ConfigSource
		asks   bool
	}{
		"over SDS": {fromSDS, true},
		"over ADS": {fromADS, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, p, s := start(t)
			ca, in := newAuthority(t, "any"), freePort(t)
			identity, trust := identitySecret("identity", ca.issue(t, "spiffe://zone/app")), trustSecret("trust", ca.pem)
			supply := func(streams int) {
				if !c.asks {
					s.supply(t, resourcev3.SecretType, messages(identity, trust))
					return
				}
				server.secretStream(t, "identity", streams).push(t, resourcev3.SecretType, v1(identity)...)
				server.secretStream(t, "trust", streams).push(t, resourcev3.SecretType, v1(trust)...)
			}
			with := func(fetch time.Duration) proto.Message {
				return listener("in", in, withServerTLS(t, httpChain(t, connectionManager(t, "in")), mutual(c.source(fetch))))
			}
			s.boot0(t, everything{
				clusters: messages(staticCluster("app", echo(t, "app"))), listeners: []proto.Message{with(time.Second)},
				routes: messages(routes("in", "app")),
			})
			supply(1)
			p.untilLive(t)

			const timeout = 600 * time.Millisecond
			s.push(t, resourcev3.ListenerType, versioned("2", with(timeout))...)
			if c.asks {
				supply(2)
			}
			took := p.untilStat(t, "listener_manager.total_listeners_warming", 0)
			own := ca.issue(t, "spiffe://zone/client").tls(t)
			code, _, err := askTLS(in, &own, "")
			if c.asks {
				if code != http.StatusOK || took > timeout {
					t.Errorf("over SDS: %d %v after %s", code, err, took)
				}
				return
			}
			if err == nil || s.subscriptions(resourcev3.SecretType, "identity") != 1 {
				t.Errorf("over ADS: %d after %s, asked %d times", code, took, s.subscriptions(resourcev3.SecretType, "identity"))
			}
			// Sent again unasked, the secret reaches the second copy, too.
			s.push(t, resourcev3.SecretType, v1(identity, trust)...)
			if code, _, err := askTLS(in, &own, ""); code != http.StatusOK {
				t.Errorf("after the secrets were sent again: %d %v", code, err)
			}
		})
	}
}

// An Envoy that starts before its agent connects as soon as its back-off lets it.
func TestSpikeEnvoyStartsBeforeItsServer(t *testing.T) {
	t.Parallel()
	binary(t)
	server := newServer(t)
	server.stop()
	p := startProxy(t, server.adsBootstrap())
	p.untilStat(t, "cluster.xds.upstream_cx_connect_fail", 1)
	server.listen(t)
	appeared := time.Now()
	s := server.accept(t)
	t.Logf("connected %s after the socket appeared", time.Since(appeared))
	s.boot(t, p, everything{})
	if state := p.mustGet(t, "/ready"); state != "LIVE\n" {
		t.Errorf("an empty configuration makes Envoy %q", state)
	}
}
