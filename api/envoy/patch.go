package envoy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/api/memo"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
)

// Patches of users come last: they edit what has been made for a proxy. To keep sharing, a patched fragment is computed from the
// fragment that everybody else gets and the patches that match it, once for all who have both. So a patch costs what it matches.

// A Patching names the patches of a proxy.
type Patching struct {
	// Policies holds the policies that patch, as canonical JSON of type and set.
	Policies string
	// Envoy is the version that the proxy runs, when Envoys of that version have refused anything; else empty.
	Envoy string
}

// A patchDef is one modification and where it stands.
type patchDef struct {
	patchConf
	Policy resource.KRI
	ID     string
	Name   string // of the modification in its policy
}

// A patchConf is what one modification does.
type patchConf struct {
	Type string `json:"t"`
	Conf string `json:"c"`
}

// A patchListKey names policies that patch.
type patchListKey struct{ Mesh, Policies string }

// A patchKey names a fragment with patches. Patches holds them in order, as canonical JSON.
type patchKey struct {
	Base    *Fragment // nil for a resource that the first patch adds
	Patches string
	Half    bool // the base lacks an address
	Envoy   string
}

// A patched is what has become of a fragment.
type patched struct {
	frag   *Fragment // nil when it is removed
	half   *halfListener
	faults []fault
}

// A fault is a patch that is left out.
type fault struct{ ID, Text string }

func samePatched(a, b patched) bool {
	return sameBuilt(built{frag: a.frag}, built{frag: b.frag}) && slices.Equal(a.faults, b.faults)
}

// patchingOf finds the patches of a proxy.
func (c *Compiler) patchingOf(r *memo.Reader, k resource.Key, selected []view.Selected) Patching {
	p := c.patching(encodeSets(selected, proxySet), "")
	if p.Policies == "" {
		return p
	}
	if version := c.view.EnvoyOf(r, k); c.view.Refused(r, version) != nil {
		p.Envoy = version
	}
	return p
}

// patching keeps the policies that patch.
func (c *Compiler) patching(proxySets, envoy string) Patching {
	sets := decodeSets(proxySets)
	var out []typedSet
	for _, p := range c.view.Policies() {
		typ := p.Resource().Name
		if _, ok := p.Fields(policy.HookPatches); ok && sets[typ] != "" {
			out = append(out, typedSet{typ, sets[typ]})
		}
	}
	if out == nil {
		return Patching{}
	}
	return Patching{encode(out), envoy}
}

// computePatches lists the modifications of policies, those of the weakest policy first.
func (c *Compiler) computePatches(r *memo.Reader, k patchListKey) []patchDef {
	var sets []typedSet
	decode(k.Policies, &sets)
	var out []patchDef
	for _, s := range sets {
		for _, e := range c.view.Defaults(r, s.Type, k.Mesh, s.Set) {
			_ = c.apply([]conf{{Type: s.Type, Conf: encode(e.Conf)}}, func(_ string, b policy.Bound) { // what cannot be read was refused
				for _, p := range b.Patches() {
					out = append(out, patchDef{patchConf{s.Type, p.Conf}, e.Policy, p.ID, p.Name})
				}
			})
		}
	}
	return out
}

// bindPatch reads one modification.
func (c *Compiler) bindPatch(_ *memo.Reader, d patchConf) policy.Patch {
	var out policy.Patch
	_ = c.apply([]conf{{Type: d.Type, Conf: d.Conf}}, func(_ string, b policy.Bound) {
		for _, p := range b.Patches() {
			out = p
		}
	})
	return out
}

// originOf says what a resource is there for. Names are made so that they tell.
func originOf(name string) string {
	for _, o := range []struct{ prefix, origin string }{
		{"self_inbound_", "inbound"},
		{"self_outbound_", "outbound"},
		{"self_transparentproxy_", "transparent"},
		{"self_zoneingress_", "ingress"},
		{"self_zoneegress_", "egress"},
		{sniPrefix, "ingress"},
		{healthCluster, "ingress"},
		{"direct_access", "direct-access"},
		{"meshpassthrough_", "meshpassthrough"},
		{"system_meshmetric_", "prometheus"},
		{"system_meshtrace_", "mesh-trace"},
		{"system_meshaccesslog_", "mesh-access-log"},
		{"system_", "admin"},
	} {
		if strings.HasPrefix(name, o.prefix) {
			return o.origin
		}
	}
	return "outbound"
}

// originAdded is the origin of what a patch adds.
const originAdded = "mesh-proxy-patch"

// labelUnifiedName is the tag of outbound listeners.
const labelUnifiedName = "kuma.io/unified-name"

// kindOf is what patches call a type; ok is false for what they do not reach.
func kindOf(t Type) (k proxy.ResourceKind, ok bool) {
	k, ok = map[Type]proxy.ResourceKind{
		Cluster: proxy.ClusterResource, Listener: proxy.ListenerResource, Route: proxy.RoutesResource, Extension: proxy.FilterResource,
	}[t]
	return k, ok
}

// A parts lists what a fragment is made of, by name.
type parts struct{ network, http, hosts []string }

// computeParts looks into a listener or a route configuration.
func (c *Compiler) computeParts(_ *memo.Reader, f *Fragment) parts {
	var out parts
	m, err := f.message()
	if err != nil {
		return out
	}
	switch m := m.(type) {
	case *listenerv3.Listener:
		for _, chain := range chainsOf(m) {
			for _, x := range chain.Filters {
				out.network = append(out.network, x.Name)
				var h hcmv3.HttpConnectionManager
				if x.GetTypedConfig().UnmarshalTo(&h) == nil {
					for _, y := range h.HttpFilters {
						out.http = append(out.http, y.Name)
					}
				}
			}
		}
	case *routev3.RouteConfiguration:
		for _, h := range m.VirtualHosts {
			out.hosts = append(out.hosts, h.Name)
		}
	}
	return out
}

// message decodes the fragment.
func (f *Fragment) message() (proto.Message, error) {
	var m proto.Message
	switch f.Type {
	case Cluster:
		m = new(clusterv3.Cluster)
	case Listener:
		m = new(listenerv3.Listener)
	case Route:
		m = new(routev3.RouteConfiguration)
	case Extension:
		m = new(corev3.TypedExtensionConfig)
	default:
		return nil, fmt.Errorf("%s is not patched", f.Type)
	}
	return m, proto.Unmarshal(f.Body(), m)
}

// refsOf are the references that can be read from a message.
func refsOf(m proto.Message) []Ref {
	switch m.(type) {
	case *clusterv3.Cluster:
		return clusterRefs(m)
	case *routev3.RouteConfiguration:
		return routeRefs(m)
	case *corev3.TypedExtensionConfig:
		return splitRefs(m)
	}
	return listenerRefs(m)
}

// A patcher applies the patches of a proxy to one of its parts.
type patcher struct {
	c     *Compiler
	r     *memo.Reader
	envoy string
	defs  []patchDef
	tags  map[string]string // of inbound listeners
	out   *collector
}

// patch applies patches to everything collected so far. Tags are those of the listeners of a part that is one proxy's own; only
// there resources are added, because only there it is known what the proxy has.
func (c *Compiler) patch(r *memo.Reader, meshName string, p Patching, tags map[string]string, own bool, out *collector) {
	if p.Policies == "" {
		return
	}
	x := &patcher{c: c, r: r, envoy: p.Envoy, defs: c.patchLists.Get(r, patchListKey{meshName, p.Policies}), tags: tags, out: out}
	pieces := out.pieces
	out.pieces = nil
	filters := x.filters(pieces)
	for _, piece := range pieces {
		ref := piece.ref()
		kind, ok := kindOf(ref.Type)
		if !ok {
			out.pieces = append(out.pieces, piece)
			continue
		}
		res := proxy.Resource{Kind: kind, Name: ref.Name, Origin: originOf(ref.Name)}
		if f, ok := filters[ref.Name]; ok && kind == proxy.FilterResource {
			f.Kind, f.Name = kind, ref.Name
			res = f
		}
		if kind == proxy.ListenerResource {
			res.Tags = x.tagsOf(res.Name, res.Origin)
		}
		x.piece(piece, res)
	}
	if own {
		x.add()
	}
}

// tagsOf are the tags of a listener.
func (x *patcher) tagsOf(listener, origin string) map[string]string {
	if origin == "outbound" {
		return map[string]string{labelUnifiedName: listener}
	}
	return x.tags
}

func (x *patcher) bound(d patchDef) policy.Patch { return x.c.boundPatches.Get(x.r, d.patchConf) }

// filters describes the filters that travel apart from their listeners.
func (x *patcher) filters(pieces []piece) map[string]proxy.Resource {
	apart := slices.ContainsFunc(pieces, func(p piece) bool { return p.ref().Type == Extension })
	if !apart {
		return nil
	}
	out := map[string]proxy.Resource{}
	for _, p := range pieces {
		ref := p.ref()
		if ref.Type != Listener {
			continue
		}
		for _, to := range p.base().Refs {
			if to.Type != Extension {
				continue
			}
			f := proxy.Resource{Listener: ref.Name, Origin: originOf(ref.Name)}
			f.Tags = x.tagsOf(f.Listener, f.Origin)
			if all := x.c.parts.Get(x.r, p.base()); slices.Contains(all.http, to.Name) {
				f.HTTPFilters = []string{to.Name}
			} else {
				f.NetworkFilters = []string{to.Name}
			}
			out[to.Name] = f
		}
	}
	return out
}

// matching picks the patches that reach a resource, in order. What it is made of is looked up only if that can matter.
func (x *patcher) matching(res proxy.Resource, look func() parts, from int) []patchDef {
	var out []patchDef
	looked := res.Open || res.Kind == proxy.FilterResource || res.Kind == proxy.ClusterResource
	for _, d := range x.defs[from:] {
		p := x.bound(d)
		if p.Matches == nil {
			continue
		}
		if !looked {
			guess := res
			guess.Open = true
			if !p.Matches(guess) {
				continue
			}
			all := look()
			res.NetworkFilters, res.HTTPFilters, res.VirtualHosts = all.network, all.http, all.hosts
			looked = true
		}
		if p.Matches(res) {
			out = append(out, d)
			res.Open = res.Open || p.Opens
		}
	}
	return out
}

// piece patches one piece and collects what becomes of it.
func (x *patcher) piece(p piece, res proxy.Resource) {
	base := p.base()
	defs := x.matching(res, func() parts { return x.c.parts.Get(x.r, base) }, 0)
	if len(defs) == 0 {
		x.out.pieces = append(x.out.pieces, p)
		return
	}
	if p.half != nil && slices.ContainsFunc(defs, func(d patchDef) bool { return x.bound(d).Whole }) {
		b := p.whole()
		x.out.add(built{problem: b.problem})
		if b.frag == nil {
			return
		}
		p, base = piece{frag: b.frag}, b.frag
	}
	done := x.get(base, p.half != nil, defs)
	x.report(Ref{base.Type, base.Name}, done.faults, defs)
	switch {
	case done.frag == nil:
	case p.half != nil:
		x.out.pieces = append(x.out.pieces, piece{half: done.half, at: p.at})
	default:
		x.out.pieces = append(x.out.pieces, piece{frag: done.frag})
	}
}

func (x *patcher) get(base *Fragment, half bool, defs []patchDef) patched {
	return x.c.patchedFrags.Get(x.r, patchKey{base, encodePatches(defs), half, x.envoy})
}

// report turns faults into problems that name policies.
func (x *patcher) report(ref Ref, faults []fault, defs []patchDef) {
	for _, f := range faults {
		for _, d := range defs {
			if d.ID == f.ID {
				x.out.add(built{problem: &Problem{ref, d.Name + " is left out: " + f.Text, []resource.KRI{d.Policy}}})
			}
		}
	}
}

// add makes the resources that patches add, each with the patches behind it that match.
func (x *patcher) add() {
	names := map[Ref]int{}
	for i, p := range x.out.pieces {
		names[p.ref()] = i
	}
	for i, d := range x.defs {
		p := x.bound(d)
		if p.Add == nil {
			continue
		}
		typ := Cluster
		if p.Add.Kind == proxy.ListenerResource {
			typ = Listener
		}
		ref := Ref{typ, p.Add.Name}
		if _, taken := names[ref]; taken {
			x.report(ref, []fault{{d.ID, takenText(typ)}}, []patchDef{d})
			continue
		}
		names[ref] = -1
		res := proxy.Resource{Kind: p.Add.Kind, Name: p.Add.Name, Origin: originAdded, Open: true, Tags: x.tags}
		defs := append([]patchDef{d}, x.matching(res, nil, i+1)...)
		done := x.get(nil, false, defs)
		x.report(ref, done.faults, defs)
		if done.frag != nil {
			x.out.pieces = append(x.out.pieces, piece{frag: done.frag})
		}
	}
}

func takenText(t Type) string {
	return fmt.Sprintf("there is one of this name already (%s); remove it first, or patch it", t)
}

// A namedPatch is a patch as a key holds it.
type namedPatch struct {
	patchConf
	Policy resource.KRI `json:"p"`
}

func encodePatches(defs []patchDef) string {
	out := make([]namedPatch, len(defs))
	for i, d := range defs {
		out[i] = namedPatch{d.patchConf, d.Policy}
	}
	return encode(out)
}

// A stepOf is one patch that is applied, and whose it is.
type stepOf struct {
	policy.Patch
	by resource.KRI
}

// buildPatched applies patches to a fragment, without those that Envoy has refused.
func (c *Compiler) buildPatched(r *memo.Reader, k patchKey) patched {
	var list []namedPatch
	decode(k.Patches, &list)
	var steps []stepOf
	for _, n := range list {
		steps = append(steps, stepOf{c.boundPatches.Get(r, n.patchConf), n.Policy})
	}
	var refused *view.Refusals
	if k.Envoy != "" {
		refused = c.view.Refused(r, k.Envoy)
	}
	var faults []fault
	for {
		f, applied, more := assemble(k.Base, steps)
		if f == nil {
			return patched{faults: slices.Concat(faults, more)}
		}
		kept, out := refused.Without(f.Type.String(), f.BaseOrVersion(), f.Patches)
		if len(kept) == len(f.Patches) {
			if f != k.Base {
				f.Origins = originsWith(f.Origins, applied)
			}
			out := patched{frag: f, faults: slices.Concat(faults, more)}
			if k.Half {
				out.half = newHalf(f, nil)
			}
			return out
		}
		for _, id := range slices.Sorted(maps.Keys(out)) {
			faults = append(faults, fault{id, "Envoy refuses it: " + out[id]})
		}
		steps = slices.DeleteFunc(steps, func(s stepOf) bool { _, gone := out[s.ID]; return gone })
	}
}

func originsWith(origins []resource.KRI, applied []stepOf) []resource.KRI {
	out := slices.Clone(origins)
	for _, s := range applied {
		out = append(out, s.by)
	}
	slices.SortFunc(out, resource.KRI.Compare)
	return slices.Compact(out)
}

// assemble applies patches to a fragment: together when the result is valid, or else one after the other without those that break it.
func assemble(base *Fragment, steps []stepOf) (f *Fragment, applied []stepOf, faults []fault) {
	for _, eachValid := range []bool{false, true} {
		m, typ, applied, faults, err := applyAll(base, steps, eachValid)
		if err != nil || m == nil {
			return nil, nil, faults
		}
		if f, err := patchedFragment(base, typ, m, applied); err == nil {
			return f, applied, faults
		}
	}
	return base, nil, faults // cannot be: without a patch it is as it was
}

// applyAll applies patches one by one to a copy of a fragment's message, nil when that is removed. Patches that fail are left out.
func applyAll(base *Fragment, steps []stepOf, eachValid bool) (m proto.Message, typ Type, applied []stepOf, faults []fault, err error) {
	if base != nil {
		typ = base.Type
		if m, err = base.message(); err != nil {
			return nil, typ, nil, nil, err
		}
	}
	for _, s := range steps {
		if s.Add != nil {
			if s.Add.Kind == proxy.ListenerResource {
				typ = Listener
			}
			m, applied = proto.Clone(s.Add.Message), append(applied, s)
			continue
		}
		if m == nil {
			break // what was to be added is not there
		}
		next := proto.Clone(m)
		gone, err := s.Apply(next)
		switch {
		case err == nil && gone:
			return nil, typ, applied, faults, nil
		case err == nil && nameOf(next) != nameOf(m):
			err = fmt.Errorf("a resource cannot be renamed")
		case err == nil && eachValid:
			err = policy.Validate(next)
		}
		switch {
		case err != nil:
			faults = append(faults, fault{s.ID, err.Error()})
		case !proto.Equal(next, m):
			m, applied = next, append(applied, s)
		}
	}
	return m, typ, applied, faults, nil
}

func nameOf(m proto.Message) string {
	n, _ := m.(interface{ GetName() string })
	return n.GetName()
}

// patchedFragment freezes what has become of a fragment.
func patchedFragment(base *Fragment, typ Type, m proto.Message, applied []stepOf) (*Fragment, error) {
	if base != nil && len(applied) == 0 {
		return base, nil
	}
	if err := policy.Validate(m); err != nil {
		return nil, err
	}
	f, err := NewFragment(typ, nameOf(m), m)
	if err != nil {
		return nil, err
	}
	f.Base = baseAdded
	f.Refs = refsOf(m)
	if base != nil {
		f.Base, f.Origins = base.BaseOrVersion(), base.Origins
		f.Refs = refsAfter(base, f.Refs)
	}
	for _, s := range applied {
		f.Patches = append(f.Patches, s.ID)
	}
	return f, nil
}

// refsAfter are the references of a fragment after a patch: those that cannot be read from a message stay.
func refsAfter(base *Fragment, now []Ref) []Ref {
	before, err := base.message()
	if err != nil {
		return now
	}
	read := refsOf(before)
	out := slices.DeleteFunc(slices.Clone(now), func(ref Ref) bool { // what was no reference before is none now
		return slices.Contains(read, ref) && !slices.Contains(base.Refs, ref)
	})
	for _, ref := range base.Refs {
		if !slices.Contains(read, ref) && !slices.Contains(out, ref) {
			out = append(out, ref)
		}
	}
	return out
}

// apart takes out of the own part what the shared part has under the same name: a patch was to add what is there already.
func apart(p ProxyConfig) ProxyConfig {
	var kept []*Fragment
	var taken []Problem
	for t := range NumTypes {
		for _, f := range p.Own.Of(t) {
			if f.Base == baseAdded && p.Shared.Get(t, f.Name) != nil {
				taken = append(taken, Problem{Ref{t, f.Name}, "not added: " + takenText(t), f.Origins})
				continue
			}
			kept = append(kept, f)
		}
	}
	if taken != nil {
		p.Own, p.Problems = NewPart(kept), slices.Concat(p.Problems, taken)
	}
	return p
}

// baseAdded is the base of what a patch adds.
const baseAdded = "added"
