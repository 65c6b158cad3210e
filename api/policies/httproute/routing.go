package httproute

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/causeway-mesh/causeway/api/policy"
)

// Routing is what is in force for a destination: routes in the order in which they are tried.
type Routing struct {
	Routes []Entry `json:"routes,omitempty"`
}

// An Entry is one match of one rule.
type Entry struct {
	// Policy is the identifier of the MeshHTTPRoute, with the rule as its section.
	Policy string `json:"policy"`
	Match  Match  `json:"match"`
	RuleConf
}

// candidate is an entry while it is being merged.
type candidate struct {
	Entry
	from policy.Sourced
	key  string
}

// merge takes rules as a whole: those of different policies are not mixed, and of equal matches that of the stronger policy remains.
// Routes are then ordered by the precedence of the Gateway API; among equals the stronger policy and the earlier rule come first.
func merge(in []policy.Sourced) policy.Merged {
	var list []candidate
	seen := map[string]bool{}
	for _, s := range slices.Backward(in) {
		for _, c := range candidates(s) {
			if !seen[c.key] {
				seen[c.key] = true
				list = append(list, c)
			}
		}
	}
	if len(list) == 0 {
		return policy.Merged{}
	}
	slices.SortStableFunc(list, func(a, b candidate) int { return precedence(a.Match, b.Match) })
	var routing Routing
	var m policy.Merged
	for i, c := range list {
		routing.Routes = append(routing.Routes, c.Entry)
		m.Origins = append(m.Origins, policy.Origin{Field: fmt.Sprintf("routes[%d]", i), Policy: c.from.Policy, Index: c.from.Index})
	}
	convert(routing, &m.Conf)
	return m
}

// candidates are the matches of one policy entry in the order they are written.
func candidates(s policy.Sourced) []candidate {
	var to To
	convert(s.Conf, &to)
	var out []candidate
	for i, r := range to.Rules {
		id := s.Policy.WithSection(fmt.Sprintf("rule_%d", i)).String()
		conf := r.Default.in(s.Home)
		for _, m := range r.Matches {
			m = m.normal()
			out = append(out, candidate{Entry{id, m, conf}, s, m.key()})
		}
	}
	return out
}

// convert turns plain JSON into types and back. What does not fit was refused when the policy was written.
func convert(from, into any) {
	if b, err := json.Marshal(from); err == nil {
		_ = json.Unmarshal(b, into)
	}
}

// in makes explicit where backends are: services for which it is not said are looked for at the home of the route.
func (c RuleConf) in(home policy.Home) RuleConf {
	if home == (policy.Home{}) {
		return c
	}
	c.BackendRefs = slices.Clone(c.BackendRefs)
	for i, b := range c.BackendRefs {
		c.BackendRefs[i] = b.In(home)
	}
	c.Filters = slices.Clone(c.Filters)
	for i, f := range c.Filters {
		if f.RequestMirror != nil {
			m := *f.RequestMirror
			m.BackendRef = m.BackendRef.In(home)
			c.Filters[i].RequestMirror = &m
		}
	}
	return c
}

// pathOrRoot is the path with its default.
func (m Match) pathOrRoot() PathMatch {
	if m.Path == nil {
		return PathMatch{PathPrefix, "/"}
	}
	return *m.Path
}

// normal writes defaults out and drops what does not count, so that matches that mean the same are equal.
func (m Match) normal() Match {
	p := m.pathOrRoot()
	m.Path = &p
	seen := map[string]bool{}
	var headers []policy.HeaderMatch
	for _, h := range m.Headers {
		if !seen[h.Name] {
			h.Type = h.TypeOrExact()
			headers = append(headers, h)
		}
		seen[h.Name] = true
	}
	slices.SortFunc(headers, func(a, b policy.HeaderMatch) int { return strings.Compare(a.Name, b.Name) })
	m.Headers = headers
	m.QueryParams = slices.Clone(m.QueryParams)
	for i := range m.QueryParams {
		m.QueryParams[i].Type = cmp.Or(m.QueryParams[i].Type, policy.MatchExact)
	}
	slices.SortFunc(m.QueryParams, func(a, b QueryParamMatch) int { return strings.Compare(a.Name, b.Name) })
	return m
}

// key is equal for normal matches that mean the same.
func (m Match) key() string {
	b, err := json.Marshal(m)
	if err != nil {
		return ""
	}
	return string(b)
}

// isCatchAll says that every request matches.
func (m Match) isCatchAll() bool {
	return m.pathOrRoot() == PathMatch{PathPrefix, "/"} && m.Method == "" && len(m.Headers)+len(m.QueryParams) == 0
}

// precedence orders normal matches as the Gateway API does: path, method, number of headers, number of parameters.
func precedence(a, b Match) int {
	return cmp.Or(
		comparePaths(a.pathOrRoot(), b.pathOrRoot()),
		cmp.Compare(unset(a.Method), unset(b.Method)),
		cmp.Compare(len(b.Headers), len(a.Headers)),
		cmp.Compare(len(b.QueryParams), len(a.QueryParams)),
	)
}

func unset(method string) int {
	if method == "" {
		return 1
	}
	return 0
}

// comparePaths puts exact paths first, then prefixes, then regular expressions, longer before shorter.
// The prefix "/" says nothing about the path; it comes last, or no regular expression could ever be reached beside it.
func comparePaths(a, b PathMatch) int {
	return cmp.Or(cmp.Compare(pathRank(a), pathRank(b)), cmp.Compare(len(b.Value), len(a.Value)))
}

func pathRank(p PathMatch) int {
	switch {
	case p.Type == policy.MatchExact:
		return 0
	case p.Type == policy.MatchRegex:
		return 2
	case p.Value == "/":
		return 3
	default:
		return 1
	}
}
