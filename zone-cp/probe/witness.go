package probe

import (
	"context"
	"crypto/tls"
	"net"
	"slices"
	"strconv"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
)

// A zone whose control plane is silent may serve as before: it starts again, or its host is down. Workloads are witnesses then: when TLS
// with one of them comes about, the ingress hands connections on, and traffic stays.

// maxWitnesses bounds how many workloads are tried in one attempt.
const maxWitnesses = 3

// handsOn says whether an ingress leads to a workload of its zone.
func (p *Prober) handsOn(ctx context.Context, r result) bool {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	me, err := p.cfg.Authority.ControlPlane(r.peer.mesh)
	if err != nil {
		return false
	}
	for _, name := range p.cfg.Table.witnesses(r.peer, maxWitnesses) {
		raw, err := p.cfg.Dial(ctx, "tcp", net.JoinHostPort(r.ip.String(), strconv.FormatUint(uint64(r.port), 10)))
		if err != nil {
			return false
		}
		err = tls.Client(raw, &tls.Config{
			MinVersion: tls.VersionTLS12, ServerName: name,
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &me.Certificate, nil },
			InsecureSkipVerify:   true, // VerifyConnection checks who it is
			VerifyConnection:     func(s tls.ConnectionState) error { return me.VerifyWorkload(r.peer.zone, s.PeerCertificates) },
		}).HandshakeContext(ctx)
		_ = raw.Close()
		if err == nil {
			return true
		}
	}
	return false
}

// witnesses are server names of ports of a peer that were last known to have healthy endpoints, at most so many.
func (t *Table) witnesses(of peer, most int) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []string
	for k, s := range t.services {
		if s.peer != of {
			continue
		}
		name, err := resource.ParseKRI(s.name)
		r := t.effective(k)
		if err != nil || r == nil {
			continue
		}
		if sni := healthyPort(name, r); sni != "" {
			out = append(out, sni)
		}
		if len(out) == most {
			break
		}
	}
	return out
}

func healthyPort(service resource.KRI, r *view.Remote) string {
	var sections []string
	for section, c := range r.Ports {
		if c.Healthy > 0 {
			sections = append(sections, section)
		}
	}
	if len(sections) == 0 {
		return ""
	}
	sni, err := service.WithSection(slices.Min(sections)).SNI()
	if err != nil {
		return ""
	}
	return sni
}
