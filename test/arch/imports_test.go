package arch_test

import (
	"path"
	"slices"
	"strings"
	"testing"
)

// A rule says what packages must not import. Patterns are paths below the module, "..." matches any rest;
// outside packages are named by their full path.
type rule struct {
	why    string
	from   []string
	except []string
	// never lists what must not be reached, directly or through others.
	never []string
	// direct limits the rule to the package's own imports.
	direct bool
}

var (
	planes = []string{"global-cp/...", "zone-cp/...", "dataplane/..."}
	// pure is what runs between a snapshot of resources and Envoy configuration, and what it is made of.
	pure = []string{
		"api", "api/resource", "api/mesh", "api/proxy", "api/memo", "api/view", "api/policy", "api/policies/...", "api/envoy",
		"api/settings", "store", "dataplane/bootstrap",
	}
	// testSupport is packages that only tests import.
	testSupport = []string{"test/...", "store/storetest", "api/policies/policytest"}
	drivers     = []string{"github.com/jackc/pgx/...", "modernc.org/...", "database/sql"}
)

var rules = []rule{
	{
		why:  "api is the domain: it knows no plane, no web page and no test",
		from: []string{"api/..."}, never: slices.Concat(planes, []string{"gui/...", "deploy/...", "test/..."}),
	},
	{
		why:  "the domain is stored, it does not store; only the REST API works on a catalog",
		from: []string{"api/..."}, except: []string{"api/rest"}, never: []string{"store/..."},
	},
	{
		why:  "the REST API sees the contract and the catalog, no implementation",
		from: []string{"api/rest"}, never: []string{"store/memory", "store/embedded", "store/postgres", "store/backend"},
	},
	{
		why:  "no database driver and no Kubernetes client in the domain",
		from: []string{"api/..."}, never: append([]string{"k8s.io/client-go/..."}, drivers...),
	},
	{
		why:  "echo is the business of the REST API alone",
		from: []string{"...", "api/..."}, except: []string{"api/rest"}, never: []string{"github.com/labstack/..."}, direct: true,
	},
	{
		why:   "resources and proxies are the domain's words, not Envoy's",
		from:  []string{"api/resource", "api/mesh", "api/proxy", "api/memo", "api/token", "api/settings", "api/client", "store/..."},
		never: []string{"github.com/envoyproxy/..."},
	},
	{why: "planes meet on the wire", from: []string{"zone-cp/..."}, never: []string{"global-cp/...", "dataplane/..."}},
	{why: "planes meet on the wire", from: []string{"dataplane/..."}, never: []string{"global-cp/...", "zone-cp/...", "store/..."}},
	{
		why:    "wiring chooses the store; everybody else sees its contract",
		from:   []string{"..."},
		except: []string{"store/...", "zone-cp/zonecp", "global-cp/globalcp", "test/..."},
		never:  []string{"store/memory", "store/embedded", "store/postgres", "store/backend"}, direct: true,
	},
	{why: "a store keeps bytes and knows no kind", from: []string{"store", "store/memory", "store/embedded", "store/postgres", "store/internal/..."}, never: []string{"api/..."}},
	{why: "what only tests need is not shipped", from: []string{"..."}, except: testSupport, never: append([]string{"testing"}, testSupport...), direct: true},
	{why: "only the command files know of a command line", from: []string{"..."}, except: append([]string{""}, testSupport...), never: []string{"github.com/spf13/...", "flag"}, direct: true},
	{
		why:  "the core is pure: values in, values out (how a secret prints in a log is a value's business, so log/slog may be named)",
		from: pure, except: testSupport, direct: true,
		never: []string{
			"os", "os/...", "io/ioutil", "net", "log", "database/sql", "math/rand", "math/rand/v2", "crypto/rand",
			"google.golang.org/grpc", "github.com/prometheus/client_golang/...", "embed",
		},
	},
}

// matches says whether a path fits a pattern.
func matches(pattern, p string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "..."); ok {
		return strings.HasPrefix(p+"/", prefix)
	}
	return p == pattern
}

func anyMatches(patterns []string, p string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return matches(pattern, p) })
}

func TestImportsGoDownOnly(t *testing.T) {
	pkgs := packages(t)
	for _, r := range rules {
		applies := false
		for _, p := range pkgs {
			if anyMatches(r.except, p.path) || !anyMatches(r.from, p.path) || len(p.GoFiles) == 0 {
				continue
			}
			if matches("test/...", p.path) && slices.Contains(r.from, "...") {
				continue
			}
			applies = true
			for _, bad := range r.broken(p) {
				t.Errorf("%s must not import %s: %s", p, strings.Join(route(pkgs, p, bad), " -> "), r.why)
			}
		}
		if !applies {
			t.Errorf("the rule %q for %q applies to no package: correct or remove it", r.why, r.from)
		}
	}
}

// broken lists what a package imports against the rule.
func (r rule) broken(p pkg) []string {
	imports := p.Deps
	if r.direct {
		imports = p.Imports
	}
	var out []string
	for _, i := range imports {
		if anyMatches(r.never, relative(i)) {
			out = append(out, i)
		}
	}
	return out
}

// route is the shortest way of imports from a package to another, so that a finding can be acted on.
func route(pkgs []pkg, from pkg, to string) []string {
	imports := map[string][]string{}
	for _, p := range pkgs {
		imports[p.ImportPath] = p.Imports
	}
	before := map[string]string{from.ImportPath: ""}
	for queue := []string{from.ImportPath}; len(queue) > 0; queue = queue[1:] {
		for _, next := range imports[queue[0]] {
			if _, seen := before[next]; seen {
				continue
			}
			before[next] = queue[0]
			queue = append(queue, next)
		}
	}
	if _, reached := before[to]; !reached {
		return []string{to} // through a package of another module
	}
	var way []string
	for at := to; at != from.ImportPath; at = before[at] {
		way = append(way, relative(at))
	}
	slices.Reverse(way)
	return way
}

// TestRulesCatchViolations plants violations: a rule that finds nothing proves nothing.
func TestRulesCatchViolations(t *testing.T) {
	for _, tc := range []struct {
		path, imports string
		caught        bool
	}{
		{"api/resource", module + "/store", true},
		{"api/rest", module + "/store/catalog", false},
		{"api/rest", module + "/store/postgres", true},
		{"api/mesh", "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3", true},
		{"api/policies/timeout", "net", true},
		{"zone-cp/push", module + "/dataplane/envoy", true},
		{"zone-cp/push", module + "/store/embedded", true},
		{"zone-cp/zonecp", module + "/store/embedded", false},
		{"dataplane/agent", module + "/zone-cp/agents", true},
		{"dataplane/agent", "github.com/spf13/cobra", true},
		{"", "github.com/spf13/cobra", false},
		{"zone-cp/xds", module + "/test/pg", true},
		{"zone-cp/xds", "github.com/labstack/echo/v4", true},
	} {
		p := pkg{path: tc.path, ImportPath: path.Join(module, tc.path), Imports: []string{tc.imports}, Deps: []string{tc.imports}}
		caught := slices.ContainsFunc(rules, func(r rule) bool {
			return anyMatches(r.from, p.path) && !anyMatches(r.except, p.path) && len(r.broken(p)) > 0
		})
		if caught != tc.caught {
			t.Errorf("%q importing %s: caught is %v, want %v", tc.path, tc.imports, caught, tc.caught)
		}
	}
}
