// Package spire takes a workload's identity from the SPIFFE Workload API, as an agent of SPIRE on the same host offers it,
// and hands it to the workload's Envoy. It attests nobody, makes no keys and stores nothing; which SPIFFE ID the workload has
// is for the zone to say, and an identity of another name is not served.
package spire

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/causeway-mesh/causeway/dataplane/sds"
)

// Secrets is where identity and trust are served from.
type Secrets interface {
	SetIdentity(key crypto.Signer, chain [][]byte) error
	SetTrust(label string, bundles []sds.Bundle) error
}

// A Source follows the Workload API while an identity is wanted of it.
type Source struct {
	socket  string
	secrets Secrets
	log     *slog.Logger
	wanted  chan struct{} // holds a token when what is wanted has changed
	changed chan struct{} // holds a token when something else is held, or nothing can be

	mu      sync.Mutex
	want    string // SPIFFE ID; empty when identities come from elsewhere
	label   string // of the zone's bundles
	zone    []sds.Bundle
	latest  *workloadapi.X509Context
	held    Held
	problem string
}

// Held is the certificate that is served.
type Held struct {
	SPIFFEID string
	Leaf     []byte // DER
	Until    time.Time
}

// Valid says that there is one and it has not ended.
func (h Held) Valid() bool { return len(h.Leaf) > 0 && time.Now().Before(h.Until) }

// New makes a source for a Unix socket, given as a path. Nothing is asked of it before Want.
func New(socket string, secrets Secrets, log *slog.Logger) *Source {
	return &Source{socket: socket, secrets: secrets, log: log, wanted: make(chan struct{}, 1), changed: make(chan struct{}, 1)}
}

// Want says which identity the workload has; empty ends the use of SPIRE. What is served stays until there is something better.
func (s *Source) Want(spiffeID string) {
	s.mu.Lock()
	same := s.want == spiffeID
	s.want = spiffeID
	if !same {
		s.held, s.problem = Held{}, ""
		s.settle()
	}
	s.mu.Unlock()
	if !same {
		poke(s.wanted)
	}
}

// Trust says whom the zone trusts; bundles of trust domains that the zone does not name are added from SPIRE.
func (s *Source) Trust(label string, bundles []sds.Bundle) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.label, s.zone = label, bundles
	s.settle()
}

// Held is what is served now, and what keeps the wanted identity from being served, for people.
func (s *Source) Held() (Held, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held, s.problem
}

// Changed receives when Held may answer something else.
func (s *Source) Changed() <-chan struct{} { return s.changed }

// Run follows the Workload API until ctx ends.
func (s *Source) Run(ctx context.Context) error {
	for {
		s.mu.Lock()
		want := s.want
		s.mu.Unlock()
		following, stop := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			if want != "" {
				s.follow(following)
			}
		}()
		select {
		case <-s.wanted:
		case <-ctx.Done():
		}
		stop()
		<-done
		if ctx.Err() != nil {
			return nil
		}
	}
}

// follow reports every update until ctx ends. The client tries again by itself when SPIRE's agent is away.
func (s *Source) follow(ctx context.Context) {
	err := workloadapi.WatchX509Context(ctx, s, workloadapi.WithAddr("unix://"+s.socket))
	if err != nil && ctx.Err() == nil {
		s.trouble(err)
	}
}

// OnX509ContextUpdate takes what SPIRE issues.
func (s *Source) OnX509ContextUpdate(c *workloadapi.X509Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latest = c
	s.settle()
}

// OnX509ContextWatchError notes why nothing comes.
func (s *Source) OnX509ContextWatchError(err error) {
	if !errors.Is(err, context.Canceled) {
		s.trouble(err)
	}
}

func (s *Source) trouble(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail(fmt.Errorf("the Workload API at %s: %w", s.socket, err))
}

// fail keeps what is served and tells why there is nothing newer, once.
func (s *Source) fail(err error) {
	if s.problem != err.Error() {
		s.problem = err.Error()
		s.log.Warn("no identity from SPIRE; the proxy goes on with what it has", "spiffeID", s.want, "err", err)
		poke(s.changed)
	}
}

// settle serves the wanted identity and the bundles.
func (s *Source) settle() {
	if s.want == "" || s.latest == nil {
		return
	}
	if err := s.secrets.SetTrust(s.label, s.bundles()); err != nil {
		s.fail(err)
		return
	}
	var offered []string
	for _, svid := range s.latest.SVIDs {
		offered = append(offered, svid.ID.String())
		if svid.ID.String() != s.want {
			continue
		}
		var chain [][]byte
		for _, c := range svid.Certificates {
			chain = append(chain, c.Raw)
		}
		if err := s.secrets.SetIdentity(svid.PrivateKey, chain); err != nil {
			s.fail(err)
			return
		}
		s.serves(svid.Certificates[0])
		return
	}
	s.fail(fmt.Errorf("SPIRE offers %s and not %s; register the workload under the SPIFFE ID of its MeshIdentity", list(offered), s.want))
}

func list(ids []string) string {
	if len(ids) == 0 {
		return "nothing"
	}
	return strings.Join(ids, ", ")
}

func (s *Source) serves(leaf *x509.Certificate) {
	h := Held{SPIFFEID: s.want, Leaf: leaf.Raw, Until: leaf.NotAfter}
	if s.problem == "" && slices.Equal(h.Leaf, s.held.Leaf) {
		return
	}
	s.held, s.problem = h, ""
	s.log.Info("workload certificate from SPIRE", "spiffeID", s.want, "serial", hex.EncodeToString(leaf.SerialNumber.Bytes()),
		"for", time.Until(leaf.NotAfter).Round(time.Second))
	poke(s.changed)
}

// bundles are those of the zone, and of SPIRE for trust domains that the zone does not name.
func (s *Source) bundles() []sds.Bundle {
	out := slices.Clone(s.zone)
	known := map[string]bool{}
	for _, b := range s.zone {
		known[b.Domain] = true
	}
	for _, b := range s.latest.Bundles.Bundles() {
		if !known[b.TrustDomain().Name()] {
			out = append(out, sds.Bundle{Domain: b.TrustDomain().Name(), PEM: encode(b)})
		}
	}
	return out
}

func encode(b *x509bundle.Bundle) string {
	var text strings.Builder
	for _, c := range b.X509Authorities() {
		text.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return text.String()
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
