// Package traffic adds up what the proxies of a zone report of the traffic that they send: per service port, zone of the endpoints and
// priority, over the last minute. It keeps nothing on disk: what is counted is a rate, and a control plane that starts again counts
// anew. It asks nobody, and decides nothing about where traffic goes.
package traffic

import (
	"math"
	"sync"
	"time"

	"github.com/causeway-mesh/causeway/api/agentapi"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
)

// slots is how many slots of time the window has; the newest is not over yet.
const slots = 6

const (
	// maxRows bounds what is counted apart in a zone.
	maxRows = 50_000
	// maxLoads bounds what is read of one report.
	maxLoads = 5000
	// maxPeers bounds the zones and priorities of one service port.
	maxPeers = 200
	maxText  = 512
)

// Config of a Table.
type Config struct {
	// Zone is where the proxies are.
	Zone string
	// Known says that there is a destination, so that nobody can make up others.
	Known func(port resource.KRI) bool
	// Slot is the sixth part of the window. Default 10s.
	Slot time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// A Table has what is counted. It is safe for concurrent use.
type Table struct {
	cfg Config

	mu       sync.Mutex
	rows     map[key]*row
	peers    map[string]int // rows by service port
	busy     map[resource.Key]map[*row]uint64
	leftOut  uint64
	unknown  uint64
	reported uint64
}

type key struct {
	service  string
	zone     string
	priority uint32
}

// counts are those of one slot, and of the window.
type counts struct {
	requests, errors, connections, failed, sent, received uint64
	shared                                                bool
}

func (c *counts) add(o counts) {
	c.requests += o.requests
	c.errors += o.errors
	c.connections += o.connections
	c.failed += o.failed
	c.sent += o.sent
	c.received += o.received
	c.shared = c.shared || o.shared
}

// row is what is counted of one key.
type row struct {
	key
	mesh   string
	first  time.Time // when the time began that was counted first
	head   int64     // the number of the newest slot
	ring   [slots]counts
	active uint64 // in progress
}

// New makes an empty table.
func New(cfg Config) *Table {
	if cfg.Slot <= 0 {
		cfg.Slot = 10 * time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Table{cfg: cfg, rows: map[key]*row{}, peers: map[string]int{}, busy: map[resource.Key]map[*row]uint64{}}
}

// Window is the time that is looked back.
func (t *Table) Window() time.Duration { return slots * t.cfg.Slot }

// Slot is how often what is counted moves on.
func (t *Table) Slot() time.Duration { return t.cfg.Slot }

// Add takes a report of a proxy. It costs a lookup and some additions per entry.
func (t *Table) Add(proxy resource.Key, report *agentapi.LoadReport) {
	now := t.cfg.Now()
	over := min(max(time.Duration(report.GetOverMs())*time.Millisecond, 0), 24*time.Hour)
	loads := report.GetLoads()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.reported++
	t.leftOut += uint64(report.GetLeftOut())
	if len(loads) > maxLoads {
		t.leftOut += uint64(len(loads) - maxLoads)
		loads = loads[:maxLoads]
	}
	for _, l := range loads {
		k := key{l.GetDestination(), l.GetZone(), l.GetPriority()}
		r := t.rows[k]
		if r == nil {
			if r = t.begin(proxy.Mesh, k, now.Add(-min(over, t.cfg.Slot))); r == nil {
				continue
			}
		}
		if r.mesh != proxy.Mesh {
			t.unknown++
			continue
		}
		t.spread(r, l, now, over)
		t.setActive(proxy, r, l.GetInProgress())
	}
}

// begin makes a row, or refuses one.
func (t *Table) begin(meshName string, k key, since time.Time) *row {
	if len(k.service) > maxText || len(k.zone) > maxText {
		t.unknown++
		return nil
	}
	kri, err := resource.ParseKRI(k.service)
	if err != nil || kri.Mesh != meshName || t.cfg.Known != nil && !t.cfg.Known(kri) {
		t.unknown++
		return nil
	}
	if len(t.rows) >= maxRows || t.peers[k.service] >= maxPeers {
		t.leftOut++
		return nil
	}
	r := &row{key: k, mesh: meshName, first: since, head: t.slotAt(since)}
	t.rows[k] = r
	t.peers[k.service]++
	return r
}

func (t *Table) slotAt(at time.Time) int64 { return at.UnixNano() / int64(t.cfg.Slot) }

// turn makes a slot the newest, and empties those that come between.
func (r *row) turn(slot int64) {
	if slot-r.head >= slots {
		r.ring = [slots]counts{}
	} else {
		for s := r.head + 1; s <= slot; s++ {
			r.ring[s%slots] = counts{}
		}
	}
	r.head = max(r.head, slot)
}

// spread adds counts to the slots of the time that they are of: a report that could not be sent for a while is of several.
func (t *Table) spread(r *row, l *agentapi.Load, now time.Time, over time.Duration) {
	slot := t.slotAt(now)
	r.turn(slot)
	all := counts{l.GetRequests(), l.GetErrors(), l.GetConnections(), l.GetFailedConnections(), l.GetBytesSent(), l.GetBytesReceived(), l.GetBytesShared()}
	if all == (counts{}) {
		return
	}
	n := int64(max(1, (over+t.cfg.Slot/2)/t.cfg.Slot))
	if n == 1 {
		r.ring[slot%slots].add(all)
		return
	}
	for i := range min(n, slots) {
		r.ring[(slot-i)%slots].add(counts{
			part(all.requests, i, n), part(all.errors, i, n), part(all.connections, i, n),
			part(all.failed, i, n), part(all.sent, i, n), part(all.received, i, n), all.shared,
		})
	}
}

// part is one of n parts that add up to all.
func part(all uint64, i, n int64) uint64 {
	size := all / uint64(n)
	if uint64(i) < all%uint64(n) {
		size++
	}
	return size
}

func (t *Table) setActive(proxy resource.Key, r *row, n uint64) {
	n = min(n, math.MaxUint32)
	own := t.busy[proxy]
	if own[r] == n {
		return
	}
	r.active += n - own[r]
	switch {
	case n == 0:
		if delete(own, r); len(own) == 0 {
			delete(t.busy, proxy)
		}
	case own == nil:
		t.busy[proxy] = map[*row]uint64{r: n}
	default:
		own[r] = n
	}
}

// Gone forgets what a proxy has in progress: its session ended. What it counted stays.
func (t *Table) Gone(proxy resource.Key) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for r, n := range t.busy[proxy] {
		r.active -= n
	}
	delete(t.busy, proxy)
}

// Sweep drops rows without traffic in the window, and lists the others by mesh and service port.
func (t *Table) Sweep() map[string]map[string][]mesh.Traffic {
	now := t.cfg.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	out := map[string]map[string][]mesh.Traffic{}
	for k, r := range t.rows {
		entry, any := t.entry(r, now)
		if !any {
			delete(t.rows, k)
			if t.peers[k.service]--; t.peers[k.service] == 0 {
				delete(t.peers, k.service)
			}
			continue
		}
		if out[r.mesh] == nil {
			out[r.mesh] = map[string][]mesh.Traffic{}
		}
		out[r.mesh][k.service] = append(out[r.mesh][k.service], entry)
	}
	for _, services := range out {
		for _, list := range services {
			mesh.SortTraffic(list)
		}
	}
	return out
}

// Report is the traffic of a mesh.
func (t *Table) Report(meshName string) mesh.TrafficReport {
	now := t.cfg.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	out := mesh.TrafficReport{Window: t.Window().Seconds(), Items: []mesh.Traffic{}, LeftOut: t.leftOut}
	for _, r := range t.rows {
		if r.mesh != meshName {
			continue
		}
		if entry, any := t.entry(r, now); any {
			out.Items = append(out.Items, entry)
		}
	}
	mesh.SortTraffic(out.Items)
	return out
}

// entry sums up the window of a row; any is false when there is nothing in it.
func (t *Table) entry(r *row, now time.Time) (out mesh.Traffic, any bool) {
	slot := t.slotAt(now)
	r.turn(slot)
	var sum counts
	for _, c := range r.ring {
		sum.add(c)
	}
	if sum == (counts{}) && r.active == 0 {
		return out, false
	}
	// The newest slot has only begun.
	began := time.Unix(0, (slot-slots+1)*int64(t.cfg.Slot))
	if r.first.After(began) {
		began = r.first
	}
	seconds := max(now.Sub(began).Seconds(), t.cfg.Slot.Seconds()/10)
	return mesh.Traffic{
		Service: r.service, FromZone: t.cfg.Zone, ToZone: r.zone, Priority: r.priority, Seconds: round(seconds),
		Requests: sum.requests, Errors: sum.errors, InProgress: r.active, Connections: sum.connections, FailedConnections: sum.failed,
		BytesSent: sum.sent, BytesReceived: sum.received, BytesShared: sum.shared,
		RequestsPerSecond: round(float64(sum.requests) / seconds), ErrorsPerSecond: round(float64(sum.errors) / seconds),
	}, true
}

// round keeps two digits after the point: more would pretend to be known.
func round(f float64) float64 { return math.Round(f*100) / 100 }

// Numbers are what the table says of itself.
type Numbers struct{ Rows, Reports, LeftOut, Unknown uint64 }

// Numbers counts.
func (t *Table) Numbers() Numbers {
	t.mu.Lock()
	defer t.mu.Unlock()
	return Numbers{uint64(len(t.rows)), t.reported, t.leftOut, t.unknown}
}
