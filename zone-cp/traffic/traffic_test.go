package traffic_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/api/agentapi"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/zone-cp/traffic"
)

const web = "kri_msvc_default_east__web_main"

var proxy = resource.Key{Type: mesh.TypeDataplane, Mesh: "default", Name: "client-1"}

// clock is at a full slot of the table that newTable makes.
type clock struct{ at time.Time }

func (c *clock) now() time.Time          { return c.at }
func (c *clock) forward(d time.Duration) { c.at = c.at.Add(d) }

func newTable() (*traffic.Table, *clock) {
	c := &clock{time.Unix(1_000_000, 0)}
	return traffic.New(traffic.Config{Zone: "east", Slot: 10 * time.Second, Now: c.now, Known: func(k resource.KRI) bool { return k.Name != "unknown" }}), c
}

func report(over time.Duration, loads ...*agentapi.Load) *agentapi.LoadReport {
	return &agentapi.LoadReport{OverMs: over.Milliseconds(), Loads: loads}
}

func sent(zone string, priority uint32, requests, errors uint64) *agentapi.Load {
	return &agentapi.Load{Destination: web, Zone: zone, Priority: priority, Requests: requests, Errors: errors}
}

func TestRates(t *testing.T) {
	table, clock := newTable()
	for range 12 {
		table.Add(proxy, report(10*time.Second, sent("east", 0, 50, 5)))
		clock.forward(10 * time.Second)
	}
	clock.forward(-5 * time.Second) // in the middle of a slot
	got := table.Report("default")
	// The window is the newest slot, half over, and the five before it.
	want := mesh.TrafficReport{Window: 60, Items: []mesh.Traffic{{
		Service: web, FromZone: "east", ToZone: "east", Seconds: 55, Requests: 300, Errors: 30, RequestsPerSecond: 5.45, ErrorsPerSecond: 0.55,
	}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	if other := table.Report("other"); len(other.Items) > 0 {
		t.Errorf("another mesh has %+v", other)
	}
	clock.forward(2 * time.Minute)
	if now := table.Report("default"); len(now.Items) > 0 {
		t.Errorf("long after the end: %+v", now)
	}
	if table.Sweep(); table.Numbers().Rows != 0 {
		t.Errorf("rows that are over are kept: %+v", table.Numbers())
	}
}

// Traffic that has only begun is rated by the time since it did.
func TestFirstRate(t *testing.T) {
	table, clock := newTable()
	clock.forward(5 * time.Second)
	table.Add(proxy, report(10*time.Second, sent("east", 0, 50, 0)))
	if got := table.Report("default").Items[0]; got.RequestsPerSecond != 5 || got.Seconds != 10 {
		t.Errorf("got %+v, want 5 requests per second over 10 seconds", got)
	}
}

// What a proxy counted while it could not tell is of that time: the rates show no burst, and what is older than the window is over.
func TestLateReport(t *testing.T) {
	table, _ := newTable()
	table.Add(proxy, report(10*time.Second, sent("east", 0, 1, 0)))
	table.Add(proxy, report(2*time.Minute, sent("east", 0, 1200, 0)))
	if got := table.Report("default").Items[0]; got.Requests != 601 {
		t.Errorf("%d requests are counted, want half of 1200 and the first one: %+v", got.Requests, got)
	}
}

func TestInProgress(t *testing.T) {
	table, clock := newTable()
	other := resource.Key{Type: mesh.TypeDataplane, Mesh: "default", Name: "client-2"}
	active := func(n uint64) *agentapi.Load { l := sent("east", 0, 0, 0); l.InProgress = n; return l }
	want := func(n uint64) {
		t.Helper()
		items := table.Report("default").Items
		if n == 0 && len(items) == 0 {
			return
		}
		if len(items) != 1 || items[0].InProgress != n {
			t.Errorf("got %+v, want %d in progress", items, n)
		}
	}
	table.Add(proxy, report(time.Second, active(3)))
	table.Add(other, report(time.Second, active(4)))
	want(7)
	table.Add(proxy, report(time.Second, active(1)))
	want(5)
	clock.forward(10 * time.Minute)
	table.Sweep()
	want(5) // long requests stay
	table.Gone(other)
	table.Gone(other)
	want(1)
	table.Add(proxy, report(time.Second, active(0)))
	want(0)
	table.Add(other, report(time.Second, active(2)))
	want(2)
}

// A proxy cannot make up services, speak for another mesh, or fill the table.
func TestBounds(t *testing.T) {
	table, _ := newTable()
	for _, service := range []string{"", "web", "kri_msvc_other_east__web_main", "kri_msvc_default_east__unknown_main"} {
		table.Add(proxy, report(time.Second, &agentapi.Load{Destination: service, Zone: "east", Requests: 1}))
	}
	foreign := resource.Key{Type: mesh.TypeDataplane, Mesh: "other", Name: "x"}
	table.Add(proxy, report(time.Second, sent("east", 0, 1, 0)))
	table.Add(foreign, report(time.Second, sent("east", 0, 1_000_000, 0)))
	if got := table.Report("default").Items; len(got) != 1 || got[0].Requests != 1 || table.Numbers().Unknown != 5 {
		t.Errorf("got %+v, %+v", got, table.Numbers())
	}
	var many []*agentapi.Load
	for i := range 300 {
		many = append(many, sent(fmt.Sprintf("zone-%d", i), 0, 1, 0))
	}
	table.Add(proxy, report(time.Second, many...))
	if n := table.Numbers(); n.Rows != 200 || n.LeftOut != 101 {
		t.Errorf("got %+v, want 200 rows", n)
	}
	// Absurd counts and times are no more than that.
	table.Add(proxy, &agentapi.LoadReport{OverMs: -1 << 62, Loads: []*agentapi.Load{{Destination: web, Zone: "east", Requests: 1 << 63, InProgress: 1 << 63}}})
	table.Add(proxy, &agentapi.LoadReport{OverMs: 1 << 62, Loads: []*agentapi.Load{{Destination: web, Zone: "east", Requests: 1 << 63}}})
	table.Report("default")
}

// BenchmarkReports is what the reports of 1,000 proxies cost, each to 50 service ports with endpoints in two zones. They come every 10
// seconds: a tenth of one operation is the CPU per second.
func BenchmarkReports(b *testing.B) {
	table, clock := newTable()
	const proxies, ports = 1000, 50
	var loads []*agentapi.Load
	for i := range ports {
		for p, zone := range []string{"east", "west"} {
			loads = append(loads, &agentapi.Load{
				Destination: fmt.Sprintf("kri_msvc_default_east__service-%d_main", i), Zone: zone, Priority: uint32(p),
				Requests: 1000, Errors: 3, Connections: 2, BytesSent: 100_000, BytesReceived: 1_000_000, InProgress: uint64(i % 3),
			})
		}
	}
	keys := make([]resource.Key, proxies)
	for i := range keys {
		keys[i] = resource.Key{Type: mesh.TypeDataplane, Mesh: "default", Name: fmt.Sprintf("client-%d", i)}
	}
	r := report(10*time.Second, loads...)
	b.ReportAllocs()
	for b.Loop() {
		for _, k := range keys {
			table.Add(k, r)
		}
		table.Sweep()
		clock.forward(10 * time.Second)
	}
	perInterval := b.Elapsed().Seconds() / float64(b.N)
	b.ReportMetric(perInterval/10*100, "%core")
}
