package agents

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/api/agentapi"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/zone-cp/identity"
)

// Peers are the other instances of this zone on the same store.
type Peers interface {
	// Up says whether an instance is up as far as is known, Others which are.
	Up(instance string) bool
	Others() []string
	// Changed is closed when one comes or goes. Take it before looking.
	Changed() <-chan struct{}
	// Heard notes that an instance must be up.
	Heard(instance string)
}

// An agent has its session with one instance, and all have to know what it reports. So the instance with the session writes the facts
// of its dataplanes as derived records, and the others take them over unless they have a session of the dataplane themselves.

const (
	// standingType is the type of the records with the facts of dataplanes, by mesh and name.
	standingType = "standing/" + mesh.TypeDataplane
	// toldPrefix, and the name of an instance, is the type of the records that say whose goodbye the proxies of that instance know.
	toldPrefix = "told/"
	// maxStandings is how many records one commit has.
	maxStandings = 500
	// gatherStandings is how long changes are gathered after a commit; the first is written at once.
	gatherStandings = 10 * time.Millisecond
	retryStandings  = time.Second
	// tellPatience bounds how long an instance waits for its proxies on behalf of another one.
	tellPatience = time.Minute
)

// A standing is the facts of one dataplane as they are shared.
type standing struct {
	Facts        Facts                       `json:"facts"`
	Subscription string                      `json:"subscription,omitempty"`
	Previous     *mesh.DiscoverySubscription `json:"previous,omitempty"`
}

func encodeStanding(f Facts) ([]byte, error) {
	f.Discovery = mesh.DiscoveryStatus{} // it changes all the time, and for nobody's decision
	return json.Marshal(standing{f, f.subscription, f.previous})
}

func decodeStanding(data []byte) (Facts, error) {
	var st standing
	if err := json.Unmarshal(data, &st); err != nil {
		return Facts{}, err
	}
	st.Facts.subscription, st.Facts.previous = st.Subscription, st.Previous
	return st.Facts, nil
}

// later says that facts are of a later session than others. An agent numbers its sessions; of two agents only clocks can tell.
func (f Facts) later(than Facts) bool {
	if f.Instance == than.Instance {
		return f.Session > than.Session
	}
	return f.ConnectedAt.After(than.ConnectedAt)
}

// sharing is what is to be written for the other instances.
type sharing struct {
	mu    sync.Mutex
	due   map[resource.Key]bool
	told  map[resource.Key]string // goodbyes that this instance's proxies know of, by the session
	wakes chan struct{}
}

func newSharing() *sharing {
	return &sharing{due: map[resource.Key]bool{}, told: map[resource.Key]string{}, wakes: make(chan struct{}, 1)}
}

func (x *sharing) mark(keys ...resource.Key) {
	if len(keys) == 0 {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, k := range keys {
		x.due[k] = true
	}
	wake(x.wakes)
}

func (x *sharing) markTold(k resource.Key, session string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.told[k] = session
	wake(x.wakes)
}

// take empties what is due.
func (x *sharing) take() (due []resource.Key, told map[resource.Key]string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	due, told = slices.SortedFunc(maps.Keys(x.due), resource.Key.Compare), x.told
	x.due, x.told = map[resource.Key]bool{}, map[resource.Key]string{}
	return due, told
}

// share writes what changes for the other instances until ctx ends.
func (s *Service) share(ctx context.Context) error {
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() { s.watchRegistry(ctx) })
	for {
		select {
		case <-s.sharing.wakes:
		case <-ctx.Done():
			return nil
		}
		pause := gatherStandings
		due, told := s.sharing.take()
		if err := s.writeStandings(ctx, due, told); err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn("other instances cannot be told how dataplanes stand; tried again", "dataplanes", len(due), "err", err)
			s.sharing.mark(due...)
			for k, session := range told {
				s.sharing.markTold(k, session)
			}
			pause = retryStandings
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// watchRegistry marks what changes.
func (s *Service) watchRegistry(ctx context.Context) {
	feed := s.registry.Subscribe()
	defer feed.Close()
	for {
		u, err := feed.Next(ctx)
		if err != nil {
			return
		}
		s.sharing.mark(u.Changed...)
		if u.All {
			var keys []resource.Key
			u.Snapshot.Each("", func(k resource.Key, _ Facts) bool {
				keys = append(keys, k)
				return true
			})
			s.sharing.mark(keys...)
		}
	}
}

// writeStandings commits the records that differ from what this instance knows better.
func (s *Service) writeStandings(ctx context.Context, due []resource.Key, told map[resource.Key]string) error {
	snapshot := s.cfg.Catalog.Snapshot()
	var puts []catalog.DerivedPut
	for _, k := range due {
		put, differs, err := s.standingOf(snapshot, k)
		if err != nil {
			return fmt.Errorf("share how %s stands: %w", k, err)
		}
		if differs {
			puts = append(puts, put)
		}
	}
	for k, session := range told {
		if _, registered := snapshot.Get(k); registered {
			puts = append(puts, catalog.DerivedPut{Key: s.toldKey(k, s.cfg.Instance), Data: []byte(session), Owner: &k})
		}
	}
	for batch := range slices.Chunk(puts, maxStandings) {
		if _, err := s.cfg.Catalog.Commit(ctx, catalog.Batch{Author: author, Reason: "how dataplanes stand", Derived: batch}); err != nil {
			return err
		}
	}
	return nil
}

func standingKey(k resource.Key) catalog.DerivedKey {
	return catalog.DerivedKey{Type: standingType, Mesh: k.Mesh, Name: k.Name}
}

func (s *Service) toldKey(k resource.Key, instance string) catalog.DerivedKey {
	return catalog.DerivedKey{Type: toldPrefix + instance, Mesh: k.Mesh, Name: k.Name}
}

// standingOf is the record of a dataplane as it should be, and whether it differs from the one there is.
func (s *Service) standingOf(snapshot *catalog.Snapshot, k resource.Key) (put catalog.DerivedPut, differs bool, err error) {
	key := standingKey(k)
	data, recorded := snapshot.Derived(key.Type, key.Mesh, key.Name)
	if _, registered := snapshot.Get(k); !registered {
		return catalog.DerivedPut{Key: key}, recorded, nil // it was written while the Dataplane was deleted
	}
	s.registry.mu.Lock()
	e, known := s.registry.current.tree.Get(entry{key: k})
	live := s.registry.live[k] != nil
	s.registry.mu.Unlock()
	if !known || e.facts.ControlPlane != s.cfg.Instance {
		return catalog.DerivedPut{}, false, nil
	}
	if recorded && !live {
		theirs, err := decodeStanding(data)
		if err == nil && theirs.ControlPlane != s.cfg.Instance && s.cfg.Peers.Up(theirs.ControlPlane) && !e.facts.later(theirs) {
			return catalog.DerivedPut{}, false, nil // they know better
		}
	}
	now, err := encodeStanding(*e.facts)
	return catalog.DerivedPut{Key: key, Data: now, Owner: &k}, !bytes.Equal(now, data), err
}

// merge takes over what another instance recorded of a dataplane. New says that the record has just been written.
func (s *Service) merge(snapshot *catalog.Snapshot, k resource.Key, isNew bool) {
	data, ok := snapshot.Derived(standingType, k.Mesh, k.Name)
	if _, registered := snapshot.Get(k); !ok || !registered {
		return
	}
	theirs, err := decodeStanding(data)
	if err != nil {
		s.cfg.Log.Error("how a dataplane stands cannot be read", "mesh", k.Mesh, "dataplane", k.Name, "err", err)
		return
	}
	if isNew {
		s.cfg.Peers.Heard(theirs.ControlPlane)
	}
	up := s.cfg.Peers.Up(theirs.ControlPlane)
	r := s.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	var mine Facts
	e, known := r.current.tree.Get(entry{key: k})
	if known {
		mine = *e.facts
	}
	own := theirs.ControlPlane == s.cfg.Instance
	if ss := r.live[k]; ss != nil {
		if own {
			return
		}
		over := theirs.supersedes(mine, up)
		if over == nil {
			s.sharing.mark(k) // it says something else
			return
		}
		ss.End(over)
		delete(r.live, k)
	} else if known && own && mine.ControlPlane == s.cfg.Instance {
		return
	} else if known && !theirs.replaces(mine, up) {
		s.sharing.mark(k) // it overtook what is known here
		return
	}
	now := s.cfg.Now()
	broken := theirs.Connected && !up
	if broken {
		theirs.Connected, theirs.LastSeen = false, now
	}
	drains := theirs.Draining && theirs.Connected && !(mine.Draining && mine.subscription == theirs.subscription)
	r.updateLocked(k, func(f *Facts) { *f = theirs })
	s.due.clear(k)
	switch {
	case !up:
		s.await(k, theirs, now)
	case !theirs.Connected:
		s.awaitWithPeers(k, theirs, now)
	}
	if drains && !own {
		s.tell(k, theirs.subscription)
	}
}

// awaitWithPeers sets the deadlines of a proxy that left another instance. That one says when it serves no more, unless it goes too.
func (s *Service) awaitWithPeers(k resource.Key, f Facts, now time.Time) {
	if f.Serving {
		s.due.set(deadline{k, stopServing, now.Add(s.cfg.StartGrace)})
	}
	gone := now.Add(s.cfg.ForgetAfter)
	if f.Draining {
		gone = now.Add(s.cfg.DeregisterAfter)
	}
	s.due.set(deadline{k, deregister, gone})
}

// mergeAll takes over all records, and lists whose they are.
func (s *Service) mergeAll(snapshot *catalog.Snapshot) (keys []resource.Key) {
	if s.cfg.Peers == nil {
		return nil
	}
	snapshot.EachDerived(standingType, "", func(d catalog.DerivedKey, _ []byte) bool {
		keys = append(keys, resource.Key{Type: mesh.TypeDataplane, Mesh: d.Mesh, Name: d.Name})
		return true
	})
	for _, k := range keys {
		s.merge(snapshot, k, false)
	}
	return keys
}

// supersedes says why a session that is open here has to end for one at another instance; nil when it has not.
func (f Facts) supersedes(mine Facts, up bool) error {
	switch {
	case f.Instance == mine.Instance && f.Session > mine.Session:
		return errReplaced // the agent has left this one, whether it knows here or not
	case !f.Connected || !up || f.Session < mine.Session && f.Instance == mine.Instance:
		return nil
	case cmp.Or(f.ConnectedAt.Compare(mine.ConnectedAt), strings.Compare(f.ControlPlane, mine.ControlPlane)) < 0: // both sides see it so
		return status.Error(codes.AlreadyExists, "another agent of the same name was there before, at another instance of the zone")
	}
	return nil
}

// replaces says that the facts of another instance are better than what is known without a session.
func (f Facts) replaces(mine Facts, up bool) bool {
	if !mine.later(f) {
		return true
	}
	// Clocks of instances may differ: an agent that is connected is later than another one that is not.
	return f.Instance != mine.Instance && f.Connected && up && !mine.Connected
}

// elsewhere refuses an agent whose dataplane another one serves through another instance.
func (s *Service) elsewhere(f Facts, g identity.Grant, hello *agentapi.Hello) error {
	if s.cfg.Peers == nil || !f.Connected || f.ControlPlane == s.cfg.Instance || !s.cfg.Peers.Up(f.ControlPlane) {
		return nil
	}
	if f.Instance == g.Instance && (hello == nil || f.Session < hello.GetSession()) {
		return nil
	}
	return takenBy(g.Key(), f.Instance, f.Place)
}

// watchPeers takes over the dataplanes of instances that are gone. Their proxies go on: they get the time to come here that they
// get when the only instance of a zone starts again.
func (s *Service) watchPeers(ctx context.Context) error {
	for {
		changed := s.cfg.Peers.Changed()
		now := s.cfg.Now()
		s.registry.Snapshot().Each("", func(k resource.Key, f Facts) bool {
			if f.ControlPlane != s.cfg.Instance && !s.cfg.Peers.Up(f.ControlPlane) {
				s.adopt(k, now)
			}
			return true
		})
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *Service) adopt(k resource.Key, now time.Time) {
	r := s.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	e, known := r.current.tree.Get(entry{key: k})
	if !known || r.live[k] != nil || s.cfg.Peers.Up(e.facts.ControlPlane) {
		return
	}
	r.updateLocked(k, func(f *Facts) {
		if f.Connected {
			f.Connected, f.LastSeen = false, now
		}
		f.ControlPlane = s.cfg.Instance
		s.due.clear(k)
		s.await(k, *f, now)
	})
}

// tell waits until the proxies of this instance know that a dataplane of another one drains, and says so.
func (s *Service) tell(k resource.Key, session string) {
	s.work.Go(func() {
		if s.cfg.Announced != nil {
			ctx, cancel := context.WithTimeout(s.running, tellPatience)
			defer cancel()
			if err := s.cfg.Announced(ctx, k); err != nil {
				return // whoever waits for it finds that out
			}
		}
		s.sharing.markTold(k, session)
	})
}

// announce waits until the proxies of every instance know that a dataplane drains.
func (s *Service) announce(ctx context.Context, k resource.Key, session string) error {
	if s.cfg.Announced != nil {
		if err := s.cfg.Announced(ctx, k); err != nil {
			return err
		}
	}
	if s.cfg.Peers == nil {
		return nil
	}
	feed := s.cfg.Catalog.Subscribe()
	defer feed.Close()
	updates, wait := make(chan struct{}, 1), sync.WaitGroup{}
	defer wait.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wait.Go(func() {
		for {
			if _, err := feed.Next(ctx); err != nil {
				return
			}
			wake(updates)
		}
	})
	for {
		changed := s.cfg.Peers.Changed()
		late := slices.DeleteFunc(s.cfg.Peers.Others(), func(instance string) bool {
			key := s.toldKey(k, instance)
			data, ok := s.cfg.Catalog.Snapshot().Derived(key.Type, key.Mesh, key.Name)
			return ok && string(data) == session
		})
		if len(late) == 0 {
			return nil
		}
		select {
		case <-updates:
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("instance %s of the zone has not said that its proxies know that %s drains: %w", late[0], k, context.Cause(ctx))
		}
	}
}
