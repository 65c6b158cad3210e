package resource

import (
	"fmt"
	"slices"
	"strings"
)

// Scope says whether objects of a kind live inside a mesh.
type Scope string

// The two scopes.
const (
	ScopeGlobal Scope = "Global"
	ScopeMesh   Scope = "Mesh"
)

// Flow says who may write a kind and where it travels.
type Flow uint8

// The directions of flow; a kind combines them.
const (
	FromGlobal  Flow = 1 << iota // written at global, sent to zones
	FromZone                     // written in a zone, sent to global
	AcrossZones                  // sent on from one zone to the others
	Internal                     // never written through REST
)

// A Kind is one type of resource. Kinds are plain values in an explicit list; nothing registers itself.
type Kind struct {
	Name     string // MeshTimeout
	Path     string // meshtimeouts, as in REST paths
	Short    string // mt, as in KRIs; empty when the kind has no KRI
	Singular string // "Mesh Timeout", for people
	Plural   string // "Mesh Timeouts"
	Scope    Scope
	Flow     Flow
	Names    NameRule
	// Inline renders the fields of the spec beside type and name, as the older Kuma kinds do.
	Inline bool
	// Raw kinds can make proxies do whatever Envoy can: writing them is a permission of its own.
	Raw bool
	// AdminOnly restricts every access to administrators and seals the spec at rest.
	AdminOnly bool
	// Destination kinds can be the target of traffic and have an SNI.
	Destination bool
	// Policy is set for policies.
	Policy *PolicyFacts
	// New returns a pointer to an empty spec.
	New func() any
	// NewStatus returns a pointer to an empty status; nil when the kind has none.
	NewStatus func() any
	// Validate reports everything semantically wrong with a decoded resource; nil means all values are valid.
	// Paths start at "spec" or, for inline kinds, at the field itself.
	Validate func(r Resource) Problems
	// Warn reports what is legal but will not do what it looks like; nil means nothing to say.
	Warn func(r Resource) []string
	// Requires lists the features a peer needs to understand this object; nil means none.
	Requires func(r Resource) []string
}

// PolicyFacts is what REST, the GUI and validation know about a policy kind.
type PolicyFacts struct {
	HasTo, HasRules, HasDefault bool
	// Restricts marks policies that limit access: a peer that cannot read one denies instead of ignoring it.
	Restricts bool
	// ToKinds are the target kinds that entries of to may name.
	ToKinds []string
	// RuleMatches says that entries of rules may match clients.
	RuleMatches bool
}

// ReadOnly says that users never write the kind.
func (k Kind) ReadOnly() bool { return k.Flow&Internal != 0 }

// SpecPath is where paths of problems in the spec begin.
func (k Kind) SpecPath() Path {
	if k.Inline {
		return ""
	}
	return "spec"
}

// Kinds finds kinds by name, path and short name.
type Kinds struct {
	list    []Kind
	byName  map[string]int
	byPath  map[string]int
	byShort map[string]int
}

// NewKinds indexes a list of kinds. It panics on a duplicate, which any test of the list finds.
func NewKinds(list ...Kind) *Kinds {
	ks := &Kinds{list: list, byName: map[string]int{}, byPath: map[string]int{}, byShort: map[string]int{}}
	for i, k := range list {
		for _, e := range []struct {
			m map[string]int
			k string
		}{{ks.byName, k.Name}, {ks.byPath, k.Path}, {ks.byShort, k.Short}} {
			if e.k == "" {
				continue
			}
			if _, dup := e.m[e.k]; dup {
				panic("resource: kind listed twice: " + e.k)
			}
			e.m[e.k] = i
		}
	}
	return ks
}

// All returns every kind in the order of the list.
func (ks *Kinds) All() []Kind { return slices.Clone(ks.list) }

// ByName finds a kind by its type name.
func (ks *Kinds) ByName(name string) (Kind, bool) { return ks.at(ks.byName, name) }

// ByPath finds a kind by its REST path.
func (ks *Kinds) ByPath(path string) (Kind, bool) { return ks.at(ks.byPath, path) }

// ByShort finds a kind by the short name used in KRIs.
func (ks *Kinds) ByShort(short string) (Kind, bool) { return ks.at(ks.byShort, short) }

func (ks *Kinds) at(m map[string]int, key string) (Kind, bool) {
	i, ok := m[key]
	if !ok {
		return Kind{}, false
	}
	return ks.list[i], true
}

// Lookup finds a kind by any of the words a person may use: type name in any case, path, singular or short name.
func (ks *Kinds) Lookup(word string) (Kind, error) {
	w := strings.ToLower(strings.ReplaceAll(word, "-", ""))
	for _, k := range ks.list {
		if w == strings.ToLower(k.Name) || w == strings.ReplaceAll(k.Path, "-", "") || (k.Short != "" && w == k.Short) {
			return k, nil
		}
	}
	var names []string
	for _, k := range ks.list {
		names = append(names, k.Name)
	}
	if near := Nearest(word, names); near != "" {
		return Kind{}, fmt.Errorf("%w: %s, did you mean %s?", ErrUnknownKind, Quote(word), near)
	}
	return Kind{}, fmt.Errorf("%w: %s", ErrUnknownKind, Quote(word))
}

// Nearest returns the candidate that word most likely meant, or "" when none is close.
func Nearest(word string, candidates []string) string {
	best, bestDist := "", max(2, len(word)/3)+1
	for _, c := range candidates {
		if d := distance(strings.ToLower(word), strings.ToLower(c), bestDist); d < bestDist {
			best, bestDist = c, d
		}
	}
	return best
}

// distance is the Levenshtein distance, cut off at limit so that hostile input stays cheap.
func distance(a, b string, limit int) int {
	if abs(len(a)-len(b)) >= limit || len(a) > 100 {
		return limit
	}
	prev := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := range len(a) {
		cur := make([]int, len(b)+1)
		cur[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			cur[j+1] = min(prev[j]+cost, prev[j+1]+1, cur[j]+1)
		}
		prev = cur
	}
	return prev[len(b)]
}

func abs(n int) int { return max(n, -n) }
