package mesh

import (
	"time"

	"github.com/causeway-mesh/causeway/api/resource"
)

// Workload is the set of proxies with the same kuma.io/workload label. It is made by the control plane.
type Workload struct{}

// WorkloadStatus is what the control plane reports about a workload.
type WorkloadStatus struct {
	// DataplaneProxies counts the proxies of the workload.
	DataplaneProxies DataplaneProxies `json:"dataplaneProxies,omitzero"`
	// UnusedSince is when the workload lost its last dataplane; it is removed some time after.
	UnusedSince time.Time `json:"unusedSince,omitzero"`
}

var workloadKind = resource.Kind{
	Name: TypeWorkload, Path: "workloads", Short: "wl", Singular: "Workload", Plural: "Workloads",
	Scope: resource.ScopeMesh, Flow: resource.FromZone, Names: resource.RFC1035Label,
	New: func() any { return new(Workload) }, NewStatus: func() any { return new(WorkloadStatus) }, Requires: requires,
}
