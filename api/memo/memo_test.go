package memo_test

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/causeway-mesh/causeway/api/memo"
)

func eq[V comparable](a, b V) bool { return a == b }

func TestEqualResultStopsTheChange(t *testing.T) {
	g := memo.New()
	in := memo.NewInput[string, int](g, eq)
	parity := memo.NewFunc(g, "parity", eq, func(r *memo.Reader, k string) int {
		v, _ := in.Get(r, k)
		return v % 2
	})
	label := memo.NewFunc(g, "label", eq, func(r *memo.Reader, k string) string {
		return fmt.Sprint(parity.Get(r, k))
	})
	in.Set("a", 1)
	root := label.Root("a")
	defer root.Close()
	in.Set("a", 3)
	g.Settle()
	if n := g.Recomputed(); n["parity"] != 2 || n["label"] != 1 || root.Value() != "1" {
		t.Fatalf("recomputed %v, value %q; want parity twice, label once, 1", n, root.Value())
	}
	in.Set("a", 4)
	g.Settle()
	if root.Value() != "0" {
		t.Fatalf("value %q, want 0", root.Value())
	}
}

func TestUnusedNodesAreDropped(t *testing.T) {
	g := memo.New()
	in := memo.NewInput[int, int](g, eq)
	f := memo.NewFunc(g, "f", eq, func(r *memo.Reader, k int) int { v, _ := in.Get(r, k); return v })
	sum := memo.NewFunc(g, "sum", eq, func(r *memo.Reader, n int) int {
		total := 0
		for i := range f.Get(r, 1000) {
			total += f.Get(r, i)
		}
		return total
	})
	in.Set(1000, 5)
	root := sum.Root(0)
	if f.Len() != 6 {
		t.Fatalf("%d nodes, want 6", f.Len())
	}
	in.Set(1000, 2)
	g.Settle()
	if f.Len() != 3 {
		t.Fatalf("%d nodes after shrinking, want 3", f.Len())
	}
	root.Close()
	g.Settle()
	if f.Len() != 0 || sum.Len() != 0 {
		t.Fatalf("%d and %d nodes after close, want none", f.Len(), sum.Len())
	}
}

// TestIncrementalEqualsScratch changes the inputs of a random layered graph with dynamic reads
// and compares every root with a graph computed anew.
func TestIncrementalEqualsScratch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const width, depth = 6, 4
		build := func() (*memo.Graph, *memo.Input[int, int], *memo.Func[[2]int, int]) {
			g := memo.New()
			in := memo.NewInput[int, int](g, eq)
			var f *memo.Func[[2]int, int]
			f = memo.NewFunc(g, "f", eq, func(r *memo.Reader, k [2]int) int {
				layer, i := k[0], k[1]
				if layer == 0 {
					v, ok := in.Get(r, i)
					if !ok {
						return -1
					}
					return v / 3
				}
				a := f.Get(r, [2]int{layer - 1, i})
				if a%2 == 0 {
					return a
				}
				return a + f.Get(r, [2]int{layer - 1, (i + a + width) % width})
			})
			return g, in, f
		}
		g, in, f := build()
		values := map[int]int{}
		roots := map[int]*memo.Root[int]{}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch i := rapid.IntRange(0, width-1).Draw(t, "i"); rapid.IntRange(0, 4).Draw(t, "op") {
			case 0:
				in.Delete(i)
				delete(values, i)
			case 1:
				if r := roots[i]; r != nil {
					r.Close()
					delete(roots, i)
				} else {
					roots[i] = f.Root([2]int{depth, i})
				}
			default:
				v := rapid.IntRange(0, 20).Draw(t, "v")
				in.Set(i, v)
				values[i] = v
			}
			if rapid.Bool().Draw(t, "settle") {
				g.Settle()
			}
		}
		g.Settle()
		g2, in2, f2 := build()
		for k, v := range values {
			in2.Set(k, v)
		}
		for i, r := range roots {
			if want := f2.Get(g2.Untracked(), [2]int{depth, i}); r.Value() != want {
				t.Fatalf("root %d = %d, want %d", i, r.Value(), want)
			}
			r.Close()
		}
		g.Settle()
		if f.Len() != 0 {
			t.Fatalf("%d nodes left", f.Len())
		}
	})
}

// A value that one user lets go and another takes up in the same settlement is told of later changes.
func TestANodeChangesHands(t *testing.T) {
	g := memo.New()
	a := memo.NewInput[string](g, eq[int])
	a.Set("a", 1)
	a.Set("first", 1) // who uses the value
	double := memo.NewFunc(g, "double", eq[int], func(r *memo.Reader, _ string) int {
		v, _ := a.Get(r, "a")
		return 2 * v
	})
	// It reads the input itself and through another value, so that it is stale before it is computed again, and the other
	// value changes while it is.
	sum := memo.NewFunc(g, "sum", eq[int], func(r *memo.Reader, k string) int {
		v, _ := a.Get(r, "a")
		return v + double.Get(r, k)
	})
	user := memo.NewFunc(g, "user", eq[int], func(r *memo.Reader, k string) int {
		first, _ := a.Get(r, "first")
		if (first == 1) != (k == "first") {
			return 0
		}
		return sum.Get(r, "")
	})
	first, second := user.Root("first"), user.Root("second")
	g.Settle()
	a.Set("first", 2)
	a.Set("a", 2)
	g.Settle()
	if first.Value() != 0 || second.Value() != 6 {
		t.Fatalf("after the change of hands: %d and %d, want 0 and 6", first.Value(), second.Value())
	}
	a.Set("a", 3)
	g.Settle()
	if second.Value() != 9 {
		t.Errorf("the new user has %d, want 9", second.Value())
	}
}

// An input that goes and comes back before its former self is dropped stays.
func TestAnInputComesBack(t *testing.T) {
	g := memo.New()
	in := memo.NewInput[string](g, eq[int])
	f := memo.NewFunc(g, "f", eq[int], func(r *memo.Reader, _ string) int {
		if which, _ := in.Get(r, "which"); which == 0 {
			return 0
		}
		v, _ := in.Get(r, "a")
		return v
	})
	in.Set("which", 1)
	in.Set("a", 1)
	root := f.Root("")
	defer root.Close()
	in.Set("which", 0)
	f.Get(g.Untracked(), "") // nobody reads a any more, and nothing is dropped before the next settlement
	in.Delete("a")
	in.Set("a", 2)
	g.Settle()
	if v, ok := in.Get(g.Untracked(), "a"); !ok || v != 2 {
		t.Errorf("the input is %d, %t; want 2", v, ok)
	}
}
