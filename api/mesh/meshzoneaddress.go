package mesh

import "github.com/causeway-mesh/causeway/api/resource"

// MeshZoneAddress is a public address of the ingress of the zone that owns it.
type MeshZoneAddress struct {
	// Address is the IP or DNS name at which other zones reach the ingress. Required; not a loopback, link-local or multicast address.
	Address string `json:"address"`
	// Port of the ingress, 1 to 65535. Required.
	Port uint32 `json:"port"`
}

var meshZoneAddressKind = resource.Kind{
	Name: TypeMeshZoneAddress, Path: "meshzoneaddresses", Short: "mza", Singular: "Mesh Zone Address", Plural: "Mesh Zone Addresses",
	Scope: resource.ScopeMesh, Flow: resource.FromZone | resource.AcrossZones,
	New: func() any { return new(MeshZoneAddress) },
}
