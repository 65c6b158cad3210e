package envoy

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/zone-cp/xds"
)

// refusal is one way to make a resource that only Envoy finds wrong.
type refusal struct {
	typ  envoy.Type
	text string // in Envoy's words
}

var refusals = []refusal{
	{envoy.Cluster, "Didn't find a registered implementation"},
	{envoy.Endpoint, "malformed IP address"},
	{envoy.Listener, "terminal filter"},
	{envoy.Route, "missing ): ("},
	{envoy.Extension, "missing ): ("},
}

const (
	stalls  = 7
	culprit = 3 // in the middle of them
)

// prompt is how long a change, or a healthy neighbour of a bad resource, may take, however busy the machine.
// What waits for something that does not come waits longer: 15 s in Envoy, and twice as long in the zone of these tests.
const prompt = 10 * time.Second

// trouble is a proxy of seven services, one resource of one of which is bad.
type trouble struct {
	refusal
	zone     *zone
	market   *market
	services []service
	proxy    *sidecar
}

// others are the services without the bad resource.
func (x *trouble) others() []service {
	return slices.Concat(x.services[:culprit], x.services[culprit+1:])
}

// make changes the services to a generation of the type in question; bad is what becomes of the culprit.
func (x *trouble) make(t testing.TB, generation int, bad bool) *envoy.Table {
	for i := range x.services {
		x.services[i].at[x.typ] = generation
	}
	x.services[culprit].bad = map[envoy.Type]bool{x.typ: bad}
	return x.market.table(t, x.services...)
}

func (x *trouble) badFragment(t testing.TB, table *envoy.Table) *envoy.Fragment {
	f := table.Get(x.typ, x.services[culprit].name)
	if f == nil {
		t.Fatalf("no %s of the culprit in the table", x.typ)
	}
	return f
}

// untilNamed waits until the zone says of the proxy exactly what is wrong: which resource, which policy, in which words,
// and which others it takes with it.
func (x *trouble) untilNamed(t testing.TB, table *envoy.Table, dependants ...envoy.Type) {
	t.Helper()
	bad := x.badFragment(t, table)
	blame := envoy.Ref{Type: x.typ, Name: bad.Name}
	want := map[envoy.Type]xds.Rejection{x.typ: {Type: x.typ, Name: bad.Name, Version: bad.Version, Origins: bad.Origins}}
	for _, typ := range dependants {
		f := table.Get(typ, bad.Name)
		want[typ] = xds.Rejection{Type: typ, Name: f.Name, Version: f.Version, Origins: f.Origins, Needs: &blame}
	}
	until(t, "the rejections name the culprit and what needs it", func() (any, bool) {
		_, rejected := x.proxy.state()
		got := map[envoy.Type]xds.Rejection{}
		for _, r := range rejected {
			if r.Needs == nil && !strings.Contains(r.Text, x.text) || r.Needs != nil && r.Text == "" {
				return r.Text, false
			}
			r.Text = ""
			got[r.Type] = r
		}
		d := cmp.Diff(want, got)
		return d, d == "" && len(rejected) == len(want)
	})
	if bad.Origins[0] != policyOf(x.typ, bad.Name) {
		t.Errorf("the culprit's origin is %v", bad.Origins)
	}
}

func (x *trouble) untilHealed(t testing.TB, table *envoy.Table) {
	t.Helper()
	x.proxy.untilAcked(t, table)
	until(t, "no rejection is left", func() (any, bool) {
		_, rejected := x.proxy.state()
		return rejected, len(rejected) == 0
	})
	if took := untilServed(t, x.services...); took > prompt {
		t.Errorf("healed after %s", took)
	}
}

// undisturbed cuts the stream and requires that a known rejection costs no further refusal, and that the bad resource is not sent again.
func (x *trouble) undisturbed(t testing.TB, table *envoy.Table, dependants ...envoy.Type) {
	t.Helper()
	nacks, sent := len(x.proxy.refusals()), x.proxy.received(x.badFragment(t, table))
	p := x.proxy.reconnect(t)
	x.untilNamed(t, table, dependants...)
	x.proxy.untilAcked(t, table)
	untilServed(t, x.others()...)
	if got := x.proxy.refusals(); len(got) != nacks {
		t.Errorf("refusals after the reconnect: %q", got[nacks:])
	}
	if got := x.proxy.received(x.badFragment(t, table)); got != sent {
		t.Errorf("the bad version was sent %d more times after the reconnect", got-sent)
	}
	if n, _ := p.resources(); n > 0 {
		t.Logf("%d resources were sent after the reconnect", n)
	}
}

// forgotten starts the zone anew: it finds out again, and nothing that is in force suffers.
func (x *trouble) forgotten(t testing.TB, table *envoy.Table) {
	t.Helper()
	before := len(x.zone.streams(x.proxy.node))
	x.zone.stop()
	x.zone.start(t)
	x.proxy.returned(t, before)
	x.untilNamed(t, table)
	x.proxy.untilAcked(t, table)
	untilServed(t, x.others()...)
}

// needing lists the types of a service that cannot be had when one is missing.
var needing = map[envoy.Type][]envoy.Type{
	envoy.Cluster:   {envoy.Listener, envoy.Route},
	envoy.Endpoint:  {envoy.Cluster, envoy.Listener, envoy.Route},
	envoy.Route:     {envoy.Listener},
	envoy.Extension: {envoy.Listener},
}

// One bad resource among seven good ones hurts only its own service: at first configuration and at an update, while the stream is cut,
// and without any further proxy having to find out for itself.
func TestRejection(t *testing.T) {
	t.Parallel()
	for _, r := range refusals {
		t.Run(r.typ.String(), func(t *testing.T) {
			t.Parallel()
			x := &trouble{refusal: r, zone: newZone(t), market: newMarket(t, 6)}
			x.services = x.market.services(t, stalls)
			x.firstConfiguration(t)
			x.update(t)
			x.proxy.end()
			x.another(t)
		})
	}
}

func (x *trouble) firstConfiguration(t *testing.T) {
	bad := x.services[culprit]
	table := x.make(t, 1, true)
	begin := time.Now()
	x.proxy = x.zone.join(t, "web", table)
	untilServed(t, x.others()...)
	x.untilNamed(t, table, needing[x.typ]...)
	if took := time.Since(begin); took > prompt {
		t.Errorf("first configuration: the good services were served after %s", took)
	}
	if !closed(bad) {
		t.Error("first configuration: half a chain of the bad service is in force")
	}
	x.proxy.untilAcked(t, table)
	x.fewRefusals(t, 0)
	x.undisturbed(t, table, needing[x.typ]...)
	if !closed(bad) {
		t.Error("after a reconnect half a chain of the bad service is in force")
	}
	x.untilHealedBy(t, x.make(t, 2, false))
}

func (x *trouble) untilHealedBy(t testing.TB, table *envoy.Table) {
	t.Helper()
	x.proxy.set(table)
	x.untilHealed(t, table)
}

// fewRefusals bounds what finding the culprit among the siblings may cost: halving, twice at most.
func (x *trouble) fewRefusals(t testing.TB, before int) {
	t.Helper()
	got := x.proxy.refusals()[before:]
	if len(got) == 0 || len(got) > 6 {
		t.Errorf("%d refusals: %q", len(got), got)
	}
}

func (x *trouble) update(t *testing.T) {
	good := x.services[culprit]
	nacks := len(x.proxy.refusals())
	flow := startTraffic(t, 1, x.services...)
	table := x.make(t, 3, true)
	x.proxy.set(table)
	x.untilNamed(t, table)
	if took := untilServed(t, append(x.others(), good)...); took > prompt {
		t.Errorf("update: the good services were served after %s", took)
	}
	x.proxy.untilAcked(t, table)
	x.fewRefusals(t, nacks)
	x.undisturbed(t, table)
	untilServed(t, good)
	x.forgotten(t, table)
	untilServed(t, good)
	// The policy is corrected, made wrong again, and then taken back to what was there before.
	x.untilHealedBy(t, x.make(t, 4, false))
	nacks = len(x.proxy.refusals())
	table = x.make(t, 3, true)
	x.proxy.set(table)
	x.untilNamed(t, table)
	untilServed(t, x.others()...)
	if got := x.proxy.refusals(); len(got) != nacks {
		t.Errorf("a version known as bad was tried again: %q", got[nacks:])
	}
	taken := x.make(t, 4, false)
	x.untilHealedBy(t, taken)
	flow.stop(t)
}

// another is a second proxy of the same Envoy version: it never gets what the first one has refused.
func (x *trouble) another(t *testing.T) {
	bad := x.services[culprit]
	table := x.make(t, 3, true)
	x.proxy = x.zone.join(t, "shop", table)
	if took := untilServed(t, x.others()...); took > prompt {
		t.Errorf("second proxy: the good services were served after %s", took)
	}
	x.untilNamed(t, table, needing[x.typ]...)
	x.proxy.untilAcked(t, table)
	if !closed(bad) {
		t.Error("second proxy: half a chain of the bad service is in force")
	}
	if got := x.proxy.refusals(); len(got) > 0 {
		t.Errorf("the second proxy had to refuse: %q", got)
	}
	if n := x.proxy.received(x.badFragment(t, table)); n > 0 {
		t.Errorf("the second proxy was sent the bad version %d times", n)
	}
	x.untilHealedBy(t, x.make(t, 5, false))
}

// Several bad resources of several types at once, and none of them is mistaken for another.
func TestRejectionOfSeveralTypes(t *testing.T) {
	t.Parallel()
	z, m := newZone(t), newMarket(t, 3)
	services := m.services(t, 8)
	s := z.join(t, "web", m.table(t, services...))
	untilServed(t, services...)
	before := slices.Clone(services)
	flow := startTraffic(t, 1, services...)

	for i := range services {
		services[i].at = allAt(2)
	}
	want := map[envoy.Ref]string{}
	for i, r := range refusals { // each type has two bad ones, in neighbours
		for _, j := range []int{i, i + 1} {
			services[j].bad = maps.Clone(services[j].bad)
			if services[j].bad == nil {
				services[j].bad = map[envoy.Type]bool{}
			}
			services[j].bad[r.typ] = true
			before[j].at[r.typ] = 1
			want[envoy.Ref{Type: r.typ, Name: services[j].name}] = r.text
		}
	}
	expected := slices.Clone(services)
	for i := range expected {
		for typ := range expected[i].bad {
			expected[i].at[typ] = 1
		}
	}
	table := m.table(t, services...)
	s.set(table)
	until(t, "all bad resources are named, and nothing else", func() (any, bool) {
		_, rejected := s.state()
		got := map[envoy.Ref]string{}
		for _, r := range rejected {
			ref := envoy.Ref{Type: r.Type, Name: r.Name}
			got[ref] = r.Text
			if text, ok := want[ref]; ok && strings.Contains(r.Text, text) && slices.Equal(r.Origins, table.Get(r.Type, r.Name).Origins) {
				got[ref] = text
			}
		}
		d := cmp.Diff(want, got)
		return d, d == ""
	})
	if took := untilServed(t, expected...); took > prompt {
		t.Errorf("what is good was served after %s", took)
	}
	s.reconnect(t)
	untilServed(t, expected...)

	for i := range services {
		services[i].at, services[i].bad = allAt(3), nil
	}
	table = m.table(t, services...)
	s.set(table)
	s.untilAcked(t, table)
	untilServed(t, services...)
	if _, rejected := s.state(); len(rejected) > 0 {
		t.Errorf("left after healing: %v", rejected)
	}
	flow.stop(t)
	t.Logf("%d refusals for %d bad resources", len(s.refusals()), len(want))
}
