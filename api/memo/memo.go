// Package memo computes values from other values and recomputes only what a change reaches.
// A function's reads are recorded while it runs; the record is both its list of dependencies and its dirty rule,
// so the two cannot drift apart. The package knows nothing of meshes, does no I/O and starts no goroutine.
//
// A Graph has one owner: no method may be called concurrently. Values handed out are shared and must be immutable.
package memo

import (
	"iter"
	"slices"
)

// A Graph holds inputs and the functions computed from them.
type Graph struct {
	roots  []*node // dirty roots, in the order they became so
	loose  []*node // nodes that lost their last user
	counts map[string]uint64
	pass   uint64 // numbers recomputations, to mark the nodes each one read
}

// New returns an empty graph.
func New() *Graph { return &Graph{counts: map[string]uint64{}} }

type state uint8

const (
	clean state = iota
	maybe       // something it depends on, at any depth, has changed
	stale       // something it read has changed
)

type node struct {
	state   state
	onRoots bool
	isLoose bool
	pins    int
	readIn  uint64 // the recomputation that read this node last
	deps    []*node
	users   users
	compute func(*Reader) bool // recomputes and says whether the value changed; nil for inputs
	forget  func()             // removes the node from its family
}

// A Reader is the tracked view that a computation reads through.
type Reader struct {
	g *Graph
	n *node // nil: reads are not recorded
}

// Recomputed returns how often functions of each name have run.
func (g *Graph) Recomputed() map[string]uint64 {
	out := make(map[string]uint64, len(g.counts))
	for k, v := range g.counts {
		out[k] = v
	}
	return out
}

// Untracked returns a reader for use outside of computations; it sees current values and records nothing.
func (g *Graph) Untracked() *Reader { return &Reader{g: g} }

func (r *Reader) read(n *node) {
	r.g.refresh(n)
	if r.n == nil || slices.Contains(tail(r.n.deps), n) {
		return
	}
	r.n.deps = append(r.n.deps, n)
}

// tail is where an immediate repetition of a read is found cheaply; other duplicates cost one entry.
func tail(deps []*node) []*node { return deps[max(0, len(deps)-8):] }

// An Input is a family of values set from outside, by key. An absent key reads as the zero value and false.
type Input[K comparable, V any] struct {
	g     *Graph
	equal func(a, b V) bool
	nodes map[K]*inputNode[V]
}

type inputNode[V any] struct {
	node
	value V
	set   bool
}

// NewInput adds a family of inputs. Setting an equal value changes nothing; a nil equal treats every Set as a change.
func NewInput[K comparable, V any](g *Graph, equal func(a, b V) bool) *Input[K, V] {
	return &Input[K, V]{g: g, equal: equal, nodes: map[K]*inputNode[V]{}}
}

func (in *Input[K, V]) at(k K) *inputNode[V] {
	n := in.nodes[k]
	if n == nil {
		n = &inputNode[V]{}
		n.forget = func() {
			if !n.set && in.nodes[k] == n { // another may have its place after Delete and Set
				delete(in.nodes, k)
			}
		}
		in.nodes[k] = n
	}
	return n
}

// Set gives a key a value.
func (in *Input[K, V]) Set(k K, v V) {
	n := in.at(k)
	if n.set && in.equal != nil && in.equal(n.value, v) {
		return
	}
	n.value, n.set = v, true
	in.g.changed(&n.node)
}

// Delete makes a key absent.
func (in *Input[K, V]) Delete(k K) {
	n, ok := in.nodes[k]
	if !ok || !n.set {
		return
	}
	var zero V
	n.value, n.set = zero, false
	in.g.changed(&n.node)
	if n.users.len() == 0 && n.pins == 0 {
		delete(in.nodes, k)
	}
}

// Get reads a key.
func (in *Input[K, V]) Get(r *Reader, k K) (V, bool) {
	if r.n == nil {
		if n := in.nodes[k]; n != nil {
			return n.value, n.set
		}
		var zero V
		return zero, false
	}
	n := in.at(k)
	r.read(&n.node)
	return n.value, n.set
}

// All yields every present key and value, in no order and unrecorded; for owners of the input only.
func (in *Input[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for k, n := range in.nodes {
			if n.set && !yield(k, n.value) {
				return
			}
		}
	}
}

// A Func is a family of values computed from others, one per key.
type Func[K comparable, V any] struct {
	g       *Graph
	name    string
	compute func(*Reader, K) V
	equal   func(a, b V) bool
	nodes   map[K]*funcNode[V]
}

type funcNode[V any] struct {
	node
	value V
	done  bool
}

// NewFunc adds a computed family. compute must be pure: the same reads give the same value.
// When a recomputed value equals the old one, the old one is kept and its users are not recomputed; nil means never equal.
func NewFunc[K comparable, V any](g *Graph, name string, equal func(a, b V) bool, compute func(*Reader, K) V) *Func[K, V] {
	return &Func[K, V]{g: g, name: name, compute: compute, equal: equal, nodes: map[K]*funcNode[V]{}}
}

func (f *Func[K, V]) at(k K) *funcNode[V] {
	n := f.nodes[k]
	if n != nil {
		return n
	}
	n = &funcNode[V]{}
	n.state = stale
	n.forget = func() { delete(f.nodes, k) }
	n.compute = func(r *Reader) bool {
		f.g.counts[f.name]++
		v := f.compute(r, k)
		if n.done && f.equal != nil && f.equal(n.value, v) {
			return false
		}
		n.value, n.done = v, true
		return true
	}
	f.nodes[k] = n
	return n
}

// Get reads a computed value. A computation must not read itself, directly or through others.
func (f *Func[K, V]) Get(r *Reader, k K) V {
	n := f.at(k)
	r.read(&n.node)
	if r.n == nil && n.users.len() == 0 && n.pins == 0 {
		r.g.loosen(&n.node)
	}
	return n.value
}

// Len is the number of keys computed at present.
func (f *Func[K, V]) Len() int { return len(f.nodes) }

// A Root keeps one computed value up to date.
type Root[V any] struct {
	g    *Graph
	n    *funcNode[V]
	free bool
}

// Root pins the value of a key until Close.
func (f *Func[K, V]) Root(k K) *Root[V] {
	n := f.at(k)
	n.pins++
	f.g.refresh(&n.node)
	return &Root[V]{g: f.g, n: n}
}

// Value is the value as of the last Settle, or of Root.
func (r *Root[V]) Value() V { return r.n.value }

// Close lets the value go.
func (r *Root[V]) Close() {
	if r.free {
		return
	}
	r.free = true
	r.n.pins--
	if r.n.pins == 0 && r.n.users.len() == 0 {
		r.g.loosen(&r.n.node)
	}
}

// changed marks everything that can be reached from an input.
func (g *Graph) changed(n *node) {
	for u := range n.users.all() {
		g.mark(u, stale)
	}
}

func (g *Graph) mark(n *node, s state) {
	if n.state >= s {
		return
	}
	known := n.state != clean
	n.state = s
	if known {
		return // its users know already
	}
	if n.pins > 0 && !n.onRoots {
		n.onRoots = true
		g.roots = append(g.roots, n)
	}
	for u := range n.users.all() {
		g.mark(u, maybe)
	}
}

// refresh brings a node up to date.
func (g *Graph) refresh(n *node) {
	if n.state == maybe {
		for _, d := range n.deps {
			g.refresh(d)
			if n.state == stale {
				break
			}
		}
		if n.state == maybe {
			n.state = clean
		}
	}
	if n.state != stale {
		return
	}
	old := n.deps
	n.deps = nil
	changed := n.compute(&Reader{g: g, n: n})
	// Only now: what it reads is brought up to date while it runs, and marks it as a former reader. It has seen the new values.
	n.state = clean
	g.pass++
	for _, d := range n.deps {
		d.readIn = g.pass
		d.users.add(n)
	}
	for _, d := range old {
		if d.readIn != g.pass {
			d.users.remove(n)
			if d.users.len() == 0 && d.pins == 0 {
				g.loosen(d)
			}
		}
	}
	if changed {
		for u := range n.users.all() {
			if u.state != clean {
				u.state = stale
			} else {
				g.mark(u, stale)
			}
		}
	}
}

func (g *Graph) loosen(n *node) {
	if !n.isLoose {
		n.isLoose = true
		g.loose = append(g.loose, n)
	}
}

// Settle brings every root up to date and drops what nothing uses any more.
func (g *Graph) Settle() {
	for len(g.roots) > 0 {
		roots := g.roots
		g.roots = nil
		for _, n := range roots {
			n.onRoots = false
			if n.pins > 0 {
				g.refresh(n)
			}
		}
	}
	for len(g.loose) > 0 {
		n := g.loose[len(g.loose)-1]
		g.loose = g.loose[:len(g.loose)-1]
		n.isLoose = false
		if n.users.len() > 0 || n.pins > 0 {
			continue
		}
		n.forget()
		for _, d := range n.deps {
			d.users.remove(n)
			if d.users.len() == 0 && d.pins == 0 {
				g.loosen(d)
			}
		}
		n.deps = nil
	}
}

// users is a set of nodes: a slice while small.
type users struct {
	few  []*node
	many map[*node]struct{}
}

const fewUsers = 8

func (u *users) add(n *node) {
	if u.many != nil {
		u.many[n] = struct{}{}
		return
	}
	if slices.Contains(u.few, n) {
		return
	}
	if len(u.few) < fewUsers {
		u.few = append(u.few, n)
		return
	}
	u.many = make(map[*node]struct{}, 2*fewUsers)
	for _, f := range u.few {
		u.many[f] = struct{}{}
	}
	u.many[n] = struct{}{}
	u.few = nil
}

func (u *users) remove(n *node) {
	if u.many != nil {
		delete(u.many, n)
		return
	}
	if i := slices.Index(u.few, n); i >= 0 {
		u.few = slices.Delete(u.few, i, i+1)
	}
}

func (u *users) len() int { return len(u.few) + len(u.many) }

// all iterates over a copy of a small set, because a computation may change it.
func (u *users) all() iter.Seq[*node] {
	return func(yield func(*node) bool) {
		if u.many != nil {
			for n := range u.many {
				if !yield(n) {
					return
				}
			}
			return
		}
		for _, n := range slices.Clone(u.few) {
			if !yield(n) {
				return
			}
		}
	}
}
