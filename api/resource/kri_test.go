package resource_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/api/resource"
)

func TestKRI(t *testing.T) {
	for text, want := range map[string]resource.KRI{
		"kri_msvc_default_east_shop_backend_http": {Short: "msvc", Mesh: "default", Zone: "east", Namespace: "shop", Name: "backend", Section: "http"},
		"kri_mt_default___slow_":                  {Short: "mt", Mesh: "default", Name: "slow"},
		"kri_m____default_":                       {Short: "m", Name: "default"},
		"kri_mtp_m-1_z.a_n_a.b-c_8080":            {Short: "mtp", Mesh: "m-1", Zone: "z.a", Namespace: "n", Name: "a.b-c", Section: "8080"},
	} {
		got, err := resource.ParseKRI(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
		if got.String() != text {
			t.Errorf("%s is written as %s", text, got)
		}
	}
	for _, text := range []string{
		"", "kri", "kri_", "kri______", "kri_mt_default___slow", "kri_mt_default___slow__", "kri__default___slow_", "kri_mt_default____",
		"KRI_mt_default___slow_", "kri_MT_default___slow_", "kri_mt_def ault___slow_", "kri_mt_-a___slow_", "kri_mt_default___slow_\n",
		"kri_mt_default___" + strings.Repeat("a", 300) + "_", "kri_mt_" + strings.Repeat("a.", 1000) + "a___slow_",
	} {
		if got, err := resource.ParseKRI(text); err == nil {
			t.Errorf("%q is read as %+v", text, got)
		} else if len(err.Error()) > 300 {
			t.Errorf("%q: the message has %d characters", text, len(err.Error()))
		}
	}
}

func TestKRIOf(t *testing.T) {
	meta := resource.Meta{Type: "MeshThing", Mesh: "m", Name: "thing-x7f", Labels: map[string]string{
		resource.LabelDisplayName: "thing", resource.LabelZone: "east", resource.LabelNamespace: "shop",
	}}
	kri := resource.KRIOf(thing, meta)
	if got := kri.String(); got != "kri_mthing_m_east_shop_thing_" {
		t.Errorf("got %s", got)
	}
	if got := kri.WithSection("http").String(); got != "kri_mthing_m_east_shop_thing_http" || kri.Section != "" {
		t.Errorf("got %s from %s", got, kri)
	}
	if kri.IsZero() || !(resource.KRI{}).IsZero() {
		t.Error("zero is zero, and nothing else")
	}
}

// Identifiers are sorted by kind, mesh, zone, namespace, name and section; a shorter name comes before its extensions.
func TestKRICompare(t *testing.T) {
	want := []string{
		"kri_a_m___n_", "kri_b_a___n_", "kri_b_m___n_", "kri_b_m___n_s", "kri_b_m___n-1_", "kri_b_m__n_a_", "kri_b_m_z__a_", "kri_b_m-1___n_",
	}
	var list []resource.KRI
	for _, s := range slices.Backward(want) {
		k, err := resource.ParseKRI(s)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, k)
	}
	slices.SortFunc(list, resource.KRI.Compare)
	var got []string
	for _, k := range list {
		got = append(got, k.String())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestSNI(t *testing.T) {
	for want, k := range map[string]resource.KRI{
		"sni.msvc.m.east.shop.backend.http": {Short: "msvc", Mesh: "m", Zone: "east", Namespace: "shop", Name: "backend", Section: "http"},
		"sni.msvc.m.east.backend.8080":      {Short: "msvc", Mesh: "m", Zone: "east", Name: "backend", Section: "8080"},
		"sni.mzsvc.m.backend.8080":          {Short: "mzsvc", Mesh: "m", Name: "backend", Section: "8080"},
	} {
		got, err := k.SNI()
		if err != nil || got != want {
			t.Errorf("%s: %s (%v)", k, got, err)
		}
		back, err := resource.ParseSNI(want)
		if err != nil || back != k {
			t.Errorf("%s is read as %s (%v)", want, back, err)
		}
	}
	long := strings.Repeat("a", 63)
	for _, k := range []resource.KRI{
		{Short: "msvc", Mesh: "m", Name: "backend"},
		{Short: "msvc", Mesh: "m", Name: "back.end", Section: "http"},
		{Short: "msvc", Mesh: "m", Zone: "a.b", Name: "backend", Section: "http"},
		{Short: "msvc", Mesh: long, Zone: long, Namespace: long, Name: long, Section: "http"},
	} {
		if got, err := k.SNI(); err == nil {
			t.Errorf("%s has the server name %s", k, got)
		}
	}
	for _, s := range []string{
		"", "sni", "sni.msvc.m.backend", "sni.a.b.c.d.e.f.g", "other.msvc.m.backend.http", "sni.msvc.m..http", "sni.msvc.M.backend.http",
		"sni.msvc.m.back_end.http", "sni.msvc.m.backend.http.", "sni." + strings.Repeat("a.", 200) + "b",
	} {
		if got, err := resource.ParseSNI(s); err == nil {
			t.Errorf("%q is read as %s", s, got)
		}
	}
}

func FuzzKRI(f *testing.F) {
	f.Add("kri_msvc_default_east_shop_backend_http")
	f.Add("kri_m____default_")
	f.Add("kri_a_b_c_d_e_f_g")
	f.Fuzz(func(t *testing.T, s string) {
		k, err := resource.ParseKRI(s)
		if err != nil {
			return
		}
		if k.String() != s {
			t.Fatalf("%q is written as %q", s, k)
		}
		if sni, err := k.SNI(); err == nil && (k.Zone != "" || k.Namespace == "") {
			if back, err := resource.ParseSNI(sni); err != nil || back != k {
				t.Fatalf("%s has the server name %s, which is read as %s (%v)", k, sni, back, err)
			}
		}
	})
}

func FuzzSNI(f *testing.F) {
	f.Add("sni.msvc.m.east.shop.backend.http")
	f.Add("sni.mzsvc.m.backend.8080")
	f.Fuzz(func(t *testing.T, s string) {
		k, err := resource.ParseSNI(s)
		if err != nil {
			return
		}
		if back, err := k.SNI(); err != nil || back != s {
			t.Fatalf("%q is written as %q (%v)", s, back, err)
		}
	})
}
