package zonecp

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/causeway-mesh/causeway/api/zonesync"
	"github.com/causeway-mesh/causeway/zone-cp/push"
	"github.com/causeway-mesh/causeway/zone-cp/uplink"
)

// A standing says how the proxies of all instances are to what has been computed. Instances count computations each for itself, so
// they tell each other which revision of the store, that of all, their proxies are at. They do with their beats: a record of
// it would be a revision itself. It implements uplink.Engine.
type standing struct {
	zone *Zone

	mu    sync.Mutex
	steps []revised
	bell  chan struct{} // closed and replaced when anything may have moved
}

// revised is the last computation of this instance at a revision.
type revised struct{ sequence, revision uint64 }

// words are what an instance tells the others.
type words struct {
	// Revision is what all its proxies are at.
	Revision     uint64 `json:"revision"`
	Connected    uint64 `json:"connected"`
	Acknowledged uint64 `json:"acknowledged"`
	// What its proxies refuse: the first of it, how much, and how many they are.
	Refused      []refused `json:"refused,omitempty"`
	RefusedTotal uint64    `json:"refusedTotal,omitempty"`
	RefusedBy    uint64    `json:"refusedBy,omitempty"`
}

type refused struct {
	Mesh      string   `json:"mesh"`
	Dataplane string   `json:"dataplane"`
	Type      string   `json:"type"`
	Name      string   `json:"name"`
	Reason    string   `json:"reason"`
	Policies  []string `json:"policies,omitempty"`
}

const (
	// maxSteps bounds what is remembered while proxies are behind; beyond it they count as further behind.
	maxSteps = 10_000
	// maxRefused is how much of what proxies refuse is passed on.
	maxRefused = 20
	// tellStanding is the least time between two beats that tell of progress, and between two looks for that of others.
	tellStanding = 200 * time.Millisecond
)

func newStanding(z *Zone) *standing { return &standing{zone: z, bell: make(chan struct{})} }

// note remembers which computation belongs to which revision, and says which revision all proxies of this instance are at.
func (s *standing) note(p push.Standing) (acknowledged uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := revised{p.Sequence, p.Position.Revision}
	if n := len(s.steps); n > 0 && s.steps[n-1].revision == now.revision {
		s.steps[n-1].sequence = max(s.steps[n-1].sequence, now.sequence)
	} else if n == 0 || s.steps[n-1].sequence < now.sequence {
		s.steps = append(s.steps, now)
	}
	if len(s.steps) > maxSteps {
		s.steps = slices.Delete(s.steps, 0, len(s.steps)-maxSteps)
	}
	if p.Least >= p.Sequence {
		return p.Position.Revision
	}
	for _, st := range s.steps {
		if st.sequence <= p.Least {
			acknowledged = st.revision
		}
	}
	return acknowledged
}

// sequenceAt is the last computation of this instance that holds nothing later than a revision.
func (s *standing) sequenceAt(revision uint64) (sequence uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.steps {
		if st.revision <= revision {
			sequence = st.sequence
		}
	}
	return sequence
}

// own is what this instance knows by itself.
func (s *standing) own(ctx context.Context) (push.Standing, words, error) {
	p, err := s.zone.engine.Standing(ctx)
	if err != nil {
		return p, words{}, err
	}
	w := words{Revision: s.note(p), Connected: p.Connected, Acknowledged: p.Acknowledged}
	list, total, proxies := s.zone.streams.exceptions(maxRefused)
	w.RefusedTotal, w.RefusedBy = total, proxies
	for _, x := range list {
		w.Refused = append(w.Refused, refused{x.GetMesh(), x.GetDataplane(), x.GetType(), x.GetName(), x.GetReason(), x.GetPolicies()})
	}
	return p, w, nil
}

// say is what the beats of this instance tell.
func (s *standing) say(ctx context.Context) []byte {
	var w words
	select {
	case <-s.zone.ready:
		var err error
		if _, w, err = s.own(ctx); err != nil {
			w = words{} // the engine has stopped
		}
	default:
	}
	b, err := json.Marshal(w)
	if err != nil {
		return []byte("{}")
	}
	return b
}

// others are the words of the other instances. One that has said nothing is at no revision.
func (s *standing) others() []words {
	var out []words
	for _, text := range s.zone.instances.Said() {
		var w words
		if json.Unmarshal(text, &w) != nil {
			w = words{}
		}
		out = append(out, w)
	}
	return out
}

// Standing implements uplink.Engine.
func (s *standing) Standing(ctx context.Context) (push.Standing, error) {
	out, _, err := s.own(ctx)
	if err != nil {
		return out, err
	}
	for _, w := range s.others() {
		out.Connected += w.Connected
		out.Acknowledged += w.Acknowledged
		if w.Revision < out.Position.Revision {
			out.Least = min(out.Least, s.sequenceAt(w.Revision))
		}
	}
	return out, nil
}

// Progressed implements uplink.Engine.
func (s *standing) Progressed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bell
}

func (s *standing) ring() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.bell)
	s.bell = make(chan struct{})
}

// run tells the other instances of progress without waiting for the next beat, and looks for theirs while the writer waits for it.
// In a zone that stands alone nobody asks.
func (s *standing) run(ctx context.Context) error {
	if s.zone.federation == nil {
		return nil
	}
	var told uint64
	for {
		progressed, changed := s.zone.engine.Progressed(), s.zone.instances.Changed()
		s.ring()
		p, w, err := s.own(ctx)
		if err != nil {
			return nil // the engine has stopped
		}
		waiting := false
		if others := s.others(); len(others) > 0 {
			for _, o := range others {
				waiting = waiting || s.zone.instances.Writes() && o.Revision < p.Position.Revision
			}
			if waiting || w.Revision != told {
				told = w.Revision
				if err := s.zone.instances.Look(ctx); err == nil {
					s.ring()
				}
			}
		}
		pause := time.NewTimer(tellStanding)
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
		pause.Stop()
		if waiting && ctx.Err() == nil {
			continue
		}
		select {
		case <-progressed:
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// engineOfAll is the engine as the uplink sees it.
func (z *Zone) engineOfAll() uplink.Engine {
	if z.standing == nil {
		return z.engine
	}
	return z.standing
}

// exceptionsOfAll lists what proxies of any instance refuse, at most so many, and counts the pieces and the proxies.
func (z *Zone) exceptionsOfAll(most int) (list []*zonesync.Exception, total, proxies uint64) {
	list, total, proxies = z.streams.exceptions(most)
	if z.standing == nil {
		return list, total, proxies
	}
	for _, w := range z.standing.others() {
		total, proxies = total+w.RefusedTotal, proxies+w.RefusedBy
		for _, x := range w.Refused[:min(len(w.Refused), most-len(list))] {
			list = append(list, &zonesync.Exception{
				Mesh: x.Mesh, Dataplane: x.Dataplane, Type: x.Type, Name: x.Name, Reason: x.Reason, Policies: x.Policies,
			})
		}
	}
	return list, total, proxies
}
