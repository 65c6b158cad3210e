package mesh_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
)

var update = flag.Bool("update", false, "rewrite the expected parts of testdata")

var kinds = resource.NewKinds(mesh.Kinds...)

// golden compares one file of an archive with what was found, or rewrites it.
func golden(t *testing.T, file string, ar *txtar.Archive, name, got string) {
	t.Helper()
	for i, f := range ar.Files {
		if f.Name != name {
			continue
		}
		if diff := cmp.Diff(string(f.Data), got); diff != "" && !*update {
			t.Errorf("%s of %s (-want +got; -update rewrites):\n%s", name, file, diff)
		}
		ar.Files[i].Data = []byte(got)
		return
	}
	if !*update {
		t.Errorf("%s has no %s; -update writes it", file, name)
	}
	ar.Files = append(ar.Files, txtar.File{Name: name, Data: []byte(got)})
}

func archives(t *testing.T, pattern string, fn func(t *testing.T, file string, ar *txtar.Archive)) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases match %s: %v", pattern, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			fn(t, file, ar)
			if *update {
				if err := os.WriteFile(file, txtar.Format(ar), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func part(t *testing.T, ar *txtar.Archive, name string) []byte {
	t.Helper()
	for _, f := range ar.Files {
		if f.Name == name {
			return f.Data
		}
	}
	t.Fatalf("no %s", name)
	return nil
}

// problemsOf is everything that decoding and validation say about one document.
func problemsOf(tree map[string]any) (resource.Decoded, resource.Problems, error) {
	d, err := kinds.DecodeTree(tree, false)
	var ps resource.Problems
	switch {
	case errors.As(err, &ps):
		return d, ps, nil
	case err != nil:
		return d, nil, err
	}
	kind, _ := kinds.ByName(d.Type)
	if kind.Validate != nil {
		ps = kind.Validate(d.Resource)
	}
	ps.Append(resource.CheckName("name", kind.Names, d.Name))
	return d, ps, nil
}

func TestEveryProblemNamesItsField(t *testing.T) {
	archives(t, "invalid_*.txtar", func(t *testing.T, file string, ar *txtar.Archive) {
		trees, err := resource.ParseYAML(part(t, ar, "resource.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		var got strings.Builder
		for i, tree := range trees {
			_, ps, err := problemsOf(tree)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&got, "# %d: %v %v\n", i+1, tree["type"], tree["name"])
			if len(ps) == 0 {
				t.Errorf("document %d is valid", i+1)
			}
			for _, p := range ps {
				fmt.Fprintln(&got, p)
			}
		}
		golden(t, file, ar, "problems.txt", got.String())
	})
}

func TestEveryFieldSurvives(t *testing.T) {
	seen := map[string]bool{}
	archives(t, "valid_*.txtar", func(t *testing.T, file string, ar *txtar.Archive) {
		trees, err := resource.ParseYAML(part(t, ar, "resource.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		var encoded, warnings strings.Builder
		for i, tree := range trees {
			d, ps, err := problemsOf(tree)
			if err != nil || len(ps) > 0 || len(d.Warnings) > 0 {
				t.Fatalf("document %d: problems %v, unknown fields %v, error %v", i+1, ps, d.Warnings, err)
			}
			seen[d.Type] = true
			kind, _ := kinds.ByName(d.Type)
			wantSameTree(t, kind, d, tree)
			fmt.Fprintf(&encoded, "%s\n", pretty(t, kind, d.Resource))
			if kind.Warn == nil {
				continue
			}
			for _, w := range kind.Warn(d.Resource) {
				fmt.Fprintf(&warnings, "%s: %s\n", d.Key(), w)
			}
		}
		golden(t, file, ar, "resource.json", encoded.String())
		golden(t, file, ar, "warnings.txt", warnings.String())
	})
	for _, k := range mesh.Kinds {
		if !seen[k.Name] {
			t.Errorf("no case has a %s", k.Name)
		}
	}
}

// wantSameTree writes the decoded spec again: nothing of it may be lost.
func wantSameTree(t *testing.T, kind resource.Kind, d resource.Decoded, tree map[string]any) {
	t.Helper()
	r, err := resource.WithSpec(d.Meta, d.Spec)
	if err != nil {
		t.Fatal(err)
	}
	again, err := kinds.DecodeTree(decodeJSON(t, pretty(t, kind, r)), true)
	if err != nil {
		t.Fatalf("%s does not read what it writes: %v", d.Key(), err)
	}
	if diff := cmp.Diff(d.Spec, again.Spec); diff != "" {
		t.Errorf("%s changed on the way (-first +second):\n%s", d.Key(), diff)
	}
	var first, second any = tree, decodeJSON(t, pretty(t, kind, r))
	missing(t, d.Key().String(), normal(t, first), normal(t, second))
}

// missing reports fields of a that b lacks; b may have further ones with zero values.
func missing(t *testing.T, at string, a, b any) {
	t.Helper()
	switch a := a.(type) {
	case map[string]any:
		m, _ := b.(map[string]any)
		for k, v := range a {
			w, ok := m[k]
			if !ok && k != "type" && !isEmpty(v) {
				t.Errorf("%s: field %s is lost", at, k)
				continue
			}
			missing(t, at+"."+k, v, w)
		}
	case []any:
		l, _ := b.([]any)
		if len(l) != len(a) {
			t.Errorf("%s: %d elements, was %d", at, len(l), len(a))
			return
		}
		for i := range a {
			missing(t, fmt.Sprintf("%s[%d]", at, i), a[i], l[i])
		}
	}
}

func isEmpty(v any) bool {
	switch v := v.(type) {
	case map[string]any:
		return len(v) == 0
	case string:
		return v == ""
	case nil:
		return true
	}
	return false
}

func normal(t *testing.T, v any) any {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return decodeJSON(t, b)
}

func decodeJSON(t *testing.T, b []byte) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func pretty(t *testing.T, kind resource.Kind, r resource.Resource) []byte {
	t.Helper()
	b, err := kind.Encode(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, b, "", "  "); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestKindsHaveTheirNamesFromTheKumaAPI(t *testing.T) {
	want := map[string]string{
		"Mesh": "meshes m Global", "Zone": "zones z Global", "ZoneInsight": "zone-insights  Global",
		"Dataplane": "dataplanes dp Mesh", "DataplaneInsight": "dataplane-insights  Mesh", "Workload": "workloads wl Mesh",
		"MeshService": "meshservices msvc Mesh", "MeshMultiZoneService": "meshmultizoneservices mzsvc Mesh",
		"MeshExternalService": "meshexternalservices extsvc Mesh", "HostnameGenerator": "hostnamegenerators hg Global",
		"MeshIdentity": "meshidentities mid Mesh", "MeshTrust": "meshtrusts mtrust Mesh", "MeshZoneAddress": "meshzoneaddresses mza Mesh",
		"MeshOpenTelemetryBackend": "meshopentelemetrybackends motb Mesh", "Secret": "secrets s Mesh", "GlobalSecret": "globalsecrets gs Global",
	}
	got := map[string]string{}
	for _, k := range mesh.Kinds {
		got[k.Name] = fmt.Sprintf("%s %s %s", k.Path, k.Short, k.Scope)
		if k.Singular == "" || k.Plural == "" || k.New == nil {
			t.Errorf("%s is incomplete", k.Name)
		}
		if r := k.Requires(resource.Resource{Meta: resource.Meta{Type: k.Name}, Spec: k.New()}); len(r) > 0 {
			t.Errorf("an empty %s requires %v", k.Name, r)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("kinds (-want +got):\n%s", diff)
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	s := mesh.Secret{Data: mesh.SecretBytes("hunter2")}
	in := mesh.InlineSource{Value: "hunter2"}
	for _, text := range []string{fmt.Sprintf("%v %+v %#v %s", s, s, s, s), fmt.Sprintf("%v %+v %#v", in, in, in), s.Data.LogValue().String()} {
		if strings.Contains(text, "hunter2") || strings.Contains(text, "104") {
			t.Errorf("printed: %s", text)
		}
	}
}

// FuzzDecode feeds arbitrary documents of every kind through decoding, validation, warnings and encoding.
func FuzzDecode(f *testing.F) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, file := range files {
		ar, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		trees, err := resource.ParseYAML(ar.Files[0].Data)
		if err != nil {
			f.Fatal(err)
		}
		for _, tree := range trees {
			b, err := json.Marshal(tree)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := kinds.Decode(data, false)
		if err != nil {
			return
		}
		kind, ok := kinds.ByName(d.Type)
		if !ok {
			t.Fatalf("decoded unknown type %q", d.Type)
		}
		valid := kind.Validate == nil || len(kind.Validate(d.Resource)) == 0
		if kind.Warn != nil {
			kind.Warn(d.Resource)
		}
		kind.Requires(d.Resource)
		if _, err := kind.Encode(d.Resource, nil); err != nil {
			t.Errorf("decoded but not encodable: %v", err)
		}
		if !valid {
			return
		}
		r, err := resource.WithSpec(d.Meta, d.Spec)
		if err != nil {
			t.Fatalf("valid but not encodable: %v", err)
		}
		spec, err := kind.DecodeSpec(r.Raw)
		if err != nil {
			t.Fatalf("does not read what it writes: %v", err)
		}
		if kind.Validate != nil {
			if ps := kind.Validate(resource.Resource{Meta: d.Meta, Spec: spec}); len(ps) > 0 {
				t.Errorf("valid, then after a round trip: %v", ps)
			}
		}
	})
}
