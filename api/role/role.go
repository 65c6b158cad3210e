// Package role says for whom a policy speaks, by where it is written and what it targets. It does not say what policies do, or to which proxies:
// that is package policy, which knows Envoy.
package role

import (
	"encoding/json"

	"github.com/causeway-mesh/causeway/api/resource"
)

// The roles of a policy, which bound whom it may affect.
const (
	System        = "system"
	Producer      = "producer"
	Consumer      = "consumer"
	WorkloadOwner = "workload-owner"
)

// Stored is the role that a control plane computed, system when there is none.
func Stored(m resource.Meta) string {
	if r := m.Label(resource.LabelPolicyRole); r != "" {
		return r
	}
	return System
}

// InNamespace is the role of a policy that belongs to a namespace of applications, by what its items of to target: services and routes of its
// own make it that of a producer, others that of a consumer; without such items it is that of the owner of workloads. What mixes them is a problem.
func InNamespace(r resource.Resource) (string, resource.Problems) {
	own, foreign := targets(r)
	switch {
	case len(own)+len(foreign) == 0:
		return WorkloadOwner, nil
	case len(foreign) == 0:
		return Producer, nil
	case len(own) == 0:
		return Consumer, nil
	}
	var ps resource.Problems
	for _, i := range foreign {
		ps.Add(itemPath(i), "is not a service or route of this policy's own, as another item targets; write two policies")
	}
	return "", ps
}

// CheckProducer reports what keeps a policy from speaking for the owner of services to clients in all zones: every item of to must target
// services or routes of its own.
func CheckProducer(r resource.Resource) resource.Problems {
	own, foreign := targets(r)
	var ps resource.Problems
	for _, i := range foreign {
		ps.Add(itemPath(i), "must be a MeshService or MeshHTTPRoute of the policy's own, selected by %s alone, in a policy of role %s", resource.LabelDisplayName, Producer)
	}
	if len(own)+len(foreign) == 0 {
		ps.Add("spec.to", "must not be empty in a policy of role %s", Producer)
	}
	return ps
}

func itemPath(i int) resource.Path { return resource.Path("spec.to").Index(i).Field("targetRef") }

// targets divides the items of to by whether they target what is the policy's own.
func targets(r resource.Resource) (own, foreign []int) {
	var spec struct {
		To []struct {
			TargetRef target `json:"targetRef"`
		} `json:"to"`
	}
	if json.Unmarshal(r.Raw, &spec) != nil {
		return nil, nil // decoding has reported it
	}
	for i, item := range spec.To {
		if item.TargetRef.isOwn(r.Meta) {
			own = append(own, i)
		} else {
			foreign = append(foreign, i)
		}
	}
	return own, foreign
}

// target is what matters of a targetRef.
type target struct {
	Kind   string            `json:"kind"`
	Labels map[string]string `json:"labels"`
}

// isOwn says that a target is a service or route of the policy's namespace and zone: one that is named and for which no other is said.
func (t target) isOwn(m resource.Meta) bool {
	if t.Kind != "MeshService" && t.Kind != "MeshHTTPRoute" || t.Labels[resource.LabelDisplayName] == "" {
		return false
	}
	for k, v := range t.Labels {
		switch k {
		case resource.LabelDisplayName:
		case resource.LabelNamespace:
			if v != m.Namespace() {
				return false
			}
		case resource.LabelZone:
			if v != m.Zone() {
				return false
			}
		default:
			return false
		}
	}
	return true
}
