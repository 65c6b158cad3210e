package acceptance_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/test/acceptance"
)

var update = flag.Bool("update", false, "write README.md anew, and take the mark of what is proven from rows.go")

// root is the top of the repository, seen from this package.
var root = filepath.Join("..", "..")

func TestEveryRowIsProven(t *testing.T) {
	claims, err := acceptance.Claims(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	proofs, wrong := acceptance.Proofs(acceptance.Rows(), claims)
	for _, w := range wrong {
		t.Error(w)
	}
	for _, p := range proofs {
		if p.Unproven {
			t.Logf("not yet proven: %s: %s", p.Name(), p.Proves)
		}
	}
	want := acceptance.README(acceptance.Parts, claims)
	if *update {
		unmark(t, proofs)
		if err := os.WriteFile("README.md", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(have), want); diff != "" {
		t.Errorf("README.md is not what rows and tests say; run with -update:\n%s", diff)
	}
}

// unmark takes the mark of being unproven from rows that a test proves.
func unmark(t *testing.T, proofs []acceptance.Proof) {
	t.Helper()
	src, err := os.ReadFile("rows.go")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(src), "\n")
	for _, p := range proofs {
		if !p.Unproven || len(p.By) == 0 {
			continue
		}
		for i, l := range lines {
			if strings.Contains(l, fmt.Sprintf("{Letters: %q, Suite: %q,", p.Letters, p.Suite)) {
				lines[i] = strings.Replace(l, ", Unproven: true}", "}", 1)
			}
		}
	}
	if err := os.WriteFile("rows.go", []byte(strings.Join(lines, "\n")), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestRowsHaveNamesOfTheirOwn(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range acceptance.Rows() {
		for l := range strings.SplitSeq(r.Letters, "/") {
			if name := l + " " + r.Suite; seen[name] {
				t.Errorf("%s is there twice", name)
			} else {
				seen[name] = true
			}
			if !slices.Contains([]string{"U", "M", "K", "G"}, l) {
				t.Errorf("%s: %s is no sort of deployment", r.Name(), l)
			}
		}
		if r.Needs != "" && r.Unproven {
			t.Errorf("%s is both unproven and impossible to prove", r.Name())
		}
		if strings.TrimSpace(r.Proves) == "" {
			t.Errorf("%s proves nothing", r.Name())
		}
	}
}

// The checker is checked: what it is there to find is planted.
func TestWhatIsWrongIsFound(t *testing.T) {
	repository := fstest.MapFS{
		"a/a_test.go": {Data: []byte(`package a

import "testing"

// TestGood does it.
//
// Acceptance: U/K good
// Acceptance: M other: half of it
func TestGood(t *testing.T) {}

// Acceptance: U unheard of
func TestBad(t *testing.T) {}

// Acceptance: U good
func helps(t *testing.T) {}

// Acceptance: U debt
func TestDebt(t *testing.T) {}

func TestParts(t *testing.T) {
	for _, p := range []struct {
		name string
		run  func(*testing.T)
	}{{name: "one of many", run: partOne}} {
		t.Run(p.name, p.run)
	}
	t.Run("two", func(t *testing.T) { partTwo(t) })
}

// Acceptance: U parts: one
func partOne(t *testing.T) {}

// Acceptance: U parts: two
func partTwo(t *testing.T) {}
`)},
		"a/testdata/b_test.go": {Data: []byte("package broken {")},
		"a/a.go":               {Data: []byte("package a\n")},
	}
	claims, err := acceptance.Claims(repository)
	if err != nil {
		t.Fatal(err)
	}
	rows := []acceptance.Row{
		{Letters: "U", Suite: "good"},
		{Letters: "U/M", Suite: "other"},
		{Letters: "U", Suite: "lonely"},
		{Letters: "K", Suite: "debt"},
		{Letters: "U", Suite: "debt", Unproven: true},
		{Letters: "G", Suite: "else", Needs: "Gateway API"},
		{Letters: "U", Suite: "parts"},
	}
	proofs, wrong := acceptance.Proofs(rows, claims)
	text := strings.Join(wrong, "\n")
	for _, want := range []string{"U lonely is proven by no test", "K debt is proven by no test", "U debt is marked as unproven", `"U unheard of", and no row`, "helps claims"} {
		if !strings.Contains(text, want) {
			t.Errorf("not found: %s; found:\n%s", want, text)
		}
	}
	if len(wrong) != 5 {
		t.Errorf("%d things are wrong, 5 were planted:\n%s", len(wrong), text)
	}

	results, err := acceptance.ReadResults(strings.NewReader(`{"Action":"run","Package":"github.com/causeway-mesh/causeway/a","Test":"TestGood"}
{"Action":"fail","Package":"github.com/causeway-mesh/causeway/a","Test":"TestGood"}
{"Action":"pass","Package":"github.com/causeway-mesh/causeway/a","Test":"TestGood"}
{"Action":"pass","Package":"github.com/causeway-mesh/causeway/a","Test":"TestParts/one_of_many"}
{"Action":"pass","Package":"github.com/causeway-mesh/causeway/a","Test":"TestParts/two"}
{"Action":"skip","Package":"github.com/causeway-mesh/causeway/a","Test":"TestDebt"}
{"Action":"pass","Package":"github.com/causeway-mesh/causeway/a"}
`))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	failed, err := acceptance.Report(&out, proofs, results)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"U good", "U debt"}, failed); diff != "" { // helps did not run, TestDebt was skipped
		t.Errorf("rows that the run did not prove: %s\n%s", diff, out.String())
	}
	for _, want := range []string{"a TestGood               pass", "a TestDebt               skip", "a helps                  not run", "a TestParts/one_of_many  pass", "needs Gateway API", "unproven"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, out.String())
		}
	}
}
