package policytest_test

import (
	"path/filepath"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/causeway-mesh/causeway/api/policies"
	"github.com/causeway-mesh/causeway/api/policies/policytest"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// FuzzAccepted: whatever validation accepts makes configuration that passes the rules of Envoy's own protobufs.
func FuzzAccepted(f *testing.F) {
	files, err := filepath.Glob(filepath.Join("..", "*", "testdata", "*.txtar"))
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds (%v)", err)
	}
	for _, file := range files {
		ar, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for _, part := range ar.Files {
			if part.Name == "conf.yaml" {
				f.Add(part.Data)
			}
		}
	}
	kinds := resource.NewKinds(policies.Kinds()...)
	byName := map[string]policy.Policy{}
	for _, p := range policies.All {
		byName[p.Resource().Name] = p
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := kinds.DecodeYAML(data, false)
		if err != nil {
			return
		}
		for _, d := range list {
			p := byName[d.Type]
			if d.Mesh = "m"; d.Name == "" {
				d.Name = "n"
			}
			p.Resource().Warn(d.Resource)
			if ps := p.Resource().Validate(d.Resource); len(ps) == 0 {
				policytest.Exercise(t, p, d.Resource)
			}
		}
	})
}
