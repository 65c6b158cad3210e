package arch_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// source parses the hand-written files of a package that is shipped.
func source(t *testing.T, p pkg) (*token.FileSet, []*ast.File) {
	t.Helper()
	fset := token.NewFileSet()
	var out []*ast.File
	for _, name := range p.GoFiles {
		f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Errorf("parse %s: %v", p, err)
			continue
		}
		if !ast.IsGenerated(f) {
			out = append(out, f)
		}
	}
	return fset, out
}

// saysWhatNot finds the half of a package comment that draws the border.
var saysWhatNot = regexp.MustCompile(`(?i)\b(no|not|none|nothing|nobody|never|only|neither|without|knows? of)\b`)

func TestEveryPackageSaysWhatItIsAndWhatItIsNot(t *testing.T) {
	for _, p := range packages(t) {
		doc := p.Doc
		if len(p.GoFiles) == 0 {
			doc = testDoc(t, p)
		}
		switch {
		case !strings.HasPrefix(doc, "Package "+strings.TrimSuffix(p.Name, "_test")+" "):
			t.Errorf("%s needs a comment that begins with \"Package %s\"", p, strings.TrimSuffix(p.Name, "_test"))
		case len(p.GoFiles) > 0 && !saysWhatNot.MatchString(packageComment(t, p)):
			t.Errorf("the comment of %s says what it is and not what it does not do", p)
		}
	}
}

// packageComment is the whole comment; go list gives its first sentence only.
func packageComment(t *testing.T, p pkg) string {
	_, files := source(t, p)
	var all []string
	for _, f := range files {
		all = append(all, f.Doc.Text())
	}
	return strings.Join(all, "\n")
}

// testDoc is the comment of a package that holds tests only.
func testDoc(t *testing.T, p pkg) string {
	t.Helper()
	fset := token.NewFileSet()
	for _, name := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
		f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Errorf("parse %s: %v", p, err)
			continue
		}
		if doc := f.Doc.Text(); doc != "" {
			return doc
		}
	}
	return ""
}

func TestExportedNamesAreExplained(t *testing.T) {
	for _, p := range packages(t) {
		fset, files := source(t, p)
		for _, f := range files {
			for _, d := range f.Decls {
				for _, name := range unexplained(d) {
					t.Errorf("%s: exported %s needs a comment in words of the domain", at(fset, name.Pos()), name.Name)
				}
			}
		}
	}
}

func at(fset *token.FileSet, pos token.Pos) string {
	p := fset.Position(pos)
	rel, err := filepath.Rel(root, p.Filename)
	if err != nil {
		rel = p.Filename
	}
	p.Filename = rel
	p.Column = 0
	return p.String()
}

// unexplained lists the exported names of a declaration that no comment covers. One comment covers a group of constants or variables.
func unexplained(d ast.Decl) []*ast.Ident {
	var out []*ast.Ident
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && d.Doc == nil && exportedReceiver(d) && !wellKnown(d) {
			out = append(out, d.Name)
		}
	case *ast.GenDecl:
		for _, s := range d.Specs {
			switch s := s.(type) {
			case *ast.TypeSpec:
				if s.Name.IsExported() && s.Doc == nil && (d.Doc == nil || len(d.Specs) > 1) {
					out = append(out, s.Name)
				}
			case *ast.ValueSpec:
				for _, n := range s.Names {
					if n.IsExported() && s.Doc == nil && s.Comment == nil && d.Doc == nil {
						out = append(out, n)
					}
				}
			}
		}
	}
	return out
}

// wellKnown methods mean what their interface says.
func wellKnown(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return false
	}
	switch d.Name.Name {
	case "Error", "Unwrap", "Is", "String", "MarshalJSON", "UnmarshalJSON", "MarshalText", "UnmarshalText", "Len", "Less", "Swap",
		"Describe", "Collect", "ServeHTTP", "Read", "Write", "Close", "Set", "Type":
		return true
	}
	return false
}

func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	typ := d.Recv.List[0].Type
	for {
		switch t := typ.(type) {
		case *ast.StarExpr:
			typ = t.X
		case *ast.IndexExpr:
			typ = t.X
		case *ast.IndexListExpr:
			typ = t.X
		case *ast.Ident:
			return t.IsExported()
		default:
			return true
		}
	}
}

// A callRule says which functions may be called where.
type callRule struct {
	why    string
	from   []string
	except []string
	calls  []string // package.Function by the name of the import
}

var callRules = []callRule{
	{
		why: "only the command files exit", from: []string{"..."}, except: append([]string{""}, testSupport...),
		calls: []string{"os.Exit", "log.Fatal", "log.Fatalf", "log.Panic"},
	},
	{
		why: "only the command files read the environment; dataplane/envoy finds its binary by CAUSEWAY_ENVOY", from: []string{"..."},
		except: append([]string{"", "dataplane/envoy"}, testSupport...),
		calls:  []string{"os.Getenv", "os.LookupEnv", "os.Environ", "os.ExpandEnv"},
	},
	{
		why: "the core has no clock: times come in as values", from: pure,
		calls: []string{"time.Now", "time.Since", "time.Until", "time.After", "time.Sleep", "time.NewTimer", "time.NewTicker", "time.Tick", "time.AfterFunc"},
	},
	{
		why: "waiting by sleeping hides what is waited for", from: []string{"..."}, except: []string{"test/..."},
		calls: []string{"time.Sleep"},
	},
	{
		why: "loggers are passed in, never global", from: []string{"..."}, except: []string{"test/..."},
		calls: []string{
			"slog.Default", "slog.SetDefault", "slog.Info", "slog.Warn", "slog.Error", "slog.Debug", "slog.InfoContext", "slog.WarnContext",
			"slog.ErrorContext", "slog.DebugContext", "log.Print", "log.Printf", "log.Println", "fmt.Print", "fmt.Printf", "fmt.Println",
		},
	},
	{
		why: "two control planes must fit into one process: metrics are registered where they are made", from: []string{"..."},
		calls: []string{"prometheus.MustRegister", "prometheus.Register", "http.Handle", "http.HandleFunc", "http.ListenAndServe"},
	},
}

func TestCallsStayWhereTheyBelong(t *testing.T) {
	pkgs := packages(t)
	for _, r := range callRules {
		for _, p := range pkgs {
			if anyMatches(r.except, p.path) || !anyMatches(r.from, p.path) {
				continue
			}
			fset, files := source(t, p)
			for _, f := range files {
				for _, c := range calls(f) {
					if slices.Contains(r.calls, c.name) {
						t.Errorf("%s: %s must not be called here: %s", at(fset, c.pos), c.name, r.why)
					}
				}
			}
		}
	}
}

// TestTheCoreServesNothing lets pure packages name what HTTP defines, and use nothing of its machinery.
func TestTheCoreServesNothing(t *testing.T) {
	for _, p := range packages(t) {
		if !anyMatches(pure, p.path) || anyMatches(testSupport, p.path) || !slices.Contains(p.Imports, "net/http") {
			continue
		}
		fset, files := source(t, p)
		for _, f := range files {
			for _, c := range calls(f) {
				name, isHTTP := strings.CutPrefix(c.name, "http.")
				if isHTTP && !strings.HasPrefix(name, "Status") && !strings.HasPrefix(name, "Method") {
					t.Errorf("%s: %s: the core may only name statuses and methods", at(fset, c.pos), c.name)
				}
			}
		}
	}
}

type call struct {
	name string
	pos  token.Pos
}

// calls lists uses of functions of imported packages, with the package's own name whatever it was imported as.
func calls(f *ast.File) []call {
	names := map[string]string{}
	for _, i := range f.Imports {
		path := strings.Trim(i.Path.Value, `"`)
		base := path[strings.LastIndex(path, "/")+1:]
		local := base
		if i.Name != nil {
			local = i.Name.Name
		}
		names[local] = base
	}
	var out []call
	ast.Inspect(f, func(n ast.Node) bool {
		s, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := s.X.(*ast.Ident); ok && names[x.Name] != "" {
			out = append(out, call{names[x.Name] + "." + s.Sel.Name, s.Pos()})
		}
		return true
	})
	return out
}

// sideEffects are packages of others that work only by being imported.
var sideEffects = []string{"embed", "modernc.org/sqlite", "google.golang.org/grpc/encoding/proto", "google.golang.org/grpc/encoding/gzip"}

// linksMessages says that a package needs all messages of Envoy: users may write any of them.
func linksMessages(p pkg, path string) bool {
	return matches("api/policies/proxypatch", p.path) && strings.HasPrefix(path, "github.com/envoyproxy/go-control-plane/envoy/")
}

func TestNothingRegistersItself(t *testing.T) {
	for _, p := range packages(t) {
		if matches("test/...", p.path) {
			continue // tests register the message types they read
		}
		fset, files := source(t, p)
		for _, f := range files {
			for _, d := range f.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
					t.Errorf("%s: no init functions: put it into an explicit list", at(fset, fn.Pos()))
				}
			}
			for _, i := range f.Imports {
				path := strings.Trim(i.Path.Value, `"`)
				if i.Name != nil && i.Name.Name == "_" && !slices.Contains(sideEffects, path) && !linksMessages(p, path) {
					t.Errorf("%s: imported for its side effects: %s", at(fset, i.Pos()), i.Path.Value)
				}
			}
		}
	}
}

// wrongNames are packages that are no idea of their own.
var wrongNames = []string{"util", "utils", "common", "core", "manager", "helpers", "helper", "types", "model", "models", "base", "misc", "shared"}

func TestPackagesAreNamedAfterIdeas(t *testing.T) {
	for _, p := range packages(t) {
		for part := range strings.SplitSeq(p.path, "/") {
			if slices.Contains(wrongNames, part) {
				t.Errorf("%s: %q says nothing about what is inside", p, part)
			}
		}
	}
}

// longest is where a function becomes something that nobody reads in one go.
const longest = 150

// TestFunctionsCanBeRead lists the longest functions with -v, for reviewers.
func TestFunctionsCanBeRead(t *testing.T) {
	type length struct {
		lines int
		where string
	}
	var all []length
	for _, p := range packages(t) {
		fset, files := source(t, p)
		for _, f := range files {
			for _, d := range f.Decls {
				fn, ok := d.(*ast.FuncDecl)
				if !ok || fn.Body == nil {
					continue
				}
				n := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line
				all = append(all, length{n, at(fset, fn.Pos()) + " " + fn.Name.Name})
				if n > longest {
					t.Errorf("%s: %s has %d lines: it does too much", at(fset, fn.Pos()), fn.Name.Name, n)
				}
			}
		}
	}
	slices.SortFunc(all, func(a, b length) int { return b.lines - a.lines })
	for _, l := range all[:min(25, len(all))] {
		t.Logf("%4d %s", l.lines, l.where)
	}
}
