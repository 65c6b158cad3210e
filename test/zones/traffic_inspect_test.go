package zones

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/client"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/test/testmesh"
)

// asked is a control plane that is asked about a proxy, by the name that the proxy has there.
type asked struct {
	by   string
	api  *client.Client
	name string
}

// both are the control planes of global and of the proxy's zone.
func both(f *testmesh.Federation, zone *testmesh.Mesh, proxy string) []asked {
	return []asked{
		{"global", f.Client(), resource.SyncedName("default", proxy, zone.Zone.Name, "")},
		{"zone", zone.Client(), proxy},
	}
}

func (a asked) try(t testing.TB, what string) (string, error) {
	t.Helper()
	r, err := a.api.Do(t.Context(), client.Request{Method: http.MethodGet, Path: "/meshes/default/dataplanes/" + a.name + "/" + what})
	if err != nil {
		return "", err
	}
	return string(r.Body), nil
}

func (a asked) get(t testing.TB, what string) string {
	t.Helper()
	text, err := a.try(t, what)
	if err != nil {
		t.Fatalf("ask %s for %s of %s: %v", a.by, what, a.name, err)
	}
	return text
}

// What an Envoy has, counts and knows is shown by the control planes of global and of its zone alike, for a workload, an ingress and an
// egress; keys are shown by none.
//
// Acceptance: U/M/K inspect: configuration, statistics and clusters of proxies through global and zone
func TestWhatEnvoySays(t *testing.T) {
	t.Parallel()
	f := testmesh.Federate(t, testmesh.FederationOptions{}, "east", "west")
	east, west := f.Zone("east"), f.Zone("west")
	outside := testmesh.Outside(t, "outside", mesh.HTTP, "", nil)
	cert, key := selfSigned(t)
	f.Apply(t, identities+fmt.Sprintf(`---
type: MeshExternalService
mesh: default
name: outside
spec: {match: {port: 80, protocol: http}, endpoints: [{address: %s, port: %d}]}
---
type: Secret
mesh: default
name: cert
data: %s
---
type: Secret
mesh: default
name: key
data: %s
---
type: MeshExternalService
mesh: default
name: secured
spec:
  match: {port: 80, protocol: http}
  endpoints: [{address: 127.0.0.1, port: 9}]
  tls:
    enabled: true
    verification:
      serverName: secured.example
      clientCert: {type: Secret, secretRef: {kind: Secret, name: cert}}
      clientKey: {type: Secret, secretRef: {kind: Secret, name: key}}
---
type: MeshTrafficPermission
mesh: default
name: everybody
spec: {rules: [{default: {allow: [{spiffeID: {type: Prefix, value: "spiffe://"}}]}}]}
`, outside.Host(), outside.Port(), base64.StdEncoding.EncodeToString(cert), base64.StdEncoding.EncodeToString(key)))
	ingress := west.Ingress(t, testmesh.Workload{Name: "ingress-1"})
	far := west.Workload(t, testmesh.Workload{Name: "far-1"})
	egress := east.Egress(t, testmesh.Workload{Name: "egress-1"})
	client := east.Workload(t, testmesh.Workload{Name: "client-1"})
	client.Reach(t, "far.west")
	client.Reach(t, "outside")

	for _, p := range []struct {
		zone  *testmesh.Mesh
		proxy *testmesh.Instance
		// listener is part of the name of a listener, stat of a counter, and address an endpoint.
		listener, stat, address string
	}{
		{east, client, "kri_msvc_default_west__far_", "upstream_rq_200: 1", ingress.Host},
		{east, egress, "self_zoneegress_dp_", "kri_extsvc_default___outside_80.upstream_rq_200: 1", fmt.Sprintf("%s:%d", outside.Host(), outside.Port())},
		{west, ingress, "self_zoneingress_dp_", "sni.msvc.default.west.far.", far.Direct()},
	} {
		for _, a := range both(f, p.zone, p.proxy.Name) {
			t.Run(p.proxy.Name+" by "+a.by, func(t *testing.T) {
				dump := a.get(t, "xds?include_eds")
				var configs struct {
					Configs []map[string]any `json:"configs"`
				}
				if err := json.Unmarshal([]byte(dump), &configs); err != nil || len(configs.Configs) < 5 {
					t.Fatalf("%d parts of the configuration, %v", len(configs.Configs), err)
				}
				host, _, _ := strings.Cut(p.address, ":")
				for _, part := range []string{p.listener, "EndpointsConfigDump", host} {
					if !strings.Contains(dump, part) {
						t.Errorf("the configuration does not contain %q", part)
					}
				}
				if strings.Contains(a.get(t, "xds"), "EndpointsConfigDump") {
					t.Error("endpoints are shown that nobody asked for")
				}
				shown := keysIn(configs.Configs)
				if len(shown) == 0 && p.proxy != ingress {
					t.Error("no certificate is shown at all")
				}
				for _, k := range shown {
					if k != "[redacted]" {
						t.Errorf("a key is shown: %.40s", k)
					}
				}
				if p.proxy == egress && !strings.Contains(dump, "certificate_kri_extsvc_default___secured") {
					t.Error("the certificate for an external service is not shown")
				}
				if stats := a.get(t, "stats"); !strings.Contains(stats, p.stat) {
					t.Errorf("no %q in statistics of %d bytes", p.stat, len(stats))
				}
				if used, all := len(a.get(t, "stats")), len(a.get(t, "stats?usedonly=false")); all <= used {
					t.Errorf("%d bytes of all statistics, %d of used ones", all, used)
				}
				var stats struct {
					Stats []any `json:"stats"`
				}
				if err := json.Unmarshal([]byte(a.get(t, "stats?format=json")), &stats); err != nil || len(stats.Stats) == 0 {
					t.Errorf("%d statistics as JSON, %v", len(stats.Stats), err)
				}
				if text := a.get(t, "clusters"); !strings.Contains(text, p.address) {
					t.Errorf("clusters without %s: %s", p.address, text)
				}
				var clusters struct {
					Statuses []any `json:"cluster_statuses"`
				}
				if err := json.Unmarshal([]byte(a.get(t, "clusters?format=json")), &clusters); err != nil || len(clusters.Statuses) == 0 {
					t.Errorf("%d clusters as JSON, %v", len(clusters.Statuses), err)
				}
			})
		}
	}

	t.Run("who is not connected is named", func(t *testing.T) {
		client.StopAgent(t)
		for _, a := range both(f, east, "client-1") {
			east.Until(t, a.by+" says that the agent is gone", func() (any, bool) {
				_, err := a.try(t, "stats")
				return err, err != nil && (strings.Contains(err.Error(), "the agent of dataplane client-1 is not connected to zone east since") ||
					strings.Contains(err.Error(), "Not found")) // a Dataplane that said goodbye does not stay
			})
		}
		west.Halt(t)
		east.Until(t, "global says that the zone is gone", func() (any, bool) {
			_, err := both(f, west, "far-1")[0].try(t, "clusters")
			return err, err != nil && strings.Contains(err.Error(), "zone west is not connected")
		})
	})
}

// keysIn lists the private keys in a dump of configuration, as text.
func keysIn(v any) []string {
	var out []string
	switch v := v.(type) {
	case []map[string]any:
		for _, x := range v {
			out = append(out, keysIn(x)...)
		}
	case []any:
		for _, x := range v {
			out = append(out, keysIn(x)...)
		}
	case map[string]any:
		for name, x := range v {
			if source, ok := x.(map[string]any); ok && name == "private_key" {
				for form, text := range source {
					s := fmt.Sprint(text)
					if b, err := base64.StdEncoding.DecodeString(s); err == nil && form == "inline_bytes" {
						s = string(b)
					}
					out = append(out, s)
				}
				continue
			}
			out = append(out, keysIn(x)...)
		}
	}
	return out
}

// selfSigned makes a certificate and its key, in PEM.
func selfSigned(t *testing.T) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "egress"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
}
