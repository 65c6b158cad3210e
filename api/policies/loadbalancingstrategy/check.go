package loadbalancingstrategy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/resource"
)

const (
	maxTags      = 8 // more, and the default weights outgrow what Envoy can add up
	maxTagWeight = 1_000_000
	maxRing      = 8_000_000
	maxTable     = 5_000_011
)

func check(at resource.Path, c Conf, where policy.Where) resource.Problems {
	var ps resource.Problems
	kind := where.Target.KindOrMesh()
	if c.LocalityAwareness == nil && c.LoadBalancer == nil && c.HashPolicies == nil {
		ps.Add(at, "must set localityAwareness, loadBalancer or hashPolicies")
	}
	if l := c.LocalityAwareness; l != nil {
		if kind == policy.TargetHTTPRoute {
			ps.Add(at.Field("localityAwareness"), "must not be set with kind MeshHTTPRoute, where only hashPolicies can be")
		} else {
			ps.Append(l.check(at.Field("localityAwareness"), kind))
		}
	}
	if l := c.LoadBalancer; l != nil {
		if kind == policy.TargetHTTPRoute {
			ps.Add(at.Field("loadBalancer"), "must not be set with kind MeshHTTPRoute, where only hashPolicies can be")
		} else {
			ps.Append(l.check(at.Field("loadBalancer")))
		}
	}
	for i, h := range c.HashPolicies {
		ps.Append(h.check(at.Field("hashPolicies").Index(i)))
	}
	return ps
}

func (l LocalityAwareness) check(at resource.Path, kind string) resource.Problems {
	var ps resource.Problems
	if l == (LocalityAwareness{}) {
		ps.Add(at, "must set disabled, localZone or crossZone")
	}
	if z := l.LocalZone; z != nil {
		ps.Append(z.check(at.Field("localZone")))
	}
	if z := l.CrossZone; z != nil {
		ps.Append(z.check(at.Field("crossZone"), kind))
	}
	return ps
}

func (z LocalZone) check(at resource.Path) resource.Problems {
	var ps resource.Problems
	at = at.Field("affinityTags")
	if z.AffinityTags == nil {
		ps.Add(at, "must be set")
	}
	if len(z.AffinityTags) > maxTags {
		ps.Add(at, "must hold at most %d tags", maxTags)
	}
	seen := map[string]int{}
	weights := 0
	for i, t := range z.AffinityTags {
		key := at.Index(i).Field("key")
		switch first, dup := seen[t.Key]; {
		case t.Key == "":
			ps.Add(key, "must be set")
		case dup:
			ps.Add(key, "%s is already the key of affinityTags[%d]", resource.Quote(t.Key), first)
		default:
			for _, p := range resource.CheckLabels(key, map[string]string{t.Key: ""}) {
				ps.Add(key, "%s", p.Reason)
			}
			seen[t.Key] = i
		}
		if t.Weight != nil {
			weights++
			if *t.Weight == 0 || *t.Weight > maxTagWeight {
				ps.Add(at.Index(i).Field("weight"), "must be between 1 and %d", maxTagWeight)
			}
		}
	}
	if weights > 0 && weights < len(z.AffinityTags) {
		ps.Add(at, "must have a weight in every tag or in none")
	}
	return ps
}

func (z CrossZone) check(at resource.Path, kind string) resource.Problems {
	var ps resource.Problems
	switch {
	case kind == policy.TargetService:
		ps.Add(at, "must not be set with kind MeshService, which is of one zone; join those of several zones in a MeshMultiZoneService")
		return ps
	case kind != policy.TargetMultiZone && kind != policy.TargetMesh:
		ps.Add(at, "must not be set with kind %s", kind)
		return ps
	case z.Failover == nil && z.FailoverThreshold == nil:
		ps.Add(at, "must set failover or failoverThreshold")
	}
	for i, f := range z.Failover {
		at := at.Field("failover").Index(i)
		if f.From != nil {
			if len(f.From.Zones) == 0 {
				ps.Add(at.Field("from").Field("zones"), "must name at least one zone")
			}
			ps.Append(checkZones(at.Field("from").Field("zones"), f.From.Zones))
		}
		ps.Append(f.To.check(at.Field("to")))
	}
	if t := z.FailoverThreshold; t != nil {
		if p := t.Percentage.Float(); p < minThreshold || p > 100 {
			ps.Add(at.Field("failoverThreshold").Field("percentage"), "must be between %g and 100", minThreshold)
		}
	}
	return ps
}

// minThreshold keeps what is made of it within what Envoy takes.
const minThreshold = 0.01

func (t ToZones) check(at resource.Path) resource.Problems {
	var ps resource.Problems
	zones := at.Field("zones")
	switch t.Type {
	case Any, None:
		if len(t.Zones) > 0 {
			ps.Add(zones, "must not be set with type %s", t.Type)
		}
	case Only, AnyExcept:
		if len(t.Zones) == 0 {
			ps.Add(zones, "must name at least one zone with type %s", t.Type)
		}
		ps.Append(checkZones(zones, t.Zones))
	default:
		ps.Add(at.Field("type"), "must be one of %s", strings.Join([]string{Any, AnyExcept, Only, None}, ", "))
	}
	return ps
}

func checkZones(at resource.Path, zones []string) resource.Problems {
	var ps resource.Problems
	for i, z := range zones {
		ps.Append(resource.CheckName(at.Index(i), resource.RFC1123Subdomain, z))
		if slices.Contains(zones[:i], z) {
			ps.Add(at.Index(i), "%s is named twice", resource.Quote(z))
		}
	}
	return ps
}

// settings lists which field belongs to which type, and what is set.
func (l LoadBalancer) settings() []setting {
	return []setting{
		{UseRoundRobin, "roundRobin", l.RoundRobin != nil},
		{UseLeastRequest, "leastRequest", l.LeastRequest != nil},
		{UseRingHash, "ringHash", l.RingHash != nil},
		{UseRandom, "random", l.Random != nil},
		{UseMaglev, "maglev", l.Maglev != nil},
	}
}

// A setting is a field that belongs to one value of type.
type setting struct {
	typ, field string
	set        bool
}

// checkSettings reports a type that does not exist, and fields of other types.
func checkSettings(at resource.Path, typ string, all []setting) resource.Problems {
	var ps resource.Problems
	var types []string
	for _, s := range all {
		types = append(types, s.typ)
	}
	if !slices.Contains(types, typ) {
		ps.Add(at.Field("type"), "must be one of %s", strings.Join(types, ", "))
		return ps
	}
	for _, s := range all {
		if s.set && s.typ != typ {
			ps.Add(at.Field(s.field), "must not be set with type %s", typ)
		}
	}
	return ps
}

func (l LoadBalancer) check(at resource.Path) resource.Problems {
	ps := checkSettings(at, l.Type, l.settings())
	if r := l.LeastRequest; r != nil {
		if r.ChoiceCount != nil && *r.ChoiceCount < 2 {
			ps.Add(at.Field("leastRequest").Field("choiceCount"), "must be at least 2")
		}
		if b := r.ActiveRequestBias; b != nil && (b.Float() < 0 || b.Float() > 100) {
			ps.Add(at.Field("leastRequest").Field("activeRequestBias"), "must be between 0 and 100")
		}
	}
	if r := l.RingHash; r != nil {
		ps.Append(r.check(at.Field("ringHash")))
	}
	if m := l.Maglev; m != nil && m.TableSize != nil && (*m.TableSize > maxTable || !prime(*m.TableSize)) {
		ps.Add(at.Field("maglev").Field("tableSize"), "must be a prime number of at most %d", maxTable)
	}
	return ps
}

func (r RingHash) check(at resource.Path) resource.Problems {
	var ps resource.Problems
	if f := r.HashFunction; f != nil && *f != XXHash && *f != MurmurHash2 {
		ps.Add(at.Field("hashFunction"), "must be %s or %s", XXHash, MurmurHash2)
	}
	size := func(name string, v *uint32) {
		if v != nil && (*v == 0 || *v > maxRing) {
			ps.Add(at.Field(name), "must be between 1 and %d", maxRing)
		}
	}
	size("minRingSize", r.MinRingSize)
	size("maxRingSize", r.MaxRingSize)
	if r.MinRingSize != nil && r.MaxRingSize != nil && *r.MinRingSize > *r.MaxRingSize {
		ps.Add(at.Field("minRingSize"), "must not be greater than maxRingSize")
	}
	return ps
}

func prime(n uint32) bool {
	for i := uint32(2); i*i <= n; i++ {
		if n%i == 0 {
			return false
		}
	}
	return n > 1
}

func (h HashPolicy) check(at resource.Path) resource.Problems {
	all := []setting{
		{ByHeader, "header", h.Header != nil},
		{ByCookie, "cookie", h.Cookie != nil},
		{ByConnection, "connection", h.Connection != nil},
		{ByQueryParameter, "queryParameter", h.QueryParameter != nil},
		{ByFilterState, "filterState", h.FilterState != nil},
	}
	ps := checkSettings(at, h.Type, all)
	for _, s := range all {
		if s.typ == h.Type && !s.set {
			ps.Add(at.Field(s.field), "must be set with type %s", h.Type)
		}
	}
	if h.Header != nil {
		ps.Append(policy.CheckHeaderName(at.Field("header").Field("name"), h.Header.Name))
	}
	if k := h.Cookie; k != nil {
		at := at.Field("cookie")
		if k.Name == "" {
			ps.Add(at.Field("name"), "must be set")
		}
		ps.Append(policy.CheckNotNegative(at.Field("ttl"), k.TTL))
		if k.Path != nil && !strings.HasPrefix(*k.Path, "/") {
			ps.Add(at.Field("path"), "must begin with /")
		}
	}
	if q := h.QueryParameter; q != nil && q.Name == "" {
		ps.Add(at.Field("queryParameter").Field("name"), "must be set")
	}
	if f := h.FilterState; f != nil && f.Key == "" {
		ps.Add(at.Field("filterState").Field("key"), "must be set")
	}
	return ps
}

func warn(at resource.Path, c Conf, where policy.Where) []string {
	var out []string
	say := func(at resource.Path, format string, args ...any) {
		out = append(out, string(at)+" "+fmt.Sprintf(format, args...))
	}
	const elsewhere = ", here or in a policy that this one adds to"
	kind := where.Target.KindOrMesh()
	if l := c.LocalityAwareness; l != nil {
		at := at.Field("localityAwareness")
		if kind == policy.TargetExternal {
			say(at, "has no effect with kind MeshExternalService, whose endpoints are in no zone")
		}
		if l.Disabled != nil && *l.Disabled {
			if l.LocalZone != nil {
				say(at.Field("localZone"), "has no effect while disabled is true")
			}
			if l.CrossZone != nil {
				say(at.Field("crossZone"), "has no effect while disabled is true")
			}
		}
		if z := l.CrossZone; z != nil {
			out = append(out, z.ineffective(at.Field("crossZone").Field("failover"))...)
		}
	}
	hashes := c.LoadBalancer != nil && c.LoadBalancer.hashes()
	switch {
	case kind == policy.TargetHTTPRoute:
	case hashes && len(c.HashPolicies) == 0:
		say(at.Field("loadBalancer").Field("type"), "picks at random unless hashPolicies are set"+elsewhere)
	case !hashes && len(c.HashPolicies) > 0:
		say(at.Field("hashPolicies"), "have no effect unless loadBalancer.type is RingHash or Maglev"+elsewhere)
	}
	for i, h := range c.HashPolicies {
		if h.Connection != nil && (h.Connection.SourceIP == nil || !*h.Connection.SourceIP) {
			say(at.Field("hashPolicies").Index(i).Field("connection"), "hashes nothing unless sourceIP is true")
		}
	}
	return out
}

func (l LoadBalancer) hashes() bool { return l.Type == UseRingHash || l.Type == UseMaglev }

// ineffective names rules that can never apply because those before them, for all senders, leave no zone.
func (z CrossZone) ineffective(at resource.Path) []string {
	var out []string
	taken := map[string]bool{}
	only := []string(nil) // the zones that are left, when they are known
	known := false
	ended := -1
	for i, f := range z.Failover {
		left := func(zone string) bool { return !taken[zone] && (!known || slices.Contains(only, zone)) }
		dead := ended >= 0 || f.To.Type == Only && !slices.ContainsFunc(f.To.Zones, left) ||
			known && f.To.Type != None && f.To.Type != Only && !slices.ContainsFunc(only, func(zone string) bool {
				return left(zone) && (f.To.Type == Any || !slices.Contains(f.To.Zones, zone))
			})
		if dead {
			out = append(out, string(at.Index(i))+" has no effect: the rules before it leave no zone for it")
		}
		if f.From != nil {
			continue // others may still come here
		}
		switch f.To.Type {
		case Any, None:
			if ended < 0 {
				ended = i
			}
		case Only:
			for _, zone := range f.To.Zones {
				taken[zone] = true
			}
		case AnyExcept:
			if !known {
				only, known = f.To.Zones, true
			} else {
				only = slices.DeleteFunc(slices.Clone(only), func(zone string) bool { return !slices.Contains(f.To.Zones, zone) })
			}
		}
	}
	return out
}

// Ineffective says what of the effective configuration for a protocol has no effect.
func Ineffective(c Conf, http bool) []string {
	hashes := c.LoadBalancer != nil && c.LoadBalancer.hashes()
	usable := slices.ContainsFunc(c.HashPolicies, func(h HashPolicy) bool {
		return http || h.Type == ByConnection || h.Type == ByFilterState
	})
	switch {
	case hashes && len(c.HashPolicies) == 0:
		return []string{"loadBalancer.type " + c.LoadBalancer.Type + " picks at random, because no hashPolicies are set"}
	case hashes && !usable:
		return []string{"loadBalancer.type " + c.LoadBalancer.Type + " picks at random, because hashPolicies have only what requests have, and this is tcp"}
	case !hashes && len(c.HashPolicies) > 0:
		return []string{"hashPolicies have no effect, because loadBalancer.type is neither RingHash nor Maglev"}
	}
	return nil
}
