// Package trafficpermission is the MeshTrafficPermission policy: which clients a workload accepts. Where clients have to prove
// an identity, everything that is not allowed is denied. It asks for no identity itself; MeshIdentity and MeshTLS do.
package trafficpermission

import (
	"encoding/json"
	"slices"

	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// Policy is MeshTrafficPermission.
var Policy = policy.Kind[Effective]{
	Name: "MeshTrafficPermission", Path: "meshtrafficpermissions", Short: "mtp",
	Singular: "Mesh Traffic Permission", Plural: "Mesh Traffic Permissions",
	Rules: true, Restricts: true,
	NewSpec: func() any { return new(Spec) }, CheckSpec: checkSpec,
	Base: base, Merge: merge, ForServerName: Effective.about, Hooks: hooks,
}

// A Spec is what users write.
type Spec struct {
	// TargetRef selects the proxies that accept or deny; absent means every proxy of the mesh.
	TargetRef *policy.TargetRef `json:"targetRef,omitempty"`
	// Rules add up: those of every policy that selects a proxy are in force together.
	Rules []Rule `json:"rules,omitempty"`
}

// A Rule is one set of permissions.
type Rule struct {
	// Default lists who is allowed and who is denied.
	Default Conf `json:"default"`
}

// Conf lists clients. A denial of any policy is stronger than every permission; who is in no list is denied.
type Conf struct {
	// Deny lists clients that are denied whatever else allows them.
	Deny []policy.Match `json:"deny,omitempty"`
	// Allow lists clients that are accepted.
	Allow []policy.Match `json:"allow,omitempty"`
	// AllowWithShadowDeny lists clients that are accepted but counted and logged as denied, to try a denial out.
	AllowWithShadowDeny []policy.Match `json:"allowWithShadowDeny,omitempty"`
}

// Effective is the union of all rules that concern an inbound.
type Effective struct {
	Deny                []Entry `json:"deny,omitempty"`
	AllowWithShadowDeny []Entry `json:"allowWithShadowDeny,omitempty"`
	Allow               []Entry `json:"allow,omitempty"`
	// Otherwise is what happens to everybody else: Deny.
	Otherwise string `json:"otherwise,omitempty"`
}

// An Entry is one match and the KRI of the policy that it stands in.
type Entry struct {
	policy.Match
	Origin string `json:"origin"`
}

func (c Conf) list(name string) []policy.Match {
	switch name {
	case "deny":
		return c.Deny
	case "allowWithShadowDeny":
		return c.AllowWithShadowDeny
	default:
		return c.Allow
	}
}

var lists = []string{"deny", "allowWithShadowDeny", "allow"}

func checkSpec(spec any) resource.Problems {
	s, ok := spec.(*Spec)
	if !ok {
		return nil
	}
	var ps resource.Problems
	for i, r := range s.Rules {
		at := resource.Path("spec").Field("rules").Index(i).Field("default")
		if len(r.Default.Deny)+len(r.Default.Allow)+len(r.Default.AllowWithShadowDeny) == 0 {
			ps.Add(at, "must have at least one entry in deny, allow or allowWithShadowDeny")
		}
		for _, name := range lists {
			for j, m := range r.Default.list(name) {
				ps.Append(policy.CheckMatch(at.Field(name).Index(j), m))
			}
		}
	}
	return ps
}

// base denies everybody, so that an inbound that nobody speaks of is closed.
func base(d proxy.Direction, _ string) Effective {
	if d == proxy.Outbound {
		return Effective{} // permission is the receiver's affair
	}
	return Effective{Otherwise: "Deny"}
}

// merge is a union: no rule hides another. The strongest policy comes first, so that it is named as the reason
// when several hold.
func merge(in []policy.Sourced) policy.Merged {
	out := map[string]any{}
	var origins []policy.Origin
	seen := map[string]bool{}
	for _, s := range slices.Backward(in) {
		if s.Policy.IsZero() {
			if v, ok := s.Conf["otherwise"]; ok {
				out["otherwise"] = v
			}
			continue
		}
		for _, name := range lists {
			origin := policy.Origin{Field: name, Policy: s.Policy, Index: s.Index}
			for _, m := range matches(s.Conf, name) {
				key := text(name) + text(m)
				if !seen[key] {
					seen[key] = true
					m["origin"] = s.Policy.String()
					list, _ := out[name].([]any)
					out[name] = append(list, m)
				}
				if !slices.Contains(origins, origin) {
					origins = append(origins, origin)
				}
			}
		}
	}
	if len(out) == 0 {
		return policy.Merged{}
	}
	return policy.Merged{Conf: out, Origins: origins}
}

// about leaves out what is said of other server names, so that it costs nothing where only one comes.
func (c Effective) about(sni string) Effective {
	of := func(list []Entry) []Entry {
		return slices.DeleteFunc(slices.Clone(list), func(e Entry) bool { return e.SNI != nil && e.SNI.Value != sni })
	}
	return Effective{Deny: of(c.Deny), AllowWithShadowDeny: of(c.AllowWithShadowDeny), Allow: of(c.Allow), Otherwise: c.Otherwise}
}

// matches copies one list of a rule as it was written.
func matches(rule map[string]any, name string) []map[string]any {
	conf, _ := rule["default"].(map[string]any)
	list, _ := conf[name].([]any)
	var out []map[string]any
	for _, e := range list {
		m, ok := e.(map[string]any)
		if !ok {
			continue
		}
		c := map[string]any{}
		for _, k := range []string{"spiffeID", "sni"} {
			if v, ok := m[k]; ok && v != nil {
				c[k] = v
			}
		}
		out = append(out, c)
	}
	return out
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return string(b)
}
