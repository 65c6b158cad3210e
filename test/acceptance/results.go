package acceptance

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

const module = "github.com/causeway-mesh/causeway"

// Results are the outcomes of tests by package and name: pass, fail or skip. Of several runs the last counts.
type Results map[string]string

// forgiven is a test that was left out because something real is missing on this machine.
const forgiven = "left out"

// Forgive takes tests that were left out for proven, where nobody demands that everything is there.
func (r Results) Forgive() {
	for test, outcome := range r {
		if outcome == "skip" {
			r[test] = forgiven
		}
	}
}

// ReadResults reads what "go test -json" writes.
func ReadResults(r io.Reader) (Results, error) {
	out := Results{}
	s := bufio.NewScanner(r)
	s.Buffer(nil, 16<<20)
	for s.Scan() {
		var e struct{ Action, Package, Test string }
		if err := json.Unmarshal(s.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("read results: %w", err)
		}
		if e.Test != "" && (e.Action == "pass" || e.Action == "fail" || e.Action == "skip") {
			out[e.Package+" "+e.Test] = e.Action
		}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("read results: %w", err)
	}
	return out, nil
}

func (r Results) of(c Claim) string {
	if o, ok := r[strings.TrimSuffix(module+"/"+c.Package, "/.")+" "+c.Test]; ok {
		return o
	}
	return "not run"
}

// Report writes row, test and outcome, and returns the rows that are not proven by the run: a test failed, was left out or did not run.
// Rows that no test can prove here are listed, too, and not returned.
func Report(w io.Writer, proofs []Proof, results Results) (failed []string, err error) {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "ROW\tTEST\tRESULT")
	for _, p := range proofs {
		switch {
		case len(p.By) == 0 && p.Needs != "":
			fmt.Fprintf(t, "%s\t-\tneeds %s\n", p.Name(), p.Needs)
		case len(p.By) == 0:
			fmt.Fprintf(t, "%s\t-\tunproven\n", p.Name())
		}
		ok := true
		for _, c := range p.By {
			o := results.of(c)
			ok = ok && (o == "pass" || o == forgiven)
			fmt.Fprintf(t, "%s\t%s %s\t%s\n", p.Name(), c.Package, c.Test, o)
		}
		if !ok {
			failed = append(failed, p.Name())
		}
	}
	return failed, t.Flush()
}
