package uplink

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/pki"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/token"
	"github.com/causeway-mesh/causeway/api/zonesync"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/store/exchange"
)

// CredentialSecret is the GlobalSecret that holds the credential; it is sealed, and never leaves the zone.
const CredentialSecret = "uplink-credential"

// A credential is what the zone got when it joined. It is never logged.
type credential struct {
	Zone   string `json:"zone"`
	ZoneID string `json:"zoneId"`
	// Global is the id of global's store: the zone talks to no other.
	Global    string    `json:"global"`
	Addresses []string  `json:"addresses"`
	Authority []byte    `json:"authority"` // in PEM, that of global's server certificate
	Chain     []byte    `json:"chain"`     // in PEM, leaf first
	Key       []byte    `json:"key"`       // in PEM
	Until     time.Time `json:"until"`
	// Token is the id of the join token that was used, so that it is not tried again.
	Token string `json:"token"`

	pair  tls.Certificate
	began time.Time // by this process's clock, for renewal by elapsed time
	life  time.Duration
}

// String keeps keys out of logs.
func (c *credential) String() string { return "credential of zone " + c.Zone }

func (c *credential) load() error {
	pair, err := tls.X509KeyPair(c.Chain, c.Key)
	if err != nil {
		return errors.New("its certificate and key do not fit") // the cause may hold key material
	}
	c.pair = pair
	return nil
}

// address is the one to try now: they take turns.
func (c *credential) address(turn int, configured []string) string {
	list := c.Addresses
	if len(configured) > 0 {
		list = configured
	}
	return list[turn%len(list)]
}

func (c *credential) tls(address string, now func() time.Time) *tls.Config {
	host, _, _ := net.SplitHostPort(address)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.Authority)
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, ServerName: host, Certificates: []tls.Certificate{c.pair},
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection does it, with a clock that may be behind
		VerifyConnection: func(s tls.ConnectionState) error {
			between := x509.NewCertPool()
			for _, cert := range s.PeerCertificates[1:] {
				between.AddCert(cert)
			}
			return verifyServer(s.PeerCertificates, host, roots, between, now())
		},
	}
}

// verifyServer checks the chain and the name of a server. A certificate that is not valid yet is one of a host whose clock is ahead of
// this one: that is told to people, and keeps nobody apart.
func verifyServer(chain []*x509.Certificate, host string, roots, between *x509.CertPool, now time.Time) error {
	for _, cert := range chain {
		if cert.NotBefore.After(now) {
			now = cert.NotBefore
		}
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: host, CurrentTime: now})
	return err
}

var credentialKey = resource.Key{Type: mesh.TypeGlobalSecret, Name: CredentialSecret}

// credential reads the stored credential, or joins with the configured token.
func (u *Uplink) credential(ctx context.Context, turn int) (*credential, error) {
	stored, err := u.stored()
	if err != nil {
		return nil, err
	}
	text, err := u.cfg.JoinToken()
	if err != nil {
		return nil, fmt.Errorf("read the join token: %w", err)
	}
	u.tried = text
	if text == "" {
		if stored == nil {
			return nil, fmt.Errorf("the zone has not joined yet: create a token with \"causeway zone connect %s\" and set global.joinTokenFile", u.cfg.Zone)
		}
		return stored, nil
	}
	t, err := token.ParseJoinToken(text)
	if err != nil {
		return nil, fmt.Errorf("global.joinTokenFile: %w", err)
	}
	switch {
	case t.Zone != u.cfg.Zone:
		return nil, fmt.Errorf("global.joinTokenFile: the token is for zone %s, this is zone %s", resource.Quote(t.Zone), resource.Quote(u.cfg.Zone))
	case stored != nil && stored.Token == t.ID:
		return stored, nil // used already
	}
	joined, err := u.join(ctx, text, t, turn)
	if err != nil && stored != nil && answered(err) {
		return stored, nil // an old token that still lies there does not keep a member out
	}
	return joined, err
}

func (u *Uplink) stored() (*credential, error) {
	r, ok := u.cfg.Catalog.Snapshot().Get(credentialKey)
	if !ok {
		return nil, nil
	}
	spec, ok := r.Spec.(*mesh.GlobalSecret)
	c := &credential{}
	if !ok || json.Unmarshal(spec.Data, c) != nil || len(c.Addresses) == 0 {
		return nil, fmt.Errorf("GlobalSecret %s cannot be read; delete it and join again", CredentialSecret)
	}
	if c.Key == nil {
		return nil, nil // forgotten
	}
	if err := c.load(); err != nil {
		return nil, fmt.Errorf("GlobalSecret %s: %w; delete it and join again", CredentialSecret, err)
	}
	c.began, c.life = time.Now(), c.Until.Sub(u.cfg.Now())
	return c, nil
}

// An attempt is the key with which a token is used. It stays the same until the token was traded: when the answer is lost, global gives it
// again to the same key and to nobody else.
type attempt struct {
	token        string
	key, request []byte
}

func (a *attempt) prepare(token, zone string) error {
	if a.token == token {
		return nil
	}
	key, request, err := newRequest(zone)
	if err != nil {
		return err
	}
	*a = attempt{token, key, request}
	return nil
}

// join trades the token for a credential. Global is recognised by the pin in the token and by nothing else.
func (u *Uplink) join(ctx context.Context, text string, t token.JoinToken, turn int) (*credential, error) {
	if err := u.attempt.prepare(t.ID, u.cfg.Zone); err != nil {
		return nil, err
	}
	key, request := u.attempt.key, u.attempt.request
	addresses := t.Addresses
	if len(u.cfg.Addresses) > 0 {
		addresses = u.cfg.Addresses
	}
	address := addresses[turn%len(addresses)]
	var authority *x509.Certificate
	conn, err := u.dial(address, pinned(address, t.Pin, u.cfg.Now, &authority))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	reply, err := zonesync.NewLinkClient(conn).Join(ctx, &zonesync.JoinRequest{
		Token: text, Request: request, Lineage: exchange.LineageOf(u.cfg.Catalog.Snapshot().Position().Lineage), ClockMs: u.cfg.Now().UnixMilli(),
	})
	if err != nil {
		return nil, fmt.Errorf("join global at %s: %w", address, err)
	}
	c := &credential{
		Zone: reply.GetZone(), ZoneID: reply.GetZoneId(), Global: reply.GetLineage().GetId(), Addresses: t.Addresses,
		Authority: pki.EncodePEM("CERTIFICATE", authority.Raw), Key: key, Token: t.ID,
	}
	c.renew(reply.GetChain(), time.Duration(reply.GetLifetimeMs())*time.Millisecond, u.cfg.Now())
	if err := c.load(); err != nil {
		return nil, fmt.Errorf("join global at %s: %w", address, err)
	}
	if err := u.keepCredential(ctx, c, "the zone joined global"); err != nil {
		return nil, err
	}
	u.cfg.Log.Info("the zone has joined global", "address", address, "id", c.ZoneID)
	return c, nil
}

// renew takes a new certificate chain in DER.
func (c *credential) renew(chain [][]byte, life time.Duration, now time.Time) {
	c.Chain = nil
	for _, der := range chain {
		c.Chain = append(c.Chain, pki.EncodePEM("CERTIFICATE", der)...)
	}
	c.began, c.life, c.Until = time.Now(), life, now.Add(life).UTC()
}

// keepCredential makes a credential durable.
func (u *Uplink) keepCredential(ctx context.Context, c *credential, reason string) error {
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	r, err := resource.WithSpec(resource.Meta{Type: credentialKey.Type, Name: credentialKey.Name, Labels: map[string]string{
		resource.LabelDisplayName: credentialKey.Name, resource.LabelOrigin: resource.OriginZone, resource.LabelZone: u.cfg.Zone,
		resource.LabelKDSSync: "disabled",
	}}, &mesh.GlobalSecret{Data: data})
	if err != nil {
		return err
	}
	_, err = u.cfg.Catalog.Commit(ctx, catalog.Batch{
		Author: author, Reason: reason, Fence: u.fence(), Puts: []catalog.Put{{Resource: r, Expect: store.ExpectAny}},
	})
	if err != nil {
		return fmt.Errorf("keep the credential: %w", err)
	}
	return nil
}

// forget drops a credential that global does not accept, unless it was replaced meanwhile. What was used up stays known.
func (u *Uplink) forget(ctx context.Context, c *credential) error {
	now, err := u.stored()
	if err != nil || now == nil || !bytes.Equal(now.Chain, c.Chain) {
		return err
	}
	gone := *c
	gone.Key, gone.Chain = nil, nil
	return u.keepCredential(ctx, &gone, "global does not accept the credential any more")
}

// answered says that an error is global's answer about the token, not a failure to reach it.
func answered(err error) bool { return strings.Contains(err.Error(), "join token is refused") }

// newRequest makes a key in PEM and a signing request for it in DER.
func newRequest(zone string) (key, request []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, nil, fmt.Errorf("encode the key: %w", err)
	}
	request, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, k)
	if err != nil {
		return nil, nil, fmt.Errorf("make a signing request for zone %s: %w", zone, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), request, nil
}

// pinned accepts a server whose chain leads to the authority with the pin, and says which one that is.
func pinned(address, pin string, now func() time.Time, found **x509.Certificate) *tls.Config {
	host, _, _ := net.SplitHostPort(address)
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, ServerName: host,
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection does it, against the pinned authority
		VerifyConnection: func(s tls.ConnectionState) error {
			roots := x509.NewCertPool()
			var authority *x509.Certificate
			between := x509.NewCertPool()
			for _, c := range s.PeerCertificates {
				if token.PinOf(c) == pin {
					authority = c
					roots.AddCert(c)
				} else {
					between.AddCert(c)
				}
			}
			if authority == nil {
				return fmt.Errorf("the server at %s does not show the authority that the join token pins; this is another control plane, or its authority was replaced", address)
			}
			if err := verifyServer(s.PeerCertificates, host, roots, between, now()); err != nil {
				return fmt.Errorf("the server at %s: %w", address, err)
			}
			*found = authority
			return nil
		},
	}
}

// A renewal asks for the next certificate when half of the lifetime is over, by elapsed time.
type renewal struct {
	u    *Uplink
	cred *credential
	out  chan *zonesync.Message
	got  chan *zonesync.Credential
}

func newRenewal(u *Uplink, c *credential) *renewal {
	return &renewal{u, c, make(chan *zonesync.Message), make(chan *zonesync.Credential, 1)}
}

// take hands on what global answered.
func (r *renewal) take(c *zonesync.Credential) {
	select {
	case r.got <- c:
	default: // nobody asked
	}
}

func (r *renewal) run(ctx context.Context) error {
	// One whose time is over, since global was away for long, is replaced at once.
	wait := max(r.cred.life/2-time.Since(r.cred.began), 0)
	for {
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
		err := r.once(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, store.ErrFenced):
			return err
		case err != nil:
			wait = max(r.cred.life/20, time.Second)
			r.u.cfg.Log.Warn("the credential of the zone is not renewed and is asked for again", "in", wait, "until", r.cred.Until, "err", err)
		default:
			wait = max(r.cred.life/2, time.Second)
		}
	}
}

// once asks for a certificate with a new key and keeps it. It is used from the next link on.
func (r *renewal) once(ctx context.Context) error {
	key, request, err := newRequest(r.u.cfg.Zone)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	select {
	case r.out <- &zonesync.Message{Body: &zonesync.Message_CredentialRequest{CredentialRequest: &zonesync.CredentialRequest{Request: request}}}:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case c := <-r.got:
		if c.GetError() != "" {
			return errors.New(c.GetError())
		}
		next := *r.cred
		next.Key = key
		next.renew(c.GetChain(), time.Duration(c.GetLifetimeMs())*time.Millisecond, r.u.cfg.Now())
		if err := next.load(); err != nil {
			return err
		}
		if err := r.u.keepCredential(ctx, &next, "the credential was renewed"); err != nil {
			return err
		}
		r.cred = &next
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
