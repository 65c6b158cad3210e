package xds

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"weak"

	"github.com/causeway-mesh/causeway/api/envoy"
)

// A defect names one version of one resource.
type defect struct {
	typ           envoy.Type
	name, version string
}

func defectOf(f *envoy.Fragment) defect { return defect{f.Type, f.Name, f.Version} }

// A Quarantine knows which resources the Envoys of a zone refuse, so that one Envoy's refusal spares the others.
type Quarantine struct {
	mu      sync.Mutex
	wards   map[string]*Ward
	changed chan struct{}
	// pending is what has been refused and not been passed on; wake yields when there is any.
	pending []report
	wake    chan struct{}
}

// A report is a fragment that a client of a version refused.
type report struct {
	version string
	frag    *envoy.Fragment
	text    string
}

// pass keeps a report until it is taken. There are no more of them at a time than fragments are remembered.
func (q *Quarantine) pass(r report) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.pending) < maxDefects {
		q.pending = append(q.pending, r)
	}
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// reports takes what is pending.
func (q *Quarantine) reports() []report {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := q.pending
	q.pending = nil
	return out
}

// NewQuarantine makes an empty quarantine.
func NewQuarantine() *Quarantine {
	return &Quarantine{wards: map[string]*Ward{}, changed: make(chan struct{}, 1), wake: make(chan struct{}, 1)}
}

// Released yields after resources have left the quarantine: streams from which they were withheld should look again.
func (q *Quarantine) Released() <-chan struct{} { return q.changed }

// Ward returns what the Envoys of one version share. Versions behave differently; what one refuses another may take.
func (q *Quarantine) Ward(envoyVersion string) *Ward {
	q.mu.Lock()
	defer q.mu.Unlock()
	w := q.wards[envoyVersion]
	if w == nil {
		if len(q.wards) >= maxWards {
			envoyVersion = "" // versions are claims of clients, and not to be remembered without end
			if w = q.wards[envoyVersion]; w != nil {
				return w
			}
		}
		version := envoyVersion
		w = newWard(q.changed, func(f *envoy.Fragment, text string) { q.pass(report{version, f, text}) })
		q.wards[envoyVersion] = w
	}
	return w
}

const (
	maxWards   = 64
	maxDefects = 512
	maxGood    = 1 << 15
)

// A Ward is what is known about resources among the Envoys of one version, and the responses they have in common.
type Ward struct {
	size       atomic.Int64
	generation atomic.Uint64
	released   chan<- struct{}
	pass       func(*envoy.Fragment, string) // hears of what is new
	bodies     bodies

	mu  sync.Mutex
	bad map[defect]string
	age []defect
	// What some client has taken is not withheld from others because one refuses it:
	// a client that is broken, or lies, hurts only itself. Two sets, the older of which is dropped when the newer is full.
	good, older map[uint64]struct{}
	seed        maphash.Seed
	indexes     map[weak.Pointer[envoy.Part]]users
}

func newWard(released chan<- struct{}, pass func(*envoy.Fragment, string)) *Ward {
	return &Ward{released: released, pass: pass, bad: map[defect]string{}, good: map[uint64]struct{}{}, seed: maphash.MakeSeed()}
}

func (w *Ward) hash(d defect) uint64 { return maphash.Comparable(w.seed, d) }

// report says that a client refused a fragment that was alone in its response.
func (w *Ward) report(f *envoy.Fragment, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := defectOf(f)
	if _, known := w.bad[d]; known || w.taken(d) {
		return
	}
	w.bad[d] = text
	w.pass(f, text)
	w.age = append(w.age, d)
	if len(w.age) > maxDefects {
		delete(w.bad, w.age[0])
		w.age = w.age[1:]
	}
	w.size.Store(int64(len(w.bad)))
	w.generation.Add(1)
}

func (w *Ward) taken(d defect) bool {
	h := w.hash(d)
	_, good := w.good[h]
	_, old := w.older[h]
	return good || old
}

// proven says that some client has taken a fragment.
func (w *Ward) proven(f *envoy.Fragment) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.taken(defectOf(f))
}

// accepted says that a client took a response. Each response that many clients get is looked at once,
// as long as nothing is in quarantine. What the client had ceased to ask for proves nothing: it did not look.
func (w *Ward) accepted(t envoy.Type, f *flight, subscribed func(string) bool) {
	fresh := f.shared != nil && !f.shared.taken.Load()
	if !fresh && t != envoy.Extension && w.size.Load() == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	freed, all := false, true
	for x := range f.fragments {
		if !subscribed(x.Name) {
			all = false
			continue
		}
		d := defectOf(x)
		if _, listed := w.bad[d]; listed {
			delete(w.bad, d)
			freed = true
		}
		if f.shared != nil || t == envoy.Extension {
			w.take(w.hash(d))
		}
	}
	if f.shared != nil && all {
		f.shared.taken.Store(true)
	}
	if freed {
		w.forget()
	}
}

func (w *Ward) take(h uint64) {
	if len(w.good) >= maxGood {
		w.older, w.good = w.good, map[uint64]struct{}{}
	}
	w.good[h] = struct{}{}
}

func (w *Ward) forget() {
	left := w.age[:0]
	for _, d := range w.age {
		if _, bad := w.bad[d]; bad {
			left = append(left, d)
		}
	}
	w.age = left
	w.size.Store(int64(len(w.bad)))
	w.generation.Add(1)
	select {
	case w.released <- struct{}{}:
	default:
	}
}

// each calls f for everything in quarantine.
func (w *Ward) each(f func(defect, string)) {
	if w.size.Load() == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for d, text := range w.bad {
		f(d, text)
	}
}

// users lists, for each resource, the fragments that need it.
type users map[envoy.Ref][]*envoy.Fragment

func usersOf(p *envoy.Part) users {
	u := users{}
	for t := range envoy.NumTypes {
		for _, f := range p.Of(t) {
			for _, ref := range f.Refs {
				u[ref] = append(u[ref], f)
			}
		}
	}
	return u
}

// users is computed once for each part that many proxies share, and only while something is in quarantine.
func (w *Ward) users(p *envoy.Part) users {
	key := weak.Make(p)
	w.mu.Lock()
	defer w.mu.Unlock()
	if u, ok := w.indexes[key]; ok {
		return u
	}
	if len(w.indexes) >= maxWards || w.indexes == nil {
		w.indexes = map[weak.Pointer[envoy.Part]]users{}
	}
	u := usersOf(p)
	w.indexes[key] = u
	return u
}
