package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/api/agentapi"
)

// maxMessage bounds what the agent accepts of the zone beside xDS: trust bundles are the largest.
const maxMessage = 16 << 20

// maxToken bounds the token file.
const maxToken = 64 << 10

// trustIn says how the zone's server certificate is verified.
func (c ZoneConfig) trustIn(address string) (*tls.Config, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("zone address %q: %w", address, err)
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS13, ServerName: host, NextProtos: []string{"h2"}}
	switch {
	case c.CAPin != "":
		pin, err := hex.DecodeString(c.CAPin)
		if err != nil {
			return nil, fmt.Errorf("zone.caPin: %w", err)
		}
		// Not less secure: the whole verification happens in pinned.
		cfg.InsecureSkipVerify = true
		cfg.VerifyConnection = func(s tls.ConnectionState) error { return pinned(s, pin, host) }
	case c.CAFile != "":
		text, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("zone.caFile: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("zone.caFile: %s holds no certificate in PEM", c.CAFile)
		}
	}
	return cfg, nil
}

// pinned verifies a server by the one authority whose certificate, sent along, has the pinned hash.
func pinned(s tls.ConnectionState, pin []byte, host string) error {
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	found := false
	for _, c := range s.PeerCertificates {
		sum := sha256.Sum256(c.Raw)
		if bytes.Equal(sum[:], pin) {
			roots.AddCert(c)
			found = true
		} else {
			between.AddCert(c)
		}
	}
	if !found {
		return errors.New("the server shows no certificate with the hash zone.caPin; compare it with the zone's authority")
	}
	_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{DNSName: host, Roots: roots, Intermediates: between})
	return err
}

// dial connects to one address of the zone, as nobody or with a control certificate.
func (a *agent) dial(address string, with *held) (*grpc.ClientConn, error) {
	cfg, err := a.cfg.Zone.trustIn(address)
	if err != nil {
		return nil, err
	}
	if with != nil {
		// Always sent, also when the server's list of authorities would not ask for it: its refusal is clearer than silence.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return with.certificate(), nil }
	}
	return grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(credentials.NewTLS(cfg)),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}),
		grpc.WithDisableServiceConfig(), grpc.WithNoProxy(),
	)
}

// enroll trades the token for a control certificate.
func (l *link) enroll(ctx context.Context, address string) error {
	token, err := readToken(l.a.cfg.Dataplane.TokenFile)
	if err != nil {
		return &permanent{err}
	}
	conn, err := l.a.dial(address, nil)
	if err != nil {
		return &permanent{err}
	}
	defer conn.Close()
	key, der, err := request()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, enrollTimeout)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	out, err := agentapi.NewAgentClient(conn).Enroll(ctx, &agentapi.EnrollRequest{
		ControlRequest: der, Dataplane: l.a.self.yaml, Mesh: l.a.self.mesh, Name: l.a.self.name,
		Instance: l.a.instance, Place: l.a.place, OutboundBlock: l.a.outboundBlock(), ClockMs: time.Now().UnixMilli(),
		WithoutIpv6: l.a.self.transparent && !hasAddress(netip.IPv6Unspecified()),
	})
	if err != nil {
		return classify(err)
	}
	for _, w := range out.GetWarnings() {
		l.a.log.Warn("the zone says", "warning", w)
	}
	if out.GetMesh() != l.a.self.mesh || out.GetName() != l.a.self.name {
		return &permanent{fmt.Errorf("the zone registered %s in mesh %s instead", out.GetName(), out.GetMesh())}
	}
	h, err := control(key, out.GetControlChain(), out.GetLifetimeMs())
	if err != nil {
		return err
	}
	l.control = h
	l.a.log.Info("enrolled", "zone", out.GetZone(), "address", address)
	return nil
}

func readToken(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read the dataplane token: %w", err)
	}
	defer f.Close()
	b := make([]byte, maxToken+1)
	n, err := f.Read(b)
	token := strings.TrimSpace(string(b[:n]))
	if n > maxToken || token == "" || strings.ContainsAny(token, " \r\n\t") {
		return "", fmt.Errorf("%s holds no token; `causeway token create dataplane` makes one", path)
	}
	if err != nil {
		return "", fmt.Errorf("read the dataplane token: %w", err)
	}
	return token, nil
}

// permanent is an error that waiting does not heal.
type permanent struct{ err error }

func (p *permanent) Error() string { return p.err.Error() }
func (p *permanent) Unwrap() error { return p.err }

// plain takes the frame off an error that the zone sent for people.
func plain(err error) error {
	if s, ok := status.FromError(err); ok {
		return errors.New(s.Message())
	}
	return err
}
