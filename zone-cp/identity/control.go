package identity

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store/authority"
	"github.com/causeway-mesh/causeway/store/catalog"
)

// DefaultControlLifetime is how long a control certificate lives; agents renew it before half of that.
const DefaultControlLifetime = time.Hour

// controlSecret holds the control authority of a zone: certificate and key in PEM.
const controlSecret = "agent-control-ca"

// A Control is the authority of a zone for the certificates with which agents connect.
// It signs no workload and no workload trusts it.
type Control struct {
	*authority.Authority
	lifetime time.Duration
}

// A Grant is what a control certificate says about its holder. The token's claims travel in it, so that they
// still bind the holder after the zone restarted.
type Grant struct {
	Mesh     string
	Name     string
	Instance string // one life of an agent process
	Token    string // id of the token, for revocation; empty when tokens are off
	// What the token allows; empty means anything.
	Workload string
	Tags     map[string][]string
}

// Key addresses the Dataplane of the holder.
func (g Grant) Key() resource.Key {
	return resource.Key{Type: mesh.TypeDataplane, Mesh: g.Mesh, Name: g.Name}
}

// OpenControl reads the control authority of a zone, or makes and stores it.
// Lifetime and now may be zero for their defaults.
func OpenControl(ctx context.Context, c *catalog.Catalog, zone string, lifetime time.Duration, now func() time.Time) (*Control, error) {
	if lifetime <= 0 {
		lifetime = DefaultControlLifetime
	}
	a, err := authority.Open(ctx, authority.Config{
		Catalog: c, Secret: controlSecret, Name: "agents of " + zone, Author: author, Without: "let all agents enroll again", Now: now,
		Labels: map[string]string{resource.LabelOrigin: resource.OriginZone, resource.LabelZone: zone, resource.LabelEnv: "universal"},
	})
	if err != nil {
		return nil, fmt.Errorf("control certificates: %w", err)
	}
	return &Control{a, lifetime}, nil
}

// Issue signs the request of an agent for a control certificate. It returns a *pki.RequestError for a bad request.
func (c *Control) Issue(request []byte, g Grant) (chain [][]byte, lifetime time.Duration, err error) {
	return c.Sign(request, g.Mesh+"."+g.Name, g.uri(), c.lifetime)
}

const grantScheme = "causeway-agent"

func (g Grant) uri() *url.URL {
	q := url.Values{"instance": {g.Instance}}
	set := func(k, v string) {
		if v != "" {
			q.Set(k, v)
		}
	}
	set("token", g.Token)
	set("workload", g.Workload)
	for k, vs := range g.Tags {
		for _, v := range vs {
			q.Add("tag", k+"="+v)
		}
	}
	slices.Sort(q["tag"])
	return &url.URL{Scheme: grantScheme, Host: g.Mesh, Path: "/" + g.Name, RawQuery: q.Encode()}
}

// GrantOf reads what a verified control certificate says.
func GrantOf(cert *x509.Certificate) (Grant, error) {
	if len(cert.URIs) != 1 || cert.URIs[0].Scheme != grantScheme {
		return Grant{}, errors.New("the client certificate is not a control certificate")
	}
	u := cert.URIs[0]
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Grant{}, fmt.Errorf("control certificate: %w", err)
	}
	g := Grant{
		Mesh: u.Host, Name: strings.TrimPrefix(u.Path, "/"),
		Instance: q.Get("instance"), Token: q.Get("token"), Workload: q.Get("workload"),
	}
	for _, tag := range q["tag"] {
		k, v, _ := strings.Cut(tag, "=")
		if g.Tags == nil {
			g.Tags = map[string][]string{}
		}
		g.Tags[k] = append(g.Tags[k], v)
	}
	if g.Mesh == "" || g.Name == "" || g.Instance == "" {
		return Grant{}, errors.New("the control certificate names no dataplane")
	}
	return g, nil
}
