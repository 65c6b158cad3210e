package policies_test

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	"sigs.k8s.io/yaml"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policies"
	"github.com/causeway-mesh/causeway/api/schema"
)

// cases are the folders of golden files: policies alone, whole proxies, and what travels beside xDS.
var cases = []string{".", "../envoy/testdata", "../mesh/testdata", "../../zone-cp/derive/testdata"}

// refused are parts of types that several kinds share, which validation always refuses in this one.
var refused = map[string]*regexp.Regexp{
	"MeshHTTPRoute":       regexp.MustCompile(`^spec\.to\.hostnames$|\.requestMirror\.backendRef\.weight$`),
	"MeshExternalService": regexp.MustCompile(`^spec\.tls\.verification\.(caCert|clientCert|clientKey)\.((envVar|file)\b|type = (EnvVar|File)$)`),
}

// Every field of every policy is in a golden case, and so is every value of those that have a few.
func TestEveryFieldHasACase(t *testing.T) {
	shown := written(t)
	anywhere := map[string]bool{} // what selects proxies and destinations is the same for all policies
	for _, paths := range shown {
		maps.Copy(anywhere, paths)
	}
	reader := schema.NewReader()
	kinds := slices.Clone(policies.Kinds())
	for _, k := range mesh.Kinds {
		if k.Name == mesh.TypeMeshOTelBackend || k.Name == mesh.TypeMeshExternalService {
			kinds = append(kinds, k)
		}
	}
	for _, k := range kinds {
		t.Run(k.Name, func(t *testing.T) {
			wanted := map[string]bool{}
			demand(reader.Kind(k).Spec, "spec", wanted, nil)
			for path := range wanted {
				selects := strings.HasPrefix(path, "spec.targetRef.") || strings.HasPrefix(path, "spec.to.targetRef.")
				if never := refused[k.Name]; never != nil && never.MatchString(path) {
					if shown[k.Name][path] {
						t.Errorf("%s is accepted, and not thought to be", path)
					}
					delete(wanted, path)
				}
				if shown[k.Name][path] || selects && anywhere[path] {
					delete(wanted, path)
				}
			}
			for _, path := range slices.Sorted(maps.Keys(wanted)) {
				t.Errorf("no golden case has %s", path)
			}
		})
	}
}

// demand lists the paths of all fields below a type, and "path = value" of those with a few values.
func demand(typ *schema.Type, path string, into map[string]bool, inside []*schema.Type) {
	if slices.Contains(inside, typ) {
		return
	}
	inside = append(inside, typ)
	switch typ.Form {
	case schema.List, schema.Map:
		demand(typ.Elem, path, into, inside)
	case schema.Object:
		for _, f := range typ.Fields {
			if f.Removed || f.Computed {
				continue
			}
			at := path + "." + f.Name
			values := f.Values
			if len(values) == 0 {
				values = f.Type.Values
			}
			for _, v := range values {
				into[at+" = "+v] = true
			}
			into[at] = true
			demand(f.Type, at, into, inside)
		}
	}
}

// written lists what the cases that are not about errors say, by kind.
func written(t *testing.T) map[string]map[string]bool {
	t.Helper()
	out := map[string]map[string]bool{}
	for _, root := range cases {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(path) != ".txtar" || strings.HasPrefix(d.Name(), "invalid_") {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, f := range txtar.Parse(data).Files {
				if filepath.Ext(f.Name) != ".yaml" {
					continue
				}
				for doc := range strings.SplitSeq("\n"+string(f.Data), "\n---") {
					var value any
					if yaml.Unmarshal([]byte(doc), &value) == nil {
						noteDocument(value, out)
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// noteDocument notes a resource, the collectors of an element, or modifications of a MeshProxyPatch.
func noteDocument(value any, out map[string]map[string]bool) {
	of := func(kind string) map[string]bool {
		if out[kind] == nil {
			out[kind] = map[string]bool{}
		}
		return out[kind]
	}
	switch v := value.(type) {
	case []any:
		note(v, "spec.default.appendModifications", of("MeshProxyPatch"))
	case map[string]any:
		if collectors, ok := v["collectors"].(map[string]any); ok {
			for _, c := range collectors {
				note(c, "spec", of(mesh.TypeMeshOTelBackend))
			}
		}
		if kind, ok := v["type"].(string); ok {
			note(v["spec"], "spec", of(kind))
		}
	}
}

func note(value any, path string, into map[string]bool) {
	into[path] = true
	switch v := value.(type) {
	case map[string]any:
		for name, inner := range v {
			note(inner, path+"."+name, into)
			note(inner, path, into) // of a map from names of users to values, the name does not count
		}
	case []any:
		for _, inner := range v {
			note(inner, path, into)
		}
	default:
		into[path+" = "+fmt.Sprint(v)] = true
	}
}
