package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"time"

	"github.com/causeway-mesh/causeway/api/agentapi"
)

// Elapsed time of this process decides when certificates end and are renewed: the clock of a host may be wrong or jump.

// A held certificate is one whose key is in the memory of this process.
type held struct {
	key     *ecdsa.PrivateKey
	chain   [][]byte
	until   time.Time
	renewAt time.Time

	// Of workload certificates only.
	spiffeID string
	issuer   string
	serial   string
}

func (h *held) valid() bool { return h != nil && time.Now().Before(h.until) }

// newHeld dates a certificate. It is renewed somewhere between two parts of its lifetime, so that certificates
// that were issued at once are not renewed at once.
func newHeld(key *ecdsa.PrivateKey, chain [][]byte, lifetime time.Duration, from, to float64) *held {
	now := time.Now()
	part := from + (to-from)*mathrand.Float64()
	return &held{key: key, chain: chain, until: now.Add(lifetime), renewAt: now.Add(time.Duration(part * float64(lifetime)))}
}

// request makes a key and a signing request for it. The names are the zone's to choose.
func request() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, nil, fmt.Errorf("make a signing request: %w", err)
	}
	return key, der, nil
}

// control checks a control certificate that the zone sent.
func control(key *ecdsa.PrivateKey, chain [][]byte, lifetimeMs int64) (*held, error) {
	if err := belongs(key, chain, lifetimeMs); err != nil {
		return nil, fmt.Errorf("control certificate: %w", err)
	}
	return newHeld(key, chain, time.Duration(lifetimeMs)*time.Millisecond, 0.3, 0.5), nil
}

// workload checks a workload certificate that the zone sent.
func workload(key *ecdsa.PrivateKey, in *agentapi.Identity) (*held, error) {
	if err := belongs(key, in.GetChain(), in.GetLifetimeMs()); err != nil {
		return nil, fmt.Errorf("workload certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(in.GetChain()[0])
	if err != nil {
		return nil, fmt.Errorf("workload certificate: %w", err)
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != in.GetSpiffeId() {
		return nil, fmt.Errorf("workload certificate: it is for %v, not for %s", leaf.URIs, in.GetSpiffeId())
	}
	h := newHeld(key, in.GetChain(), time.Duration(in.GetLifetimeMs())*time.Millisecond, 0.5, 0.8)
	h.spiffeID, h.issuer, h.serial = in.GetSpiffeId(), in.GetIssuer(), hex.EncodeToString(leaf.SerialNumber.Bytes())
	return h, nil
}

func belongs(key *ecdsa.PrivateKey, chain [][]byte, lifetimeMs int64) error {
	const century = 100 * 365 * 24 * 60 * 60 * 1000
	if key == nil || len(chain) == 0 || lifetimeMs <= 0 || lifetimeMs > century {
		return errors.New("it is incomplete or was not asked for")
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return err
	}
	if !key.PublicKey.Equal(leaf.PublicKey) {
		return errors.New("it is for another key")
	}
	return nil
}

func (h *held) certificate() *tls.Certificate {
	if h == nil {
		return &tls.Certificate{}
	}
	return &tls.Certificate{Certificate: h.chain, PrivateKey: h.key}
}
