package zones

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/pki"
	"github.com/causeway-mesh/causeway/global-cp/globalcp"
	"github.com/causeway-mesh/causeway/test/testmesh"
	"github.com/causeway-mesh/causeway/zone-cp/zonecp"
)

// An operator keeps the server certificates of control planes in files, as certificates of an authority.
type operator struct {
	t      *testing.T
	dir    string
	issuer *pki.Issuer
}

func newOperator(t *testing.T) *operator {
	t.Helper()
	cert, key, err := pki.NewRoot("an operator", "", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	o := &operator{t, t.TempDir(), issuer(t, cert, key)}
	o.write("ca.pem", cert)
	return o
}

func (o *operator) file(name string) string { return filepath.Join(o.dir, name) }

func (o *operator) write(name string, data []byte) {
	o.t.Helper()
	if err := errors.Join(os.WriteFile(o.file("new"), data, 0o600), os.Rename(o.file("new"), o.file(name))); err != nil {
		o.t.Fatal(err)
	}
}

// replace writes a new certificate with a key of its own for a control plane, and says its serial number.
func (o *operator) replace(name string) string {
	o.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		o.t.Fatal(err)
	}
	serial, err := pki.NewSerial()
	if err != nil {
		o.t.Fatal(err)
	}
	der, err := o.issuer.Create(&x509.Certificate{
		SerialNumber: serial, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, key.Public())
	if err != nil {
		o.t.Fatal(err)
	}
	text, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		o.t.Fatal(err)
	}
	// The authority stands last, as join tokens want it. For a moment certificate and key do not fit.
	o.write(name+".pem", append(pki.EncodePEM("CERTIFICATE", der), o.issuer.Bundle()...))
	o.write(name+".key", pki.EncodePEM("PRIVATE KEY", text))
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		o.t.Fatal(err)
	}
	return pki.Serial(leaf)
}

// served is the serial number of the certificate that a new connection to an address gets, whichever authority signed it.
func (o *operator) served(address string) string {
	c, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	return pki.Serial(c.ConnectionState().PeerCertificates[0])
}

func (o *operator) untilServed(serial string, addresses ...string) {
	o.t.Helper()
	for _, a := range addresses {
		until(o.t, "the new certificate is served at "+a, func() (any, bool) {
			s := o.served(a)
			return s, s == serial
		})
	}
}

// connections of the proxy of a workload to its zone, and of the zone to global, that are open.
func connections(t *testing.T, f *testmesh.Federation, m *testmesh.Mesh, workload string) string {
	t.Helper()
	var dp struct{ DataplaneInsight mesh.DataplaneInsight }
	var zone struct{ ZoneInsight mesh.ZoneInsight }
	m.Overview(t, workload, &dp)
	f.ZoneOverview(t, m.Zone.Name, &zone)
	var ids []string
	for _, s := range dp.DataplaneInsight.Subscriptions {
		if s.IsOnline() {
			ids = append(ids, workload+" "+s.ID)
		}
	}
	for _, s := range zone.ZoneInsight.Subscriptions {
		if s.DisconnectTime.IsZero() {
			ids = append(ids, m.Zone.Name+" "+s.ID)
		}
	}
	if len(ids) != 2 {
		t.Fatalf("%v are connected, want the proxy and its zone", ids)
	}
	return strings.Join(ids, ", ")
}

// The certificates that global and a zone serve are replaced on disk. New connections see the new ones; those that were there before, of the zone, of agents
// and of their Envoys, go on and carry what is new; no request fails. Files that cannot be served are told and change nothing, until they are right.
//
// Acceptance: U certs rotation
func TestServerCertificatesAreReplaced(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	first := map[string]string{"global": o.replace("global"), "east": o.replace("east")}
	var line *wire
	f := testmesh.Federate(t, testmesh.FederationOptions{
		CAFile:          o.file("ca.pem"),
		ConfigureGlobal: func(c *globalcp.Config) { c.TLS.CertFile, c.TLS.KeyFile = o.file("global.pem"), o.file("global.key") },
		ConfigureZone: func(_ string, c *zonecp.Config) {
			c.TLS.CertFile, c.TLS.KeyFile = o.file("east.pem"), o.file("east.key")
		},
		Through: func(_, global string) string {
			line = newWire(t, global)
			return line.address()
		},
	}, "east")
	east := f.Zone("east")
	f.Apply(t, identities+"---"+permit("web", "web", "spiffe://default.*"))
	untilPermits(t, east, "web")
	web := east.Workload(t, testmesh.Workload{Name: "web-1"})
	client := east.Workload(t, testmesh.Workload{Name: "client-1"})
	client.Reach(t, "web")
	load := east.Load(t, client, testmesh.Request{Service: "web"}, 50)
	before := connections(t, f, east, "client-1")
	zone, global := []string{east.ControlPlane().AgentsAddress(), east.ControlPlane().APIAddress()}, []string{f.GlobalPlane().ZonesAddress(), f.GlobalPlane().APIAddress()}
	o.untilServed(first["east"], zone...)
	o.untilServed(first["global"], global...)

	o.untilServed(o.replace("east"), zone...)
	o.untilServed(o.replace("global"), global...)
	goOn := func(policy string) { // over the connections that were there before
		t.Helper()
		f.Apply(t, named("MeshTimeout", policy)+"---"+permit(policy, policy, "spiffe://default.*"))
		untilStored(t, east, "MeshTimeout", policy, "", true)
		app := testmesh.Workload{Name: policy + "-1"}
		east.Workload(t, app) // an agent that connects anew
		client.Reach(t, policy)
		if now := connections(t, f, east, "client-1"); now != before {
			t.Errorf("connected are %s, were %s", now, before)
		}
	}
	goOn("slow")

	good := o.replace("east")
	o.untilServed(good, zone...)
	o.write("east.key", []byte("no key"))
	until(t, "the zone says that its files cannot be served", func() (any, bool) {
		o.untilServed(good, zone...)
		return nil, strings.Contains(east.Log(), "the server certificate is not replaced")
	})
	goOn("slower")
	o.untilServed(o.replace("east"), zone...)
	load.Stop().NoFailure(t)

	// Whoever connects again knows the new certificates, too.
	line.cut()
	f.UntilLinked(t, "east")
	web.StopAgent(t)
	web.StartAgent(t)
	client.Reach(t, "web")
}
