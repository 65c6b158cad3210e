package dns

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

const (
	nameTTL     = 30 // seconds, of names of the mesh
	negativeTTL = 5  // of what is none; it may become one
	// meshDomain is where names of the mesh are expected before the zone has said so.
	meshDomain = "mesh.local"
)

// answer makes the reply to a query.
func (s *Server) answer(q *dns.Msg) *dns.Msg {
	switch opt := q.IsEdns0(); {
	case q.Opcode != dns.OpcodeQuery:
		return failure(q, dns.RcodeNotImplemented)
	case len(q.Question) != 1:
		return failure(q, dns.RcodeFormatError)
	case opt != nil && opt.Version() != 0:
		m := failure(q, dns.RcodeSuccess)
		m.SetEdns0(maxAnswerUDP, opt.Do())
		m.IsEdns0().SetExtendedRcode(dns.RcodeBadVers)
		m.Rcode = dns.RcodeBadVers
		return m
	}
	question := q.Question[0]
	switch question.Qtype {
	case dns.TypeAXFR, dns.TypeIXFR, dns.TypeOPT:
		return failure(q, dns.RcodeRefused)
	}
	name := strings.ToLower(strings.TrimSuffix(question.Name, "."))
	if question.Qclass == dns.ClassINET || question.Qclass == dns.ClassANY {
		if m := s.ofMesh(q, name); m != nil {
			return m
		}
	}
	return s.forwarder.forward(q)
}

// ofMesh answers what is the mesh's to answer; nil when others are to be asked.
func (s *Server) ofMesh(q *dns.Msg, name string) *dns.Msg {
	t := s.names.Load()
	if t == nil {
		if within(name, meshDomain) && !s.without.Load() {
			return failure(q, dns.RcodeServerFailure) // for now
		}
		return nil
	}
	searched := s.forwarder.withoutSearch(name)
	for _, n := range append([]string{name}, searched...) {
		if addresses, ok := t.hosts[n]; ok {
			return found(q, addresses)
		}
	}
	for i, n := range append([]string{name}, searched...) {
		if t.in(n) {
			// Of a name that a resolver has tried in a search domain only this is known: it does not exist there.
			return t.missing(q, name, i == 0 && (t.parents[n] || slices.Contains(t.domains, n)))
		}
	}
	if q.Question[0].Qtype == dns.TypePTR {
		if a, ok := reversed(name); ok && t.reverse[a] != "" {
			m := reply(q)
			m.Answer = []dns.RR{&dns.PTR{Hdr: header(q, dns.TypePTR, nameTTL), Ptr: dns.Fqdn(t.reverse[a])}}
			return m
		}
	}
	return nil
}

// found answers with the addresses of a name; a name without any of the family that was asked for exists all the same.
func found(q *dns.Msg, list []netip.Addr) *dns.Msg {
	m := reply(q)
	typ := q.Question[0].Qtype
	for _, a := range list {
		switch {
		case a.Is4() && (typ == dns.TypeA || typ == dns.TypeANY):
			m.Answer = append(m.Answer, &dns.A{Hdr: header(q, dns.TypeA, nameTTL), A: a.AsSlice()})
		case a.Is6() && (typ == dns.TypeAAAA || typ == dns.TypeANY):
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: header(q, dns.TypeAAAA, nameTTL), AAAA: a.AsSlice()})
		}
	}
	if len(m.Answer) == 0 {
		m.Ns = []dns.RR{soa(q.Question[0].Name)}
	}
	return m
}

// missing says that there is no such name, or nothing at it.
func (t *table) missing(q *dns.Msg, name string, exists bool) *dns.Msg {
	m := reply(q)
	zone := q.Question[0].Name
	for _, d := range t.domains {
		if within(name, d) {
			zone = dns.Fqdn(d)
		}
	}
	authority := soa(zone)
	switch {
	case exists && q.Question[0].Qtype == dns.TypeSOA && dns.Fqdn(name) == zone:
		m.Answer = []dns.RR{authority}
		return m
	case !exists:
		m.Rcode = dns.RcodeNameError
	}
	m.Ns = []dns.RR{authority}
	return m
}

func reply(q *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(q)
	m.Authoritative, m.RecursionAvailable = true, true
	return m
}

func failure(q *dns.Msg, rcode int) *dns.Msg {
	m := new(dns.Msg)
	m.SetRcode(q, rcode)
	m.RecursionAvailable = true
	if len(q.Question) > 1 {
		m.Question = q.Question[:1]
	}
	return m
}

// header is that of an answer, with the name as it was asked for.
func header(q *dns.Msg, typ uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: q.Question[0].Name, Rrtype: typ, Class: dns.ClassINET, Ttl: ttl}
}

func soa(zone string) *dns.SOA {
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: negativeTTL},
		Ns:  "ns." + meshDomain + ".", Mbox: "hostmaster." + meshDomain + ".", Serial: 1,
		Refresh: 3600, Retry: 600, Expire: 86400, Minttl: negativeTTL,
	}
}

// reversed is the address that a name of in-addr.arpa or ip6.arpa stands for.
func reversed(name string) (netip.Addr, bool) {
	if labels, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		parts := strings.Split(labels, ".")
		if len(parts) != 4 {
			return netip.Addr{}, false
		}
		a, err := netip.ParseAddr(parts[3] + "." + parts[2] + "." + parts[1] + "." + parts[0])
		return a, err == nil
	}
	labels, ok := strings.CutSuffix(name, ".ip6.arpa")
	digits := strings.Split(labels, ".")
	if !ok || len(digits) != 32 {
		return netip.Addr{}, false
	}
	var b [16]byte
	for i, d := range digits {
		v, err := strconv.ParseUint(d, 16, 4)
		if err != nil || len(d) != 1 {
			return netip.Addr{}, false
		}
		b[15-i/2] |= byte(v) << (4 * (i % 2))
	}
	return netip.AddrFrom16(b), true
}
