package hosting

import (
	"github.com/causeway-mesh/causeway/api/policies"
	"github.com/causeway-mesh/causeway/api/resource"
)

// ShowConditions adds to the status of a resource the conditions that follow from what else is declared.
func ShowConditions(each policies.Each, r resource.Resource, status []byte) []byte {
	found := policies.Conditions(r, each)
	if len(found) == 0 {
		return status
	}
	if len(status) == 0 {
		status = []byte("{}")
	}
	return overlay(status, map[string]any{"conditions": found})
}
