package derive

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
)

var update = flag.Bool("update", false, "rewrite the expected parts of testdata")

var kinds = resource.NewKinds(mesh.Kinds...)

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// observed is the facts file of a step.
type observed struct {
	// After is how long after the beginning the step happens.
	After      string           `json:"after"`
	Dataplanes map[string]Facts `json:"dataplanes"`
	Aside      []string         `json:"aside"` // "MeshService default/web"
}

// A zone applies outputs to inputs as the store does.
type zone struct{ Inputs }

func newZone() *zone {
	return &zone{Inputs{
		Zone: "east", Env: EnvUniversal, Grace: time.Hour, Now: epoch,
		Resources: map[resource.Key]resource.Resource{}, Statuses: map[resource.Key]any{},
		Aside: map[resource.Key]bool{}, Facts: map[resource.Key]Facts{},
	}}
}

func (z *zone) put(t *testing.T, r resource.Resource, created time.Time) {
	t.Helper()
	old, exists := z.Resources[r.Key()]
	r.Created = created
	if exists {
		r.Created = old.Created
	}
	r.Version = old.Version + 1
	spec, err := kindOf(r.Type).DecodeSpec(r.Raw)
	if err != nil {
		t.Fatal(err)
	}
	r.Spec = spec
	z.Resources[r.Key()] = r
}

func kindOf(typ string) resource.Kind {
	k, ok := kinds.ByName(typ)
	if !ok {
		panic(typ)
	}
	return k
}

func (z *zone) remove(k resource.Key) {
	delete(z.Resources, k)
	delete(z.Statuses, k)
}

// apply writes what was derived, through JSON as a store would.
func (z *zone) apply(t *testing.T, out Outputs) {
	t.Helper()
	for _, r := range out.Put {
		if old := z.Resources[r.Key()]; r.Version != old.Version {
			t.Errorf("%s replaces version %d, not %d", r.Key(), r.Version, old.Version)
		}
		z.put(t, r, z.Now)
	}
	for _, r := range out.Delete {
		z.remove(r.Key())
	}
	for _, k := range out.Forget {
		if _, ok := z.Statuses[k]; !ok {
			t.Errorf("the status of %s is to be forgotten and does not exist", k)
		}
		delete(z.Statuses, k)
	}
	for k, st := range out.Statuses {
		if _, ok := z.Resources[k]; !ok {
			t.Errorf("status of %s, which does not exist", k)
		}
		b, err := json.Marshal(st)
		if err != nil {
			t.Fatal(err)
		}
		z.Statuses[k] = statusTypes[k.Type]()
		if err := json.Unmarshal(b, z.Statuses[k]); err != nil {
			t.Fatal(err)
		}
	}
}

// TestScenarios plays the steps of each file: resources and facts as they are then, and what is derived from them.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			play(t, ar)
			if *update {
				if err := os.WriteFile(file, txtar.Format(ar), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func play(t *testing.T, ar *txtar.Archive) {
	files := map[string]string{}
	for _, f := range ar.Files {
		files[f.Name] = string(f.Data)
	}
	z := newZone()
	for step := 1; ; step++ {
		name := fmt.Sprint(step)
		text, ok := files[name+".yaml"]
		if !ok {
			if step == 1 {
				t.Fatal("no 1.yaml")
			}
			return
		}
		z.observe(t, files[name+".facts"])
		z.declare(t, text, step)
		before := clone(z.Inputs)
		out := Compute(z.Inputs)
		if !reflect.DeepEqual(before, z.Inputs) {
			t.Errorf("step %d: Compute changed its inputs", step)
		}
		z.apply(t, out)
		expect(t, ar, name+".out", describe(t, out))
		want := maps.Clone(z.Statuses)
		maps.DeleteFunc(want, func(k resource.Key, _ any) bool { return z.Aside[k] })
		if again := Compute(z.Inputs); len(again.Put)+len(again.Delete)+len(again.Forget) > 0 || !reflect.DeepEqual(again.Statuses, want) {
			t.Errorf("step %d: the second time something differs:\n%s", step, cmp.Diff(want, again.Statuses))
		}
	}
}

// declare makes the resources of users those of the text; generated ones stay.
func (z *zone) declare(t *testing.T, text string, step int) {
	t.Helper()
	list, err := kinds.DecodeYAML([]byte(text), true)
	if err != nil {
		t.Fatal(err)
	}
	declared := map[resource.Key]bool{}
	for i, d := range list {
		r := d.Resource
		if r.Label(resource.LabelOrigin) == "" {
			r.Labels = stamp(r.Meta, z.Zone, z.Env)
		}
		if k := kindOf(r.Type); k.Validate != nil {
			if ps := k.Validate(r); len(ps) > 0 && r.Type != mesh.TypeDataplane {
				t.Fatalf("%s: %v", r.Key(), ps)
			}
		}
		declared[r.Key()] = true
		z.put(t, r, epoch.Add(time.Duration(step-1)*time.Hour+time.Duration(i)*time.Second))
	}
	for k, r := range z.Resources {
		if !declared[k] && r.Label(resource.LabelManagedBy) == "" {
			if z.Aside[k] {
				delete(z.Resources, k)
			} else {
				z.remove(k)
			}
		}
	}
}

func (z *zone) observe(t *testing.T, text string) {
	t.Helper()
	var o observed
	if err := yaml.UnmarshalStrict([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	if o.After != "" {
		d, err := time.ParseDuration(o.After)
		if err != nil {
			t.Fatal(err)
		}
		z.Now = epoch.Add(d)
	}
	z.Facts, z.Aside = map[resource.Key]Facts{}, map[resource.Key]bool{}
	for name, f := range o.Dataplanes {
		z.Facts[resource.Key{Type: mesh.TypeDataplane, Mesh: "default", Name: name}] = f
	}
	for _, a := range o.Aside {
		var k resource.Key
		var rest string
		if _, err := fmt.Sscan(a, &k.Type, &rest); err != nil {
			t.Fatal(err)
		}
		k.Mesh, k.Name, _ = strings.Cut(rest, "/")
		z.Aside[k] = true
	}
}

func clone(in Inputs) Inputs {
	in.Resources, in.Statuses = maps.Clone(in.Resources), maps.Clone(in.Statuses)
	for k, st := range in.Statuses {
		b, err := json.Marshal(st)
		if err != nil {
			panic(err)
		}
		in.Statuses[k] = statusTypes[k.Type]()
		if err := json.Unmarshal(b, in.Statuses[k]); err != nil {
			panic(err)
		}
	}
	return in
}

func describe(t *testing.T, out Outputs) string {
	t.Helper()
	var b strings.Builder
	write := func(v any) {
		y, err := yaml.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(strings.TrimSpace(string(y)), "\n") {
			fmt.Fprintf(&b, "  %s\n", line)
		}
	}
	for _, r := range out.Put {
		fmt.Fprintf(&b, "put %s over version %d\n", r.Key(), r.Version)
		write(map[string]any{"labels": r.Labels, "spec": json.RawMessage(r.Raw)})
	}
	for _, r := range out.Delete {
		fmt.Fprintf(&b, "delete %s\n", r.Key())
	}
	for _, k := range out.Forget {
		fmt.Fprintf(&b, "forget status of %s\n", k)
	}
	for _, k := range slices.SortedFunc(maps.Keys(out.Statuses), resource.Key.Compare) {
		fmt.Fprintf(&b, "status of %s\n", k)
		write(out.Statuses[k])
	}
	for _, p := range out.Problems {
		fmt.Fprintf(&b, "problem with %s: %s\n", p.Key, p.Reason)
	}
	if !out.Due.IsZero() {
		fmt.Fprintf(&b, "again after %s\n", out.Due.Sub(epoch))
	}
	return b.String()
}

func expect(t *testing.T, ar *txtar.Archive, name, got string) {
	t.Helper()
	for i, f := range ar.Files {
		if f.Name == name {
			if diff := cmp.Diff(string(f.Data), got); diff != "" && !*update {
				t.Errorf("%s (-want +got; -update rewrites):\n%s", name, diff)
			}
			ar.Files[i].Data = []byte(got)
			return
		}
	}
	if !*update {
		t.Errorf("no %s; -update writes it", name)
	}
	// Put it behind what it follows from.
	at := 0
	for i, f := range ar.Files {
		if strings.HasPrefix(f.Name, strings.TrimSuffix(name, "out")) {
			at = i + 1
		}
	}
	ar.Files = slices.Insert(ar.Files, at, txtar.File{Name: name, Data: []byte(got)})
}

// TestStable applies random changes: what was derived is never derived differently from equal inputs, and nobody's address moves.
func TestStable(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		z := newZone()
		z.put(t, built(resource.Meta{Type: mesh.TypeMesh, Name: "default"}, &mesh.Mesh{}), epoch)
		for _, g := range append(mesh.LocalGenerators(), mesh.SyncedGenerators()...) {
			g.Labels = stamp(g.Meta, z.Zone, z.Env)
			z.put(t, g, epoch)
		}
		for range rapid.IntRange(1, 30).Draw(rt, "steps") {
			z.Now = z.Now.Add(time.Duration(rapid.IntRange(0, 40).Draw(rt, "minutes")) * time.Minute)
			touched := z.mutate(t, rt)
			vips := z.vips()
			out := Compute(z.Inputs)
			if again := Compute(z.Inputs); !reflect.DeepEqual(out, again) {
				rt.Fatalf("two computations of equal inputs differ: %s", cmp.Diff(describe(t, out), describe(t, again)))
			}
			z.apply(t, out)
			if again := Compute(z.Inputs); len(again.Put)+len(again.Delete)+len(again.Forget) > 0 || !reflect.DeepEqual(again.Statuses, z.Statuses) {
				rt.Fatalf("not idempotent: %s", cmp.Diff(describe(t, out), describe(t, again)))
			}
			z.check(rt, vips, touched)
		}
	})
}

func (z *zone) vips() map[resource.Key]string {
	out := map[resource.Key]string{}
	for k, st := range z.Statuses {
		if v := vipOf(st); v != "" {
			out[k] = v
		}
	}
	return out
}

// mutate makes one random change and returns the key it concerns.
func (z *zone) mutate(t *testing.T, rt *rapid.T) resource.Key {
	name := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(rt, "name")
	typ := rapid.SampledFrom([]string{
		mesh.TypeDataplane, mesh.TypeDataplane, mesh.TypeMeshService, mesh.TypeMeshExternalService, mesh.TypeMeshMultiZoneService, mesh.TypeMeshIdentity,
	}).Draw(rt, "type")
	k := resource.Key{Type: typ, Mesh: "default", Name: name}
	if rapid.IntRange(0, 2).Draw(rt, "delete") == 0 {
		z.remove(k)
		return k
	}
	m := resource.Meta{Type: typ, Mesh: "default", Name: name, Labels: map[string]string{}}
	var spec any
	switch typ {
	case mesh.TypeDataplane:
		m.Labels[resource.LabelWorkload] = rapid.SampledFrom([]string{"a", "b", "web"}).Draw(rt, "workload")
		spec = &mesh.Dataplane{Networking: mesh.Networking{Address: "10.0.0.1", Inbound: []mesh.Inbound{{
			Port: uint32(rapid.IntRange(80, 82).Draw(rt, "port")), Name: rapid.SampledFrom([]string{"", "main", "80"}).Draw(rt, "section"),
		}}}}
		z.Facts[k] = Facts{Issued: rapid.Bool().Draw(rt, "issued")}
	case mesh.TypeMeshService:
		spec = &mesh.MeshService{Ports: []mesh.Port{{Port: 80}}, Selector: mesh.DataplaneSelector{DataplaneRef: &mesh.DataplaneRef{Name: "a"}}}
	case mesh.TypeMeshExternalService:
		spec = &mesh.MeshExternalService{Match: mesh.ExternalMatch{Port: 80}}
	case mesh.TypeMeshMultiZoneService:
		spec = &mesh.MeshMultiZoneService{Selector: mesh.MeshServiceSelector{MeshService: mesh.LabelSelector{MatchLabels: map[string]string{resource.LabelDisplayName: "web"}}}}
	case mesh.TypeMeshIdentity:
		spec = &mesh.MeshIdentity{Selector: &mesh.IdentitySelector{Dataplane: &mesh.LabelSelector{}}}
	}
	m.Labels = stamp(m, z.Zone, z.Env)
	z.put(t, built(m, spec), z.Now)
	return k
}

func (z *zone) check(rt *rapid.T, before map[resource.Key]string, touched resource.Key) {
	after := z.vips()
	owner, low := map[string]resource.Key{}, map[string]resource.Key{}
	for k, v := range after {
		if other, dup := owner[v]; dup {
			rt.Fatalf("%s and %s have the address %s", k, other, v)
		}
		owner[v] = k
		bytes := strings.SplitN(v, ".", 3)
		if other, dup := low[bytes[2]]; dup {
			rt.Fatalf("%s and %s meet at 127.x.%s", k, other, bytes[2])
		}
		low[bytes[2]] = k
		if old, had := before[k]; had && old != v && k != touched {
			rt.Fatalf("the address of %s moved from %s to %s when %s changed", k, old, v, touched)
		}
	}
	for k := range z.Resources {
		if _, isService := families[k.Type]; isService && after[k] == "" {
			rt.Fatalf("%s has no address", k)
		}
	}
	hostnames := map[string]resource.Key{}
	for k, st := range z.Statuses {
		for _, a := range addressesOf(st) {
			if other, dup := hostnames[a.Hostname]; dup {
				rt.Fatalf("%s and %s have the hostname %s", k, other, a.Hostname)
			}
			hostnames[a.Hostname] = k
		}
	}
}

func addressesOf(st any) []mesh.Address {
	switch st := st.(type) {
	case *mesh.MeshServiceStatus:
		return st.Addresses
	case *mesh.MeshMultiZoneServiceStatus:
		return st.Addresses
	case *mesh.MeshExternalServiceStatus:
		return st.Addresses
	}
	return nil
}

// TestAddressesFillTheFirstBlockFirst: proxies without transparent proxying see only the low 16 bits.
func TestAddressesFillTheFirstBlockFirst(t *testing.T) {
	f := families[mesh.TypeMeshExternalService]
	f.last = f.first + 9
	all := map[string]bool{}
	for round := range 2 {
		low := map[string]bool{}
		for i := range 10 {
			taken := parse(t, all)
			a, ok := f.free(taken, fmt.Sprintf("kri-%d-%d", round, i))
			if !ok {
				t.Fatal("full")
			}
			want := fmt.Sprintf("242.%d.128.", round)
			if !strings.HasPrefix(a.String(), want) || low[a.String()] {
				t.Errorf("address %d of round %d is %s", i, round, a)
			}
			low[a.String()], all[a.String()] = true, true
		}
	}
}

func (z *zone) service(t *testing.T, name string, created time.Time) resource.Key {
	t.Helper()
	m := resource.Meta{Type: mesh.TypeMeshService, Mesh: "default", Name: name}
	m.Labels = stamp(m, z.Zone, z.Env)
	r := built(m, &mesh.MeshService{Ports: []mesh.Port{{Port: 80}}})
	z.put(t, r, created)
	return r.Key()
}

func withVIP(ip string) *mesh.MeshServiceStatus {
	return &mesh.MeshServiceStatus{VIPs: []mesh.VIP{{IP: ip}}}
}

// TestRecordedAddresses: one that cannot be used is replaced, and nothing else moves.
func TestRecordedAddresses(t *testing.T) {
	z := newZone()
	web := z.service(t, "web", epoch)
	free := vipOf(Compute(z.Inputs).Statuses[web])
	other := resource.Key{Type: mesh.TypeMeshService, Mesh: "default", Name: "other"}

	t.Run("of a service that cannot be read", func(t *testing.T) {
		z.Statuses, z.Aside = map[resource.Key]any{other: withVIP(free)}, map[resource.Key]bool{other: true}
		if got := vipOf(Compute(z.Inputs).Statuses[web]); got == free || got == "" {
			t.Errorf("web got %q, which belongs to a service that exists", got)
		}
		z.Aside = map[resource.Key]bool{}
	})
	t.Run("twice the same", func(t *testing.T) {
		z.service(t, "other", epoch.Add(-time.Hour))
		z.Statuses = map[resource.Key]any{web: withVIP("241.9.9.9"), other: withVIP("241.9.9.9")}
		out := Compute(z.Inputs).Statuses
		if vipOf(out[other]) != "241.9.9.9" || vipOf(out[web]) != free {
			t.Errorf("the older has %s, the younger %s", vipOf(out[other]), vipOf(out[web]))
		}
	})
	for _, bad := range []string{"10.0.0.1", "nonsense", "242.0.128.1", "::1"} {
		t.Run(bad, func(t *testing.T) {
			z.Statuses = map[resource.Key]any{web: withVIP(bad), other: withVIP("241.7.7.7")}
			out := Compute(z.Inputs).Statuses
			if vipOf(out[web]) != free || vipOf(out[other]) != "241.7.7.7" {
				t.Errorf("web has %s, other %s", vipOf(out[web]), vipOf(out[other]))
			}
		})
	}
}

// TestClocksGoBack: a time in the future starts the grace period anew instead of extending it without end.
func TestClocksGoBack(t *testing.T) {
	z := newZone()
	key := z.service(t, "web", epoch)
	r := z.Resources[key]
	r.Labels[resource.LabelManagedBy] = ManagedByServiceGenerator
	z.Statuses[key] = &mesh.MeshServiceStatus{UnusedSince: epoch.Add(24 * 365 * time.Hour)}
	if due := Compute(z.Inputs).Due; !due.Equal(epoch.Add(time.Hour)) {
		t.Errorf("due at %s", due)
	}
}

func BenchmarkCompute(b *testing.B) {
	z := newZone()
	put := func(m resource.Meta, spec any) {
		m.Labels = stamp(m, z.Zone, z.Env)
		r := built(m, spec)
		r.Version, r.Created = 1, epoch
		z.Resources[r.Key()] = r
	}
	put(resource.Meta{Type: mesh.TypeMesh, Name: "default"}, &mesh.Mesh{})
	for _, g := range append(mesh.LocalGenerators(), mesh.SyncedGenerators()...) {
		put(g.Meta, g.Spec)
	}
	put(resource.Meta{Type: mesh.TypeMeshIdentity, Mesh: "default", Name: "all"}, &mesh.MeshIdentity{Selector: &mesh.IdentitySelector{Dataplane: &mesh.LabelSelector{}}})
	for i := range 10_000 {
		m := resource.Meta{Type: mesh.TypeDataplane, Mesh: "default", Name: fmt.Sprintf("dp-%d", i), Labels: map[string]string{resource.LabelWorkload: fmt.Sprintf("w-%d", i%1000)}}
		put(m, &mesh.Dataplane{Networking: mesh.Networking{Address: "10.0.0.1", Inbound: []mesh.Inbound{{Port: 80}}}})
	}
	out := Compute(z.Inputs)
	for _, r := range out.Put {
		z.Resources[r.Key()] = r
	}
	z.Statuses = out.Statuses
	b.ReportAllocs()
	for b.Loop() {
		Compute(z.Inputs)
	}
}

func parse(t *testing.T, addresses map[string]bool) map[netip.Addr]bool {
	t.Helper()
	out := map[netip.Addr]bool{}
	for a := range addresses {
		p, err := netip.ParseAddr(a)
		if err != nil {
			t.Fatal(err)
		}
		out[p] = true
	}
	return out
}

// What all dataplanes of a workload carry, their service carries, too, as long as they do. What somebody gave to the service stays.
//
// Acceptance: U meshservicelabelpropagation
func TestServicesTakeLabelsOfTheirDataplanes(t *testing.T) {
	z := newZone()
	z.put(t, built(resource.Meta{Type: mesh.TypeMesh, Name: "default"}, &mesh.Mesh{}), epoch)
	run := func(dataplanes ...map[string]string) map[string]string {
		t.Helper()
		for i, labels := range dataplanes {
			m := resource.Meta{Type: mesh.TypeDataplane, Mesh: "default", Name: fmt.Sprintf("web-%d", i), Labels: maps.Clone(labels)}
			m.Labels[resource.LabelWorkload] = "web"
			m.Labels = stamp(m, z.Zone, z.Env)
			z.put(t, built(m, &mesh.Dataplane{Networking: mesh.Networking{Address: "10.0.0.1", Inbound: []mesh.Inbound{{Port: 80}}}}), epoch)
		}
		z.apply(t, Compute(z.Inputs))
		z.apply(t, Compute(z.Inputs)) // nothing is left to do
		got := maps.Clone(z.Resources[resource.Key{Type: mesh.TypeMeshService, Mesh: "default", Name: "web"}].Labels)
		maps.DeleteFunc(got, func(k, _ string) bool { return ofSystem(k) })
		return got
	}
	expect := func(got map[string]string, want ...string) {
		t.Helper()
		var list []string
		for _, k := range slices.Sorted(maps.Keys(got)) {
			list = append(list, k+"="+got[k])
		}
		if !slices.Equal(list, want) {
			t.Errorf("the service has %v, want %v", list, want)
		}
	}
	expect(run(map[string]string{"team": "shop", "version": "1"}, map[string]string{"team": "shop", "version": "2"}), "team=shop")
	expect(run(map[string]string{"team": "stock", "tier": "a"}, map[string]string{"team": "stock", "tier": "a"}), "team=stock", "tier=a")
	expect(run(map[string]string{"team": "stock"}, map[string]string{"team": "stock", "tier": "a"}), "team=stock")
	key := resource.Key{Type: mesh.TypeMeshService, Mesh: "default", Name: "web"}
	r := z.Resources[key]
	r.Labels = maps.Clone(r.Labels)
	r.Labels["owner"], r.Labels["tier"] = "me", "mine"
	z.put(t, r, epoch)
	expect(run(map[string]string{"tier": "a"}, map[string]string{"tier": "a"}), "owner=me", "tier=mine")
}

// Proxies close what goes to a virtual address that is none of a service.
func TestFamiliesAreVirtual(t *testing.T) {
	for typ, f := range families {
		for _, a := range []netip.Addr{f.at(0, 0), f.at(255, f.size()-1)} {
			if !slices.ContainsFunc(mesh.VirtualRanges, func(p netip.Prefix) bool { return p.Contains(a) }) {
				t.Errorf("%s of %s is in no range of virtual addresses", a, typ)
			}
		}
	}
}
