package policy

import (
	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/api/proxy"
)

// A Patch is the last word on finished Envoy resources: what one modification does after all policies have been applied.
type Patch struct {
	// ID is a hash of what the patch does: equal patches have equal IDs, whatever policy they stand in.
	ID string
	// Name tells people which modification of its policy it is.
	Name string
	// Conf is a configuration that holds this modification alone, as canonical JSON.
	Conf string
	// Whole says that the patch reads or writes the address of a listener, so that it cannot be applied to what proxies share.
	Whole bool
	// Opens says that afterwards there may be filters or virtual hosts that were not there before.
	Opens bool
	// Matches says whether the patch edits a resource.
	Matches func(proxy.Resource) bool
	// Apply edits a message in place, or says that the resource is to go.
	Apply func(proto.Message) (remove bool, err error)
	// Add is a resource that it adds; Matches and Apply are then nil.
	Add *Added
}

// Added is a resource that a patch adds to a proxy, or replaces there.
type Added struct {
	Kind    proxy.ResourceKind
	Name    string
	Message proto.Message // not to be modified
}
