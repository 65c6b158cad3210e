package agents

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/causeway-mesh/causeway/api/agentapi"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/token"
)

const egressYAML = `
type: Dataplane
mesh: default
name: egress-1
labels: {kuma.io/workload: egress}
networking:
  address: 127.0.0.1
  listeners: [{type: ZoneEgress, address: 127.0.0.1, port: 10002}]
`

// Secrets of external services reach egresses, with what changes, and nobody else.
func TestExternalSecretsReachEgressesOnly(t *testing.T) {
	z := newWorld(t).start()
	cert, key := certificatePEM(t)
	z.apply(secretYAML("ca", cert) + "---" + secretYAML("cert", cert) + "---" + secretYAML("key", key) + `---
type: MeshExternalService
mesh: default
name: bank
spec:
  match: {port: 443}
  endpoints: [{address: 192.0.2.1, port: 443}]
  tls:
    enabled: true
    verification:
      caCert: {type: Secret, secretRef: {kind: Secret, name: ca}}
      clientCert: {type: Secret, secretRef: {kind: Secret, name: cert}}
      clientKey: {type: Secret, secretRef: {kind: Secret, name: key}}
`)
	_, err := z.agent("x").enroll(z.token(token.Dataplane{Name: "egress-1", Workload: "egress"}), func(r *agentapi.EnrollRequest) { r.Dataplane = []byte(egressYAML) })
	wantCode(t, err, codes.PermissionDenied, "the token is not for an egress", "--tag kuma.io/listener-zoneegress=enabled")
	role := map[string][]string{resource.LabelZoneEgress: {"enabled"}}
	open := func(instance, name, workload, yaml string, tags map[string][]string) *stream {
		a := z.agent(instance)
		if _, err := a.enroll(z.token(token.Dataplane{Name: name, Workload: workload, Tags: tags}), func(r *agentapi.EnrollRequest) { r.Dataplane = []byte(yaml) }); err != nil {
			t.Fatal(err)
		}
		s := a.open()
		s.welcome()
		return s
	}
	isExternal := func(m *agentapi.ZoneMessage) bool { return m.GetExternal() != nil }
	egress := open("e", "egress-1", "egress", egressYAML, role)
	got := egress.next("secrets of external services", isExternal).GetExternal()
	if n := len(got.GetSecrets()); n != 2 || !got.GetComplete() {
		t.Fatalf("%d secrets, complete: %v", n, got.GetComplete())
	}
	if x := got.GetSecrets()[1]; x.GetName() != "certificate_kri_extsvc_default___bank_" || string(x.GetKey()) != string(key) {
		t.Errorf("got %s", x.GetName())
	}

	web := open("w", "web-1", "web", webYAML, nil)
	cert2, key2 := certificatePEM(t)
	z.apply(secretYAML("cert", cert2) + "---" + secretYAML("key", key2))
	// Between the two writes they do not belong together, so nothing can be used.
	egress.next("the changed secret", func(m *agentapi.ZoneMessage) bool {
		return slices.ContainsFunc(m.GetExternal().GetSecrets(), func(x *agentapi.ExternalSecret) bool { return string(x.GetKey()) == string(key2) })
	})
	// The other session is told of an identity that comes now, and of nothing before.
	z.apply(fmt.Sprintf("type: MeshTrust\nmesh: default\nname: other\nspec:\n  trustDomain: other.mesh\n  caBundles: [{type: Pem, pem: {value: %q}}]", string(cert)))
	m := web.next("anything that follows", func(m *agentapi.ZoneMessage) bool {
		return m.GetExternal() != nil || m.GetTrust() != nil && len(m.GetTrust().GetBundles()) > 1
	})
	if m.GetExternal() != nil {
		t.Error("a workload that is no egress got secrets of external services")
	}
}

func secretYAML(name string, data []byte) string {
	return fmt.Sprintf("\ntype: Secret\nmesh: default\nname: %s\ndata: %s\n", name, base64.StdEncoding.EncodeToString(data))
}

func certificatePEM(t testing.TB) (cert, key []byte) {
	t.Helper()
	k := newKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
}
