package probe

import (
	"context"
	"testing"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
)

var (
	west = peer{"default", "west"}
	web  = key(mesh.TypeMeshService, "web-x")
)

const webKRI = "kri_msvc_default_west__web_"

func counts(healthy, total uint32) *view.Remote {
	return &view.Remote{Ports: map[string]view.Capacity{"http": {Healthy: healthy, Total: total}}}
}

func answer(epoch, sequence uint64, reset bool, healthy, total uint32) []Reply {
	return []Reply{{
		Instance: "a", Sequence: epoch<<epochShift + sequence, Reset: reset,
		Services: []ServiceCounts{{KRI: webKRI, Sequence: epoch<<epochShift + sequence, Ports: []PortCounts{{"http", healthy, total}}}},
	}}
}

// TestTheNewerStatementCounts plays statements about one service and requires what routing is told of it.
func TestTheNewerStatementCounts(t *testing.T) {
	synced := func(epoch, sequence uint64, r *view.Remote) func(*Table) {
		return func(t *Table) { t.Observe(web, r, epoch<<epochShift+sequence) }
	}
	asked := func(epoch, sequence uint64, healthy uint32) func(*Table) {
		return func(t *Table) { t.claim(west, answer(epoch, sequence, false, healthy, 9)) }
	}
	gone := func(t *Table) {
		t.claim(west, []Reply{{Instance: "a", Sequence: 1<<epochShift + 9, Services: []ServiceCounts{{KRI: webKRI, Sequence: 1<<epochShift + 9, Gone: true}}}})
	}
	for _, tc := range []struct {
		name  string
		steps []func(*Table)
		want  *view.Remote
	}{
		{"nothing is known", nil, nil},
		{"through global", []func(*Table){synced(1, 5, counts(2, 9))}, counts(2, 9)},
		{"older news through global", []func(*Table){synced(1, 5, counts(2, 9)), synced(1, 4, counts(3, 9))}, counts(2, 9)},
		{"newer news through global", []func(*Table){synced(1, 5, counts(2, 9)), synced(1, 6, counts(3, 9))}, counts(3, 9)},
		{"asked is newer", []func(*Table){synced(1, 5, counts(2, 9)), asked(1, 6, 4)}, counts(4, 9)},
		{"asked is older", []func(*Table){synced(1, 5, counts(2, 9)), asked(1, 4, 4)}, counts(2, 9)},
		{"global was faster", []func(*Table){asked(1, 4, 4), synced(1, 5, counts(2, 9))}, counts(2, 9)},
		{"an earlier answer comes late", []func(*Table){asked(1, 4, 4), asked(1, 3, 5)}, counts(4, 9)},
		{"global says that there is nothing", []func(*Table){synced(1, 5, counts(2, 9)), synced(1, 6, nil)}, nil},
		{"the zone says that it is gone", []func(*Table){synced(1, 5, counts(2, 9)), gone}, nil},
		{"news of a former life", []func(*Table){asked(2, 4, 4), synced(1, 50, counts(2, 9))}, counts(4, 9)},
		{"a clock was set back", []func(*Table){synced(9, 5, counts(2, 9)), asked(1, 6, 4)}, counts(4, 9)},
		{"who is silent is outdone by global", []func(*Table){asked(1, 4, 4), func(t *Table) { t.silent(west) }, synced(2, 1, counts(2, 9))}, counts(2, 9)},
		{"who was away for long is not remembered", []func(*Table){asked(1, 4, 4), func(t *Table) { t.lapse(west) }}, nil},
		{"nor by others", []func(*Table){synced(1, 4, counts(2, 9)), func(t *Table) { t.lapse(west) }}, nil},
		{"until it answers, though nothing has changed", []func(*Table){
			asked(1, 4, 4), func(t *Table) { t.lapse(west) },
			func(t *Table) { t.claim(west, []Reply{{Instance: "a", Sequence: 1<<epochShift + 4}}) },
		}, counts(4, 9)},
		{"a reset leaves out", []func(*Table){
			asked(1, 4, 4), func(t *Table) { t.claim(west, []Reply{{Instance: "b", Sequence: 2 << epochShift, Reset: true}}) },
		}, nil},
		{"no ingress leads there", []func(*Table){asked(1, 4, 4), func(t *Table) { t.leave(west) }}, nil},
		{"more healthy than there are", []func(*Table){synced(1, 5, counts(12, 9))}, counts(9, 9)},
		{"more than the zone can have", []func(*Table){asked(1, 5, 1e9), func(t *Table) { t.claim(west, answer(1, 6, false, 4e9, 4e9)) }}, counts(100, 100)},
		{"the service is gone here", []func(*Table){asked(1, 5, 4), func(t *Table) { t.drop(web) }}, nil},
		{"it comes after what is said of it", []func(*Table){func(t *Table) { t.drop(web) }, asked(1, 5, 4), func(t *Table) { t.place(web, west, webKRI) }}, counts(4, 9)},
		{"it is stored under another name", []func(*Table){asked(1, 5, 4), func(t *Table) { t.place(web, west, "kri_msvc_default_west__other_") }}, nil},
		{"all others are dropped", []func(*Table){asked(1, 5, 4), func(t *Table) { t.keep(nil) }}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			table := NewTable(func(resource.Key) uint32 { return 100 })
			table.place(web, west, webKRI)
			told := map[resource.Key]*view.Remote{}
			for _, step := range append([]func(*Table){func(*Table) {}}, tc.steps...) {
				step(table)
				for k, r := range table.collect().Services { // a reader sees every change
					told[k] = r
				}
			}
			got := told[web]
			if (got == nil) != (tc.want == nil) || got != nil && !got.Equal(*tc.want) {
				t.Errorf("routing knows %v, want %v", got, tc.want)
			}
		})
	}
}

func TestNextTellsWhatIsNew(t *testing.T) {
	table := NewTable(nil)
	u, err := table.Next(t.Context())
	if err != nil || !u.All || len(u.Services)+len(u.Gateways) > 0 {
		t.Fatalf("first update %+v, %v", u, err)
	}
	in := key(mesh.TypeMeshZoneAddress, "in")
	table.gateway(in, view.Gateway{Down: true})
	table.place(web, west, webKRI)
	table.claim(west, answer(1, 1, true, 1, 2))
	u, err = table.Next(t.Context())
	if err != nil || u.All || !u.Services[web].Equal(*counts(1, 2)) || *u.Gateways[in] != (view.Gateway{Down: true}) {
		t.Errorf("update %+v, %v", u, err)
	}
	table.claim(west, answer(1, 2, false, 1, 2)) // said anew, but the same
	table.gateway(in, view.Gateway{})
	u, err = table.Next(t.Context())
	if g, told := u.Gateways[in]; err != nil || len(u.Services) > 0 || !told || g != nil {
		t.Errorf("update %+v, %v", u, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := table.Next(ctx); err == nil {
		t.Error("Next returned although nothing is new")
	}
}

func TestAPeerCannotFillTheMemory(t *testing.T) {
	table := NewTable(nil)
	for page := range maxClaims/maxServices + 5 {
		r := Reply{Instance: "a", Sequence: 1 << epochShift}
		for i := range maxServices {
			r.Services = append(r.Services, ServiceCounts{KRI: resource.KRI{Short: "msvc", Name: string(rune('a' + page)), Section: string(rune(i))}.String()})
		}
		table.claim(west, []Reply{r})
	}
	if n := len(table.peers[west].said); n != maxClaims {
		t.Errorf("%d claims are kept, want %d", n, maxClaims)
	}
}
