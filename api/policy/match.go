package policy

import (
	"cmp"
	"net/url"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/causeway-mesh/causeway/api/resource"
)

// CheckMatch reports what is wrong with a match.
func CheckMatch(at resource.Path, m Match) resource.Problems {
	var ps resource.Problems
	if m.SpiffeID == nil && m.SNI == nil {
		ps.Add(at, "must have spiffeID or sni")
	}
	if id := m.SpiffeID; id != nil {
		at := at.Field("spiffeID")
		if id.Type != MatchExact && id.Type != MatchPrefix {
			ps.Add(at.Field("type"), "must be Exact or Prefix, not %s", resource.Quote(id.Type))
		}
		if reason := spiffeProblem(id.Value, id.Type == MatchPrefix); reason != "" {
			ps.Add(at.Field("value"), "%s", reason)
		}
	}
	if sni := m.SNI; sni != nil {
		at := at.Field("sni")
		if sni.Type != MatchExact {
			ps.Add(at.Field("type"), "must be Exact, not %s", resource.Quote(sni.Type))
		}
		if len(validation.IsDNS1123Subdomain(sni.Value)) > 0 {
			ps.Add(at.Field("value"), "%s is not a DNS name", resource.Quote(sni.Value))
		}
	}
	return ps
}

func spiffeProblem(s string, prefix bool) string {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "spiffe" || len(s) > 2048 {
		return resource.Quote(s) + " is not a SPIFFE ID; it must begin with spiffe://"
	}
	host := u.Host
	if prefix {
		host = strings.TrimRight(host, ".-") // a prefix may end inside the trust domain
	}
	if host == "" && (!prefix || u.Path != "") {
		return resource.Quote(s) + " has no trust domain"
	}
	if u.RawQuery != "" || u.Fragment != "" || u.User != nil || u.Port() != "" {
		return resource.Quote(s) + " must consist of a trust domain and a path only"
	}
	return ""
}

// IsZero says that the match accepts everything.
func (m Match) IsZero() bool { return m.SpiffeID == nil && m.SNI == nil }

// Subsumes says that whatever o accepts, m accepts too.
func (m Match) Subsumes(o Match) bool {
	if m.SNI != nil && (o.SNI == nil || *o.SNI != *m.SNI) {
		return false
	}
	if m.SpiffeID == nil {
		return true
	}
	if o.SpiffeID == nil {
		return false
	}
	if m.SpiffeID.Type == MatchExact {
		return *o.SpiffeID == *m.SpiffeID
	}
	return strings.HasPrefix(o.SpiffeID.Value, m.SpiffeID.Value)
}

// CompareMatches orders matches from the most to the least specific:
// exact identities, longer prefixes, server names only, everything; with a server name before without.
func CompareMatches(a, b Match) int {
	return cmp.Or(
		cmp.Compare(identityRank(a), identityRank(b)),
		cmp.Compare(prefixLength(b), prefixLength(a)),
		cmp.Compare(boolRank(a.SNI == nil), boolRank(b.SNI == nil)),
		strings.Compare(a.key(), b.key()),
	)
}

func identityRank(m Match) int {
	switch {
	case m.SpiffeID == nil:
		return 2
	case m.SpiffeID.Type == MatchExact:
		return 0
	default:
		return 1
	}
}

func prefixLength(m Match) int {
	if m.SpiffeID == nil {
		return 0
	}
	return len(m.SpiffeID.Value)
}

func boolRank(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (m Match) key() string {
	k := ""
	if m.SpiffeID != nil {
		k += m.SpiffeID.Type + " " + m.SpiffeID.Value
	}
	k += "|"
	if m.SNI != nil {
		k += m.SNI.Value
	}
	return k
}
