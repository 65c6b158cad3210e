// Package api is the one complete list of resource kinds: the plain ones of package mesh and every policy.
// It holds no kind of its own and does no I/O; the folders below it are the domain of Causeway.
package api

import (
	"slices"
	"sync"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policies"
	"github.com/causeway-mesh/causeway/api/resource"
)

var kinds = sync.OnceValue(func() *resource.Kinds {
	return resource.NewKinds(slices.Concat(mesh.Kinds, policies.Kinds())...)
})

// Kinds returns every kind of resource that Causeway knows, in the order people meet them.
func Kinds() *resource.Kinds { return kinds() }
