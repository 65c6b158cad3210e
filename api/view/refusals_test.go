package view_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/causeway-mesh/causeway/api/view"
)

// An envoy that refuses what holds a bad patch, or a bad pair, leads to all the good ones in a bounded number of refusals.
func TestWithoutFindsWhatEnvoyRefuses(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for round := range 500 {
		n := 1 + rnd.IntN(6)
		var patches []string
		bad := map[string]bool{}
		for i := range n {
			id := fmt.Sprint("p", i)
			patches = append(patches, id)
			bad[id] = rnd.IntN(3) == 0
		}
		refuses := func(list []string) bool { return slices.ContainsFunc(list, func(id string) bool { return bad[id] }) }
		var known *view.Refusals
		for tries := 0; ; tries++ {
			kept, out := known.Without("LDS", "base", patches)
			if len(kept)+len(out) != n {
				t.Fatalf("round %d: kept %v and left out %v of %v", round, kept, out, patches)
			}
			if !refuses(kept) {
				for id := range out {
					if !bad[id] {
						t.Errorf("round %d: %s is left out, and nothing is wrong with it", round, id)
					}
				}
				break
			}
			if tries > 2*n*n {
				t.Fatalf("round %d: no end after %d refusals", round, tries)
			}
			known = known.With(view.Refusal{Type: "LDS", Base: "base", Patches: kept, Text: "no"})
		}
	}
}

func TestRefusedAlone(t *testing.T) {
	var r *view.Refusals
	r = r.With(view.Refusal{Type: "LDS", Base: "a", Patches: []string{"x"}, Text: "bad"})
	if kept, out := r.Without("LDS", "b", []string{"x", "y"}); !slices.Equal(kept, []string{"y"}) || out["x"] != "bad" {
		t.Errorf("refused alone elsewhere: kept %v, left out %v", kept, out)
	}
	if kept, _ := r.Without("CDS", "b", []string{"x"}); len(kept) != 1 {
		t.Errorf("refused in listeners, left out of clusters")
	}
	r = r.With(view.Refusal{Type: "LDS", Base: "a", Text: "the base is bad"})
	if kept, out := r.Without("LDS", "b", []string{"x"}); len(kept) != 1 || len(out) != 0 {
		t.Errorf("what was refused without the patch, too, is blamed on it: kept %v, left out %v", kept, out)
	}
	if kept, _ := r.Without("LDS", "a", []string{"x"}); len(kept) != 1 {
		t.Errorf("the base is refused, and the patch is left out")
	}
}

func TestRefusalsAreBounded(t *testing.T) {
	var r *view.Refusals
	for i := range 2000 {
		r = r.With(view.Refusal{Type: "LDS", Base: fmt.Sprint(i), Patches: []string{"x"}})
	}
	if kept, _ := r.Without("LDS", "z", []string{"x"}); len(kept) != 0 {
		t.Error("the newest is forgotten")
	}
	if r.With(view.Refusal{Type: "LDS", Base: "1999", Patches: []string{"x"}}) != r {
		t.Error("what is known makes new refusals")
	}
}
