package bootstrap

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	"sigs.k8s.io/yaml"

	"github.com/causeway-mesh/causeway/dataplane/envoy"
)

var update = flag.Bool("update", false, "write the expected bootstraps anew")

func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var p Params
			if err := yaml.UnmarshalStrict(a.Files[0].Data, &p); err != nil {
				t.Fatal(err)
			}
			got, err := Render(p)
			if err != nil {
				t.Fatal(err)
			}
			if *update {
				a.Files = append(a.Files[:1], txtar.File{Name: "bootstrap.yaml", Data: got})
				if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if len(a.Files) != 2 {
				t.Fatal("run with -update")
			}
			if diff := cmp.Diff(string(a.Files[1].Data), string(got)); diff != "" {
				t.Errorf("bootstrap (-want +got):\n%s", diff)
			}
			err = envoy.Validate(t.Context(), got)
			if errors.Is(err, envoy.ErrNotFound) && os.Getenv("CI") != "true" {
				t.Skip(err)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}

func TestEqualParametersGiveEqualBytes(t *testing.T) {
	p := Params{
		Mesh: "default", Name: "web", Zone: "east", Agent: "/a", Admin: "/b",
		Metadata: map[string]string{"a": "1", "b": "2", "c": "3", "d": "4"},
	}
	first, err := Render(p)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		again, err := Render(p)
		if err != nil || string(again) != string(first) {
			t.Fatalf("rendered differently (%v):\n%s", err, cmp.Diff(string(first), string(again)))
		}
	}
}

func TestProblemsNameTheField(t *testing.T) {
	good := Params{Mesh: "default", Name: "web", Agent: "/run/agent.sock", Admin: "/run/admin.sock"}
	for name, c := range map[string]struct {
		edit func(*Params)
		want string
	}{
		"no mesh":        {func(p *Params) { p.Mesh = "" }, "mesh: must be set"},
		"no name":        {func(p *Params) { p.Name = "" }, "name: must be set"},
		"relative":       {func(p *Params) { p.Admin = "admin.sock" }, "admin: must be the absolute path"},
		"too long":       {func(p *Params) { p.Agent = "/" + strings.Repeat("a", 107) }, "agent: "},
		"not set at all": {func(p *Params) { p.Agent = "" }, "agent: must be the absolute path"},
		"not UTF-8":      {func(p *Params) { p.Metadata = map[string]string{"a": "\xff"} }, "node metadata"},
	} {
		t.Run(name, func(t *testing.T) {
			p := good
			c.edit(&p)
			_, err := Render(p)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}
