package demo

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/causeway-mesh/causeway/api/pki"
)

// outside is the name of the service outside of the mesh: stock asks it for rates, through the egress of its zone and over TLS.
const outside = "rates"

// The ports of what lies outside, of egresses, and where sidecars listen for calls to the outside.
const (
	outsideHost  = 2 // in the row of global
	ratesPort    = 8443
	egressPort   = 10002
	outboundPort = 8083
)

// An outsider is the service outside of the mesh. It has a certificate of an authority that nobody trusts by itself.
type outsider struct {
	app  *http.Server
	cert []byte // in PEM
}

// serveOutside starts it.
func (d *Demo) serveOutside(ctx context.Context) error {
	der, key, err := selfSigned(net.ParseIP(d.ip(0, outsideHost)))
	if err != nil {
		return fmt.Errorf("start %s: %w", outside, err)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", d.at(0, outsideHost, ratesPort))
	if err != nil {
		return fmt.Errorf("start %s: %w", outside, err)
	}
	o := &outsider{cert: pki.EncodePEM("CERTIFICATE", der)}
	o.app = &http.Server{
		ReadHeaderTimeout: 5 * time.Second, ErrorLog: log.New(io.Discard, "", 0),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			reply(w, &answer{Status: http.StatusOK, Service: outside, Zone: "outside", Instance: outside, Caller: caller(r.Header.Get("X-Forwarded-Client-Cert"))})
		}),
	}
	l = tls.NewListener(l, &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	d.outsider = o
	d.work.Go(func() {
		_ = o.app.Serve(l) // ends when it is closed
	})
	return nil
}

func (o *outsider) close() {
	if o != nil {
		_ = o.app.Close()
	}
}

func selfSigned(ip net.IP) (der []byte, key *ecdsa.PrivateKey, err error) {
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, nil, err
	}
	serial, err := pki.NewSerial()
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: outside}, IPAddresses: []net.IP{ip},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(30 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err = x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return der, key, err
}

// external declares the service outside, who may ask it, and whom egresses trust to be it.
func (d *Demo) external() string {
	var ids string
	for i, z := range zoneNames {
		if i > 0 {
			ids += ", "
		}
		ids += fmt.Sprintf("{spiffeID: {type: Exact, value: %q}}", spiffeID(z, services[len(services)-1]))
	}
	return fmt.Sprintf(`
type: Secret
mesh: default
name: %[1]s-authority
data: %[2]s
---
type: MeshExternalService
mesh: default
name: %[1]s
spec:
  match: {port: 443, protocol: http}
  endpoints: [{address: %[3]s, port: %[4]d}]
  tls:
    enabled: true
    verification: {caCert: {type: Secret, secretRef: {kind: Secret, name: %[1]s-authority}}}
---
type: MeshTrafficPermission
mesh: default
name: %[5]s-to-%[1]s
spec:
  targetRef: {kind: Dataplane, labels: {kuma.io/workload: egress}}
  rules: [{default: {allow: [%[6]s]}}]
`, outside, base64.StdEncoding.EncodeToString(d.outsider.cert), d.ip(0, outsideHost), ratesPort, services[len(services)-1], ids)
}

func (z *zone) egressManifest() string {
	ip := z.d.ip(z.row, z.egress.host)
	return fmt.Sprintf("type: Dataplane\nmesh: default\nname: %s\nlabels: {kuma.io/workload: egress}\nnetworking:\n  address: %s\n  listeners:\n  - {type: ZoneEgress, name: out, address: %s, port: %d}\n",
		z.egress.name, ip, ip, egressPort)
}

// askOutside has an instance ask the service outside of the mesh.
func (i *instance) askOutside(ctx context.Context) *answer {
	return call(ctx, "http://"+i.at(appPort)+"/"+outside, nil)
}

// untilOutside waits until what the first instances of a service hear from outside of the mesh is a status.
func (d *Demo) untilOutside(service string, status int, of ...*zone) act {
	return func(ctx context.Context) error {
		return d.until(ctx, fmt.Sprintf("%s to get %d from outside of the mesh", service, status), func() (string, bool) {
			for _, z := range of {
				a := z.service(service)[0].askOutside(ctx)
				if a.Next == nil || a.Next.Status != status {
					return z.name + ": " + a.String(), false
				}
			}
			return "", true
		})
	}
}
