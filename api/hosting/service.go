package hosting

import (
	"encoding/json"

	"github.com/causeway-mesh/causeway/api/mesh"
)

// ShowService completes a MeshService for the API: its state and identities stand in the spec there, though the control plane of its
// zone computes them, and how many proxies serve it is observed. Status is what is derived; what cannot be read is shown as it is.
func ShowService(spec, status []byte, proxies mesh.DataplaneProxies) (newSpec, newStatus []byte) {
	fields := map[string]any{}
	if len(status) > 0 && json.Unmarshal(status, &fields) != nil {
		return spec, status
	}
	spec = overlay(spec, map[string]any{"state": fields["state"], "identities": fields["identities"]})
	delete(fields, "state")
	delete(fields, "identities")
	fields["dataplaneProxies"] = proxies
	b, err := json.Marshal(fields)
	if err != nil {
		return spec, status
	}
	return spec, b
}

// overlay sets fields of a JSON object; nil values leave it alone.
func overlay(object []byte, set map[string]any) []byte {
	var fields map[string]any
	if json.Unmarshal(object, &fields) != nil {
		return object
	}
	for k, v := range set {
		if v != nil {
			fields[k] = v
		}
	}
	b, err := json.Marshal(fields)
	if err != nil {
		return object
	}
	return b
}
