// Package view is the mesh as the Envoy compiler sees it: resources and observed facts as inputs, and questions over them
// (which proxies make up a service, which policies select a proxy, what is in force for a destination) answered incrementally.
// It is pure: no clock, network or logger; it makes no Envoy configuration.
package view

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/causeway-mesh/causeway/api/memo"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// Facts are what is observed about a dataplane and is no part of its resource.
type Facts struct {
	// Inbounds holds the state of inbounds by section, where an agent reported it.
	Inbounds map[string]mesh.InboundState
	// Draining says that the proxy is about to leave: it finishes what it has and gets nothing new.
	Draining bool
	// Down says that the proxy cannot serve now, whatever its inbounds were last seen as.
	Down bool
}

// Equal compares facts.
func (f Facts) Equal(o Facts) bool {
	return f.Draining == o.Draining && f.Down == o.Down && maps.Equal(f.Inbounds, o.Inbounds)
}

// Status is what the zone has derived for a destination: stable addresses, and whether clients may use mesh TLS.
type Status struct {
	VIPs       []string
	TLSReady   bool
	Identities []string // sorted SPIFFE IDs
	// Unavailable says that no endpoint of the service is ready.
	Unavailable bool
	// Hostnames are what workloads call it.
	Hostnames []string
}

// Equal compares statuses.
func (s Status) Equal(o Status) bool {
	return s.TLSReady == o.TLSReady && s.Unavailable == o.Unavailable && slices.Equal(s.VIPs, o.VIPs) &&
		slices.Equal(s.Identities, o.Identities) && slices.Equal(s.Hostnames, o.Hostnames)
}

// A View has one owner, as its graph has.
type View struct {
	Graph    *memo.Graph
	zone     string
	settings Settings
	kinds    *resource.Kinds
	policies []policy.Policy
	byName   map[string]policy.Policy

	resources *memo.Input[resource.Key, resource.Resource]
	members   *memo.Input[listKey, *members]
	postings  map[listKey]*members
	facts     *memo.Input[resource.Key, Facts]
	statuses  *memo.Input[resource.Key, Status]   // without what other questions ask for than the rest
	idle      *memo.Input[resource.Key, bool]     // the services that are unavailable, which changes often
	hostnames *memo.Input[resource.Key, []string] // no matter of Envoy
	remotes   *memo.Input[resource.Key, Remote]
	gateways  *memo.Input[resource.Key, Gateway]
	envoys    *memo.Input[resource.Key, string]
	refused   *memo.Input[string, *Refusals] // by version of Envoy

	heads         *memo.Func[typeKey, []head]
	destinations  *memo.Func[string, []Destination]
	target        *memo.Func[DestinationKey, target]
	endpointLabel *memo.Func[labelKey, string]
	clientLabels  *memo.Func[setKey, []string]
	endpoints     *memo.Func[endpointsKey, []Endpoint]
	remoteZones   *memo.Func[DestinationKey, []RemoteZone]
	ingresses     *memo.Func[zoneKey, []Ingress]
	identity      *memo.Func[resource.Key, Identity]
	spiffeIDs     *memo.Func[resource.Key, []string]
	selected      *memo.Func[resource.Key, []Selected]
	entries       *memo.Func[setKey, []policy.Entry]
	effective     *memo.Func[effectiveKey, policy.Effective]
	inbound       *memo.Func[inboundKey, []Client]
	proxyWide     *memo.Func[setKey, policy.Effective]
	linked        *memo.Func[linkKey, string]

	unusable       *memo.Input[resource.Key, string]
	egresses       *memo.Func[string, []egress]
	egressInbound  *memo.Func[egressInboundKey, []Client]
	egressUpstream *memo.Func[egressUpstreamKey, policy.Effective]

	names        *memo.Func[namesKey, *Names]
	serviceNames *memo.Func[resource.Key, []Name]
	namesOf      *memo.Func[resource.Key, *Names]
}

type typeKey struct{ Type, Mesh string }

// A listKey names a list of resources: all of a type in a mesh, or those with one label value.
type listKey struct{ Type, Mesh, Label, Value string }

type members struct{ keys map[resource.Key]struct{} }

// New returns an empty view of a zone.
func New(zone string, kinds *resource.Kinds, policies []policy.Policy) *View {
	g := memo.New()
	v := &View{
		Graph: g, zone: zone, kinds: kinds, policies: policies, byName: map[string]policy.Policy{},
		resources: memo.NewInput[resource.Key](g, sameVersion),
		members:   memo.NewInput[listKey, *members](g, nil),
		postings:  map[listKey]*members{},
		facts:     memo.NewInput[resource.Key](g, Facts.Equal),
		statuses:  memo.NewInput[resource.Key](g, Status.Equal),
		idle:      memo.NewInput[resource.Key](g, func(a, b bool) bool { return a == b }),
		hostnames: memo.NewInput[resource.Key](g, slices.Equal[[]string]),
		remotes:   memo.NewInput[resource.Key](g, Remote.Equal),
		gateways:  memo.NewInput[resource.Key](g, func(a, b Gateway) bool { return a == b }),
		envoys:    memo.NewInput[resource.Key](g, func(a, b string) bool { return a == b }),
		refused:   memo.NewInput[string](g, func(a, b *Refusals) bool { return a == b }),
	}
	for _, p := range policies {
		v.byName[p.Resource().Name] = p
	}
	v.defineDestinations()
	v.defineIdentities()
	v.defineEgresses()
	v.definePolicies()
	v.defineNames()
	return v
}

// Zone is the zone that the view belongs to.
func (v *View) Zone() string { return v.zone }

// Policies lists the policies in the order in which they change configuration.
func (v *View) Policies() []policy.Policy { return v.policies }

func sameVersion(a, b resource.Resource) bool {
	return a.UID == b.UID && a.Version == b.Version && a.Key() == b.Key() &&
		maps.Equal(a.Labels, b.Labels) && string(a.Raw) == string(b.Raw)
}

// Put adds or replaces a resource.
func (v *View) Put(r resource.Resource) {
	k := r.Key()
	old, had := v.resources.Get(v.Graph.Untracked(), k)
	v.resources.Set(k, r)
	if !had {
		v.list(listKey{Type: k.Type, Mesh: k.Mesh}, k, true)
	}
	for label, value := range old.Labels {
		if r.Labels[label] != value || !has(r.Labels, label) {
			v.list(listKey{k.Type, k.Mesh, label, value}, k, false)
		}
	}
	for label, value := range r.Labels {
		if !had || old.Labels[label] != value || !has(old.Labels, label) {
			v.list(listKey{k.Type, k.Mesh, label, value}, k, true)
		}
	}
}

func has(m map[string]string, k string) bool {
	_, ok := m[k]
	return ok
}

// Remove takes a resource away. Facts and statuses come and go by themselves.
func (v *View) Remove(k resource.Key) {
	old, had := v.resources.Get(v.Graph.Untracked(), k)
	if !had {
		return
	}
	v.resources.Delete(k)
	v.list(listKey{Type: k.Type, Mesh: k.Mesh}, k, false)
	for label, value := range old.Labels {
		v.list(listKey{k.Type, k.Mesh, label, value}, k, false)
	}
}

// Keys yields the keys of all resources, for comparing with a snapshot.
func (v *View) Keys() map[resource.Key]struct{} {
	out := map[resource.Key]struct{}{}
	for k := range v.resources.All() {
		out[k] = struct{}{}
	}
	return out
}

// SetFacts replaces what is observed about a dataplane; nil takes it away.
func (v *View) SetFacts(k resource.Key, f *Facts) {
	if f == nil {
		v.facts.Delete(k)
		return
	}
	v.facts.Set(k, *f)
}

// SetStatus replaces what is derived for a destination; the zero status takes it away.
func (v *View) SetStatus(k resource.Key, s Status) {
	if s.Unavailable {
		v.idle.Set(k, true)
	} else {
		v.idle.Delete(k)
	}
	if len(s.Hostnames) > 0 {
		v.hostnames.Set(k, s.Hostnames)
	} else {
		v.hostnames.Delete(k)
	}
	s.Unavailable, s.Hostnames = false, nil
	if s.Equal(Status{}) {
		v.statuses.Delete(k)
		return
	}
	v.statuses.Set(k, s)
}

// list keeps the lists that somebody has asked for up to date.
func (v *View) list(lk listKey, k resource.Key, in bool) {
	m := v.postings[lk]
	if m == nil {
		return
	}
	if in {
		m.keys[k] = struct{}{}
	} else {
		delete(m.keys, k)
	}
	v.members.Set(lk, m)
}

func (v *View) listed(r *memo.Reader, lk listKey) []resource.Key {
	m := v.postings[lk]
	if m == nil {
		m = &members{keys: map[resource.Key]struct{}{}}
		for k, res := range v.resources.All() {
			if k.Type == lk.Type && k.Mesh == lk.Mesh && (lk.Label == "" || has(res.Labels, lk.Label) && res.Labels[lk.Label] == lk.Value) {
				m.keys[k] = struct{}{}
			}
		}
		v.postings[lk] = m
		v.members.Set(lk, m)
	}
	v.members.Get(r, lk)
	return slices.SortedFunc(maps.Keys(m.keys), resource.Key.Compare)
}

// Resource reads one resource.
func (v *View) Resource(r *memo.Reader, k resource.Key) (resource.Resource, bool) {
	return v.resources.Get(r, k)
}

// FactsOf reads what is observed about a dataplane.
func (v *View) FactsOf(r *memo.Reader, k resource.Key) Facts {
	f, _ := v.facts.Get(r, k)
	return f
}

// StatusOf reads what is derived for a destination, apart from whether it is available and what it is called.
func (v *View) StatusOf(r *memo.Reader, k resource.Key) Status {
	s, _ := v.statuses.Get(r, k)
	return s
}

// All lists the resources of a type in a mesh, by name.
func (v *View) All(r *memo.Reader, typ, meshName string) []resource.Resource {
	return v.load(r, v.listed(r, listKey{Type: typ, Mesh: meshName}), nil)
}

// Select lists the resources of a type in a mesh that carry all labels, by name. An empty selector selects all.
func (v *View) Select(r *memo.Reader, typ, meshName string, sel resource.Selector) []resource.Resource {
	if len(sel) == 0 {
		return v.All(r, typ, meshName)
	}
	label := narrowest(sel)
	return v.load(r, v.listed(r, listKey{typ, meshName, label, sel[label]}), sel)
}

// narrowest picks the label whose list is read: one that is not shared by nearly everything.
func narrowest(sel resource.Selector) string {
	broad := func(k string) int {
		switch k {
		case resource.LabelMesh, resource.LabelZone, resource.LabelOrigin, resource.LabelEnv, resource.LabelNamespace:
			return 1
		}
		return 0
	}
	return slices.MinFunc(slices.Collect(maps.Keys(sel)), func(a, b string) int {
		return cmp.Or(cmp.Compare(broad(a), broad(b)), strings.Compare(a, b))
	})
}

func (v *View) load(r *memo.Reader, keys []resource.Key, sel resource.Selector) []resource.Resource {
	out := make([]resource.Resource, 0, len(keys))
	for _, k := range keys {
		if res, ok := v.resources.Get(r, k); ok && sel.Matches(res.Labels) {
			out = append(out, res)
		}
	}
	return out
}

// KRI is the identifier of a resource.
func (v *View) KRI(res resource.Resource) resource.KRI {
	k, _ := v.kinds.ByName(res.Type)
	return resource.KRIOf(k, res.Meta)
}

// Resources lists all resources, in no order.
func (v *View) Resources() []resource.Resource {
	var out []resource.Resource
	for _, r := range v.resources.All() {
		out = append(out, r)
	}
	return out
}

// Statuses copies what is derived.
func (v *View) Statuses() map[resource.Key]Status {
	out := map[resource.Key]Status{}
	for k, s := range v.statuses.All() {
		out[k] = s
	}
	for k := range v.idle.All() {
		s := out[k]
		s.Unavailable = true
		out[k] = s
	}
	for k, hosts := range v.hostnames.All() {
		s := out[k]
		s.Hostnames = hosts
		out[k] = s
	}
	return out
}
