package view

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"

	"github.com/causeway-mesh/causeway/api/memo"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
)

// Names is everything that the workloads of some proxies may look up: immutable, and one value for all that get the same.
type Names struct {
	// List is sorted by host.
	List []Name
	// Domains are those in which there are no other names.
	Domains []string
}

// A Name is a hostname and its addresses, sorted.
type Name struct {
	Host      string
	Addresses []netip.Addr
}

func sameName(a, b Name) bool { return a.Host == b.Host && slices.Equal(a.Addresses, b.Addresses) }

func sameNames(a, b *Names) bool {
	if a == nil || b == nil {
		return a == b
	}
	return slices.EqualFunc(a.List, b.List, sameName) && slices.Equal(a.Domains, b.Domains)
}

// namesKey is what decides over the names of a proxy.
type namesKey struct {
	Mesh string
	// Reachable holds the destinations the proxy asked for as canonical JSON; empty means all.
	Reachable string
}

func (v *View) defineNames() {
	v.names = memo.NewFunc(v.Graph, "names", sameNames, v.computeNames)
	v.serviceNames = memo.NewFunc(v.Graph, "namesOfService", func(a, b []Name) bool { return slices.EqualFunc(a, b, sameName) }, v.computeServiceNames)
	v.namesOf = memo.NewFunc(v.Graph, "namesOfProxy", func(a, b *Names) bool { return a == b }, v.computeNamesOf)
}

// NamesOf keeps the names of a dataplane's workload up to date until the root is closed; nil while there is no such dataplane.
func (v *View) NamesOf(dp resource.Key) *memo.Root[*Names] { return v.namesOf.Root(dp) }

func (v *View) computeNamesOf(r *memo.Reader, k resource.Key) *Names {
	res, _ := v.Resource(r, k)
	dp, ok := res.Spec.(*mesh.Dataplane)
	if !ok {
		return nil
	}
	key := namesKey{Mesh: k.Mesh}
	if tp := dp.Networking.TransparentProxying; tp != nil {
		key.Reachable = EncodeReachable(tp.ReachableBackends)
	}
	return v.names.Get(r, key)
}

func (v *View) computeNames(r *memo.Reader, k namesKey) *Names {
	refs := DecodeReachable(k.Reachable)
	out := &Names{Domains: v.settings.MeshDomains}
	seen := map[resource.Key]bool{}
	owner := map[string]bool{} // of a hostname: the first destination by KRI, should two claim it for a moment
	for _, d := range v.Destinations(r, k.Mesh) {
		service := d.Key.Service
		if seen[service] || !v.Reaches(r, refs, d) {
			continue
		}
		seen[service] = true
		for _, n := range v.serviceNames.Get(r, service) {
			if !owner[n.Host] {
				owner[n.Host] = true
				out.List = append(out.List, n)
			}
		}
	}
	slices.SortFunc(out.List, func(a, b Name) int { return strings.Compare(a.Host, b.Host) })
	return out
}

// computeServiceNames lists the names of one destination, so that whatever else changes of it concerns no list of all names.
func (v *View) computeServiceNames(r *memo.Reader, service resource.Key) []Name {
	hosts, _ := v.hostnames.Get(r, service)
	if len(hosts) == 0 {
		return nil
	}
	addresses := addressesOf(v.StatusOf(r, service).VIPs)
	if len(addresses) == 0 {
		return nil
	}
	var out []Name
	for _, h := range hosts {
		out = append(out, Name{strings.ToLower(strings.TrimSuffix(h, ".")), addresses})
	}
	return out
}

// EncodeReachable makes the backends that a proxy asked for part of a key: canonical JSON, empty for nil, which means all.
func EncodeReachable(refs *mesh.ReachableBackends) string {
	if refs == nil {
		return ""
	}
	b, err := json.Marshal(refs)
	if err != nil {
		return "{}" // none; strings and numbers can always be encoded
	}
	return string(b)
}

// DecodeReachable reads what EncodeReachable wrote.
func DecodeReachable(s string) *mesh.ReachableBackends {
	if s == "" {
		return nil
	}
	out := &mesh.ReachableBackends{}
	_ = json.Unmarshal([]byte(s), out) // written by EncodeReachable, so it can be read
	return out
}

func addressesOf(vips []string) []netip.Addr {
	var out []netip.Addr
	for _, ip := range vips {
		if a, err := netip.ParseAddr(ip); err == nil && a.Zone() == "" {
			out = append(out, a.Unmap())
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// Reaches says whether a proxy that asked for these backends (nil: for all) may send to a destination.
func (v *View) Reaches(r *memo.Reader, refs *mesh.ReachableBackends, d Destination) bool {
	if refs == nil {
		return true
	}
	t, ok := v.Target(r, d.Key)
	return ok && slices.ContainsFunc(refs.Refs, func(ref mesh.ReachableRef) bool {
		switch {
		case ref.Kind != d.Type || ref.Port != 0 && ref.Port != d.Port:
			return false
		case ref.Name != "" && (ref.Name != d.KRI.Name || ref.Namespace != "" && ref.Namespace != d.KRI.Namespace):
			return false
		}
		return resource.Selector(ref.Labels).Matches(t.Labels)
	})
}
