// Package tcproute is the MeshTCPRoute policy: which backends the connections to a destination are divided among. It knows
// connections of bytes only; requests are routed by MeshHTTPRoute.
package tcproute

import (
	"encoding/json"
	"math"
	"slices"

	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// Policy is MeshTCPRoute.
var Policy = policy.Kind[RuleConf]{
	Name: "MeshTCPRoute", Path: "meshtcproutes", Short: "mtcpr", Singular: "Mesh TCP Route", Plural: "Mesh TCP Routes",
	ToKinds: []string{policy.TargetService, policy.TargetExternal, policy.TargetMultiZone},
	NewSpec: func() any { return new(Spec) }, CheckSpec: checkSpec, WarnSpec: warnSpec,
	Merge: merge, Hooks: hooks,
}

// Spec is what users write.
type Spec struct {
	// TargetRef selects the proxies whose connections are divided; absent means every proxy of the mesh.
	TargetRef *policy.TargetRef `json:"targetRef,omitempty"`
	// To says where connections go, per destination. At least one.
	To []To `json:"to,omitempty"`
}

// To divides the connections to the destinations it targets.
type To struct {
	// TargetRef selects destinations.
	TargetRef policy.TargetRef `json:"targetRef"`
	// Rules holds one rule; there is nothing that several could be told apart by.
	Rules []Rule `json:"rules,omitempty"`
}

// Rule says where connections go.
type Rule struct {
	// Default says where connections go.
	Default RuleConf `json:"default"`
}

// RuleConf says where connections go.
type RuleConf struct {
	// BackendRefs share the connections by weight; a weight of 0 gets none. At least one.
	// The share of a backend that does not exist is closed.
	BackendRefs []policy.BackendRef `json:"backendRefs,omitempty"`
}

const maxWeight = math.MaxUint32

func checkSpec(spec any) resource.Problems {
	s, ok := spec.(*Spec)
	if !ok {
		return nil
	}
	var ps resource.Problems
	for i, t := range s.To {
		at := resource.Path("spec.to").Index(i).Field("rules")
		if len(t.Rules) > 1 {
			ps.Add(at, "has %d rules, at most 1 is allowed", len(t.Rules))
		}
		for j, r := range t.Rules {
			ps.Append(r.Default.check(at.Index(j).Field("default.backendRefs")))
		}
	}
	return ps
}

func (c RuleConf) check(at resource.Path) resource.Problems {
	var ps resource.Problems
	if len(c.BackendRefs) == 0 {
		ps.Add(at, "must have at least one backend")
	}
	var total uint64
	for i, b := range c.BackendRefs {
		ps.Append(b.Check(at.Index(i)))
		total += uint64(b.WeightOrDefault())
	}
	if total > maxWeight {
		ps.Add(at, "weights add up to %d, at most %d is allowed", total, uint32(maxWeight))
	}
	return ps
}

func warnSpec(spec any) []string {
	s, ok := spec.(*Spec)
	if !ok {
		return nil
	}
	var out []string
	for i, t := range s.To {
		at := resource.Path("spec.to").Index(i)
		if len(t.Rules) == 0 {
			out = append(out, string(at)+" has no effect without rules")
		}
		for j, r := range t.Rules {
			backends := r.Default.BackendRefs
			if !slices.ContainsFunc(backends, func(b policy.BackendRef) bool { return b.WeightOrDefault() > 0 }) && len(backends) > 0 {
				out = append(out, string(at.Field("rules").Index(j).Field("default.backendRefs"))+" closes every connection: all weights are 0")
			}
		}
	}
	return out
}

// merge takes the rule of the strongest policy that has one, as a whole.
func merge(in []policy.Sourced) policy.Merged {
	for _, s := range slices.Backward(in) {
		var to To
		if b, err := json.Marshal(s.Conf); err != nil || json.Unmarshal(b, &to) != nil || len(to.Rules) == 0 {
			continue // what does not fit was refused when it was written
		}
		r := to.Rules[0].Default
		for i, b := range r.BackendRefs {
			r.BackendRefs[i] = b.In(s.Home)
		}
		m := policy.Merged{Origins: []policy.Origin{{Field: "backendRefs", Policy: s.Policy, Index: s.Index}}}
		if b, err := json.Marshal(r); err == nil && json.Unmarshal(b, &m.Conf) == nil {
			return m
		}
	}
	return policy.Merged{}
}

var hooks = policy.Hooks[RuleConf]{
	Split: policy.Hook[func(RuleConf, proxy.Destination, policy.Resolve) []policy.Share]{Apply: split},
}

// split is where connections go. When nobody may get any, all are the share of a backend that does not exist: they are closed,
// and never go to the destination after all.
func split(c RuleConf, _ proxy.Destination, resolve policy.Resolve) []policy.Share {
	var out []policy.Share
	for _, b := range c.BackendRefs {
		w := b.WeightOrDefault()
		if w == 0 {
			continue
		}
		cluster, ok := resolve(b)
		if !ok {
			cluster = ""
		}
		out = append(out, policy.Share{Cluster: cluster, Weight: w})
	}
	if len(out) == 0 {
		out = []policy.Share{{Weight: 1}}
	}
	return out
}
