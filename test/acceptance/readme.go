package acceptance

import (
	"fmt"
	"strings"
)

// README is the list for people: every row, what it proves and by which tests.
func README(parts []Part, claims []Claim) string {
	var b strings.Builder
	b.WriteString(`# What is proven

Each row is something that a mesh compatible with Kuma has to do, and the tests that prove it here: with real Envoys where it is about
traffic. U are rows of machines, M of several zones, K of Kubernetes, G of the Gateway API; a K row that does not need Kubernetes to be
proven is proven without. ` + "`rows.go`" + ` holds the rows; a test names its row in its doc comment, with a line such as
` + "`Acceptance: U meshretry`" + `. A test holds rows, tests and this page against each other (` + "`go test ./test/acceptance -update`" + ` writes it),
and ` + "`make test`" + ` ends with row, test and outcome and fails when a row was not proven by the run.

`)
	proofs, _ := Proofs(rowsOf(parts), claims)
	open := 0
	for _, p := range proofs {
		if p.Unproven && len(p.By) == 0 {
			open++
		}
	}
	fmt.Fprintf(&b, "%d rows; %d of them are not proven yet.\n", len(proofs), open)
	i := 0
	for _, part := range parts {
		fmt.Fprintf(&b, "\n## %s\n\n| row | what | by |\n|---|---|---|\n", part.Title)
		for range part.Rows {
			p := proofs[i]
			i++
			fmt.Fprintf(&b, "| %s | %s | %s |\n", p.Name(), p.Proves, by(p))
		}
	}
	return b.String()
}

func rowsOf(parts []Part) []Row {
	var out []Row
	for _, p := range parts {
		out = append(out, p.Rows...)
	}
	return out
}

func by(p Proof) string {
	var out []string
	for _, c := range p.By {
		text := "`" + c.Package + "` " + c.Test
		if c.Says != "" {
			text += " (" + strings.ReplaceAll(c.Says, "|", "/") + ")"
		}
		out = append(out, text)
	}
	switch {
	case len(out) > 0:
		return strings.Join(out, "; ")
	case p.Needs != "":
		return "needs " + p.Needs
	}
	return "**not yet**"
}
