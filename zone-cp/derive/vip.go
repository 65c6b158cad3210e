package derive

import (
	"hash/fnv"
	"net/netip"
	"slices"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
)

// A family is the range of virtual addresses of one kind of destination: all addresses x.y.low with low in a region of its own.
// A proxy without transparent proxying binds the low 16 bits of a virtual address in its own loopback block, so as long as
// the first /16 of each family has room, no two destinations meet there.
type family struct {
	short       string
	prefix      byte
	first, last uint16
}

var families = map[string]family{
	mesh.TypeMeshService:          {short: "msvc", prefix: 241, first: 0x0001, last: 0x7fff},
	mesh.TypeMeshExternalService:  {short: "extsvc", prefix: 242, first: 0x8000, last: 0xbfff},
	mesh.TypeMeshMultiZoneService: {short: "mzsvc", prefix: 243, first: 0xc000, last: 0xfffe},
}

func (f family) size() int { return int(f.last) - int(f.first) + 1 }

// at is the address at an offset of a block, which is the second byte.
func (f family) at(block, offset int) netip.Addr {
	low := uint16(int(f.first) + offset)
	return netip.AddrFrom4([4]byte{f.prefix, byte(block), byte(low >> 8), byte(low)})
}

// recorded reads an address of the family back.
func (f family) recorded(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() || a.As4()[0] != f.prefix {
		return netip.Addr{}, false
	}
	return a, true
}

// assignVIPs keeps the recorded address of every destination and gives the others one: the first free behind the hash of the KRI.
func (r *run) assignVIPs() map[resource.Key]string {
	taken := map[netip.Addr]bool{}
	for k := range r.Aside {
		if a, ok := families[k.Type].recorded(vipOf(r.Inputs.Statuses[k])); ok {
			taken[a] = true
		}
	}
	out := make(map[resource.Key]string, len(r.services))
	// Should two have the same one recorded, the older keeps it.
	for _, s := range slices.SortedStableFunc(slices.Values(r.services), mesh.ByAge) {
		a, ok := families[s.Type].recorded(vipOf(r.Inputs.Statuses[s.Key()]))
		if ok && !taken[a] {
			taken[a] = true
			out[s.Key()] = a.String()
		}
	}
	for _, s := range r.services {
		if out[s.Key()] != "" {
			continue
		}
		a, ok := families[s.Type].free(taken, kriOf(s).String())
		if !ok {
			r.problem(s.Key(), "no virtual address is free")
			continue
		}
		taken[a] = true
		out[s.Key()] = a.String()
	}
	return out
}

func (f family) free(taken map[netip.Addr]bool, key string) (netip.Addr, bool) {
	h := fnv.New64a()
	h.Write([]byte(key)) //nolint:errcheck // a hash takes everything
	start := int(h.Sum64() % uint64(f.size()))
	for block := range 256 {
		for i := range f.size() {
			if a := f.at(block, (start+i)%f.size()); !taken[a] {
				return a, true
			}
		}
	}
	return netip.Addr{}, false
}

// vipOf is the recorded address of a destination, empty when there is none.
func vipOf(status any) string {
	var vips []mesh.VIP
	switch s := status.(type) {
	case *mesh.MeshServiceStatus:
		vips = s.VIPs
	case *mesh.MeshMultiZoneServiceStatus:
		vips = s.VIPs
	case *mesh.MeshExternalServiceStatus:
		return s.VIP.IP
	}
	if len(vips) == 0 {
		return ""
	}
	return vips[0].IP
}
