package mesh

import (
	"net/netip"
	"strings"

	"github.com/causeway-mesh/causeway/api/resource"
)

// MeshZoneAddress is a public address of the ingress of the zone that owns it.
type MeshZoneAddress struct {
	// Address is the IP or DNS name at which other zones reach the ingress. Required; with a loopback or link-local address it is used in demo mode only.
	Address string `json:"address"`
	// Port of the ingress, 1 to 65535. Required.
	Port uint32 `json:"port"`
}

var meshZoneAddressKind = resource.Kind{
	Name: TypeMeshZoneAddress, Path: "meshzoneaddresses", Short: "mza", Singular: "Mesh Zone Address", Plural: "Mesh Zone Addresses",
	Scope: resource.ScopeMesh, Flow: resource.FromZone | resource.AcrossZones,
	New: func() any { return new(MeshZoneAddress) }, Validate: validateMeshZoneAddress, Warn: warnMeshZoneAddress, Requires: requires,
}

func validateMeshZoneAddress(r resource.Resource) resource.Problems {
	m := r.Spec.(*MeshZoneAddress)
	var ps problems
	ps.reachable("spec.address", m.Address)
	ps.port("spec.port", m.Port)
	return ps.Problems
}

func warnMeshZoneAddress(r resource.Resource) []string {
	if m := r.Spec.(*MeshZoneAddress); m.IsLocal() {
		return []string{"spec.address: other hosts cannot reach " + m.Address + "; other zones use it in demo mode only"}
	}
	return nil
}

// IsLocal says that the address means something else on every host: loopback and link-local addresses.
func (m *MeshZoneAddress) IsLocal() bool {
	if m.Address == "localhost" || strings.HasSuffix(m.Address, ".localhost") {
		return true
	}
	a, err := netip.ParseAddr(m.Address)
	return err == nil && (a.Unmap().IsLoopback() || a.Unmap().IsLinkLocalUnicast())
}
