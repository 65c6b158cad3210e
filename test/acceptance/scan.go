package acceptance

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A Claim is a test that says it proves a row.
type Claim struct {
	Package string // below the module
	Test    string
	Row     string // as the test writes it
	Says    string // what of the row it proves; empty for all of it
}

var claimLine = regexp.MustCompile(`^\s*Acceptance: ([^:]+?)(?:: (.*))?$`)

// Claims reads the doc comments of every test of a repository, and of functions that are run as part of one.
func Claims(repository fs.FS) ([]Claim, error) {
	var out []Claim
	files := map[string][]*ast.File{}
	err := fs.WalkDir(repository, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || d.Name() == "node_modules" || name != "." && strings.HasPrefix(d.Name(), ".")):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, "_test.go"):
			return nil
		}
		src, err := fs.ReadFile(repository, name)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		files[path.Dir(name)] = append(files[path.Dir(name)], f)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for tests: %w", err)
	}
	for _, pkg := range slices.Sorted(maps.Keys(files)) {
		for _, f := range files[pkg] {
			for _, decl := range f.Decls {
				if fn, ok := decl.(*ast.FuncDecl); ok {
					out = append(out, claims(pkg, fn, files[pkg])...)
				}
			}
		}
	}
	return out, nil
}

func claims(pkg string, fn *ast.FuncDecl, files []*ast.File) []Claim {
	var out []Claim
	for line := range strings.Lines(fn.Doc.Text()) {
		m := claimLine.FindStringSubmatch(strings.TrimRight(line, "\n"))
		if m == nil {
			continue
		}
		test := fn.Name.Name
		if !strings.HasPrefix(test, "Test") {
			test = runAs(test, files, 0)
		}
		out = append(out, Claim{Package: pkg, Test: test, Row: m[1], Says: m[2]})
	}
	return out
}

// runAs finds the test that runs a function as a part of itself, perhaps by way of other functions, and the names that are given to
// that part: in a call such as t.Run("rates", testRates), or in an entry such as {name: "rates", run: testRates} of a list of parts.
func runAs(fn string, files []*ast.File, depth int) string {
	const deepest = 5
	for _, f := range files {
		for _, decl := range f.Decls {
			caller, ok := decl.(*ast.FuncDecl)
			if !ok || caller.Name.Name == fn || depth > deepest {
				continue
			}
			part, calls := mentions(caller, fn)
			switch name := caller.Name.Name; {
			case !calls:
			case strings.HasPrefix(name, "Test"):
				return name + part
			default:
				if test := runAs(name, files, depth+1); test != name {
					return test + part
				}
			}
		}
	}
	return fn
}

// mentions says whether a function names another in its body, and as which part of itself.
func mentions(caller *ast.FuncDecl, fn string) (part string, ok bool) {
	if caller.Body == nil {
		return "", false
	}
	var way []ast.Node
	ast.Inspect(caller.Body, func(n ast.Node) bool {
		if n == nil {
			way = way[:len(way)-1]
			return false
		}
		way = append(way, n)
		if id, isName := n.(*ast.Ident); isName && id.Name == fn && !ok {
			part, ok = partName(way), true
		}
		return true
	})
	return part, ok
}

// partName is what the nodes on the way to a function call it, beginning with a slash; empty when they do not say.
func partName(way []ast.Node) string {
	name := ""
	for _, n := range way {
		var first ast.Expr
		switch n := n.(type) {
		case *ast.CallExpr:
			if s, ok := n.Fun.(*ast.SelectorExpr); ok && s.Sel.Name == "Run" && len(n.Args) > 0 {
				first = n.Args[0]
			}
		case *ast.CompositeLit:
			if len(n.Elts) > 0 {
				first = n.Elts[0]
			}
			if kv, ok := first.(*ast.KeyValueExpr); ok {
				first = kv.Value
			}
		}
		lit, ok := first.(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING {
			continue
		}
		if text, err := strconv.Unquote(lit.Value); err == nil {
			name += "/" + strings.ReplaceAll(text, " ", "_") // as package testing writes it
		}
	}
	return name
}

// Name is how the row is called.
func (r Row) Name() string { return r.Letters + " " + r.Suite }

// claimedBy says whether a test means this row: the suite is the same and at least one of the letters.
func (r Row) claimedBy(c Claim) bool {
	letters, suite, _ := strings.Cut(c.Row, " ")
	suite = strings.NewReplacer("(", "", ")", "").Replace(suite)
	return suite == r.Suite && slices.ContainsFunc(strings.Split(letters, "/"), func(l string) bool {
		return slices.Contains(strings.Split(r.Letters, "/"), l)
	})
}

// A Proof is a row and the tests that prove it.
type Proof struct {
	Row
	By []Claim
}

// Proofs joins rows with tests, and says what is wrong with them: claims of no row, rows without a test, rows marked as unproven that
// have one.
func Proofs(rows []Row, claims []Claim) (proofs []Proof, wrong []string) {
	used := map[Claim]bool{}
	for _, r := range rows {
		p := Proof{Row: r}
		for _, c := range claims {
			if r.claimedBy(c) {
				p.By = append(p.By, c)
				used[c] = true
			}
		}
		switch {
		case r.Unproven && len(p.By) > 0:
			wrong = append(wrong, fmt.Sprintf("%s is marked as unproven, and %s proves it: remove the mark", r.Name(), p.By[0].Test))
		case r.Needs == "" && !r.Unproven && len(p.By) == 0:
			wrong = append(wrong, r.Name()+" is proven by no test: write one with a line \"Acceptance: "+r.Name()+"\" in its doc comment")
		}
		proofs = append(proofs, p)
	}
	for _, c := range claims {
		if !used[c] {
			wrong = append(wrong, fmt.Sprintf("%s %s claims %q, and no row is called that", c.Package, c.Test, c.Row))
		}
		if !strings.HasPrefix(c.Test, "Test") {
			wrong = append(wrong, fmt.Sprintf("%s %s claims %q and is no test", c.Package, c.Test, c.Row))
		}
	}
	return proofs, wrong
}
