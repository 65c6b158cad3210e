package proxypatch_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"golang.org/x/tools/txtar"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"sigs.k8s.io/yaml"

	"github.com/causeway-mesh/causeway/api/policies/policytest"
	"github.com/causeway-mesh/causeway/api/policies/proxypatch"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
	"github.com/causeway-mesh/causeway/api/resource"
)

func TestInvalid(t *testing.T) { policytest.Files(t, proxypatch.Policy) }

// TestPatch applies the modifications of each case to its resource. The resource is described by facts.yaml beside its message.
func TestPatch(t *testing.T) {
	files, err := filepath.Glob("testdata/patch/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases (%v)", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			out := &txtar.Archive{Comment: ar.Comment}
			in := map[string][]byte{}
			for _, f := range ar.Files {
				in[f.Name] = f.Data
				if f.Name == "conf.yaml" || f.Name == "facts.yaml" || f.Name == "resource.yaml" {
					out.Files = append(out.Files, f)
				}
			}
			out.Files = append(out.Files, txtar.File{Name: "result.yaml", Data: applied(t, in["conf.yaml"], in["facts.yaml"], in["resource.yaml"])})
			if got, want := txtar.Format(out), txtar.Format(ar); !bytes.Equal(got, want) {
				if policytest.Updating() {
					if err := os.WriteFile(file, got, 0o644); err != nil {
						t.Fatal(err)
					}
					return
				}
				t.Errorf("%s differs; run with -update and read the diff. Now it is:\n%s", file, got)
			}
		})
	}
}

// patchesOf reads modifications as users write them.
func patchesOf(t *testing.T, conf []byte) []policy.Patch {
	t.Helper()
	text := "type: MeshProxyPatch\nmesh: default\nname: x\nspec:\n  default:\n    appendModifications:\n" +
		regexp.MustCompile(`(?m)^`).ReplaceAllString(strings.TrimSpace(string(conf)), "    ")
	kind := proxypatch.Policy.Resource()
	decoded, err := resource.NewKinds(kind).DecodeYAML([]byte(text), true)
	if err != nil {
		t.Fatal(err)
	}
	if ps := kind.Validate(decoded[0].Resource); len(ps) > 0 {
		t.Fatal(ps)
	}
	return proxypatch.Policy.Hooks.Patches.Apply(*decoded[0].Spec.(*policy.Spec[proxypatch.Conf]).Default)
}

func applied(t *testing.T, conf, facts, text []byte) []byte {
	t.Helper()
	a := new(anypb.Any)
	j, err := yaml.YAMLToJSON(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := protojson.Unmarshal(j, a); err != nil {
		t.Fatal(err)
	}
	m, err := a.UnmarshalNew()
	if err != nil {
		t.Fatal(err)
	}
	r := describe(t, m)
	if err := yaml.UnmarshalStrict(facts, &r); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, p := range patchesOf(t, conf) {
		switch {
		case p.Add != nil:
			out.WriteString("# adds " + string(p.Add.Kind) + " " + p.Add.Name + "\n")
		case !p.Matches(r):
			out.WriteString("# " + p.Name + " does not match\n")
		default:
			before := proto.Clone(m)
			gone, err := p.Apply(m)
			if err != nil {
				m = before
				out.WriteString("# " + p.Name + ": " + regexp.MustCompile(`\x{00a0}`).ReplaceAllString(err.Error(), " ") + "\n")
			}
			if gone {
				out.WriteString("# " + p.Name + " removes it\n")
			}
			if p.Whole {
				out.WriteString("# " + p.Name + " needs the address\n")
			}
		}
	}
	packed, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	j, err = protojson.MarshalOptions{UseProtoNames: true}.Marshal(packed)
	if err != nil {
		t.Fatal(err)
	}
	y, err := yaml.JSONToYAML(j)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(y)
	return out.Bytes()
}

// describe says of a message what the compiler would.
func describe(t *testing.T, m proto.Message) proxy.Resource {
	t.Helper()
	r := proxy.Resource{Kind: proxy.ClusterResource}
	if n, ok := m.(interface{ GetName() string }); ok {
		r.Name = n.GetName()
	}
	switch m := m.(type) {
	case *listenerv3.Listener:
		r.Kind = proxy.ListenerResource
		for _, c := range m.FilterChains {
			for _, f := range c.Filters {
				r.NetworkFilters = append(r.NetworkFilters, f.Name)
				h := new(hcmv3.HttpConnectionManager)
				if f.GetTypedConfig().MessageIs(h) {
					if err := f.GetTypedConfig().UnmarshalTo(h); err != nil {
						t.Fatal(err)
					}
					for _, x := range h.HttpFilters {
						r.HTTPFilters = append(r.HTTPFilters, x.Name)
					}
				}
			}
		}
	case *routev3.RouteConfiguration:
		r.Kind = proxy.RoutesResource
		for _, v := range m.VirtualHosts {
			r.VirtualHosts = append(r.VirtualHosts, v.Name)
		}
	case *corev3.TypedExtensionConfig:
		r.Kind = proxy.FilterResource
	}
	return r
}

// Every message of the linked protobufs of Envoy can stand in a value, so none may be missing.
func TestEveryMessageIsKnown(t *testing.T) {
	const root = "github.com/envoyproxy/go-control-plane/envoy/"
	list, err := exec.CommandContext(t.Context(), "go", "list", root+"config/...", root+"extensions/...").Output()
	if err != nil {
		t.Skipf("go list: %v", err)
	}
	source, err := os.ReadFile("messages.go")
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.Lines(string(list)) {
		name = strings.TrimSpace(name)
		if strings.HasSuffix(name, "/v3") && !strings.Contains(string(source), `"`+name+`"`) {
			t.Errorf("messages.go does not link %s", name)
		}
	}
}

// FuzzPatch reads whatever somebody may write as a value or as JSON patches: nothing may panic or hang, and what is accepted can be applied.
func FuzzPatch(f *testing.F) {
	f.Add("name: x\nconnectTimeout: 1s", "/connectTimeout", "add", `"2s"`, "")
	f.Add("connect_timeout: 1s", "/load_assignment/endpoints/0/lbEndpoints/-", "add", `{}`, "")
	f.Add("{}", "", "copy", ``, "/loadAssignment")
	f.Add("transportSocket: {name: x, typedConfig: {'@type': type.googleapis.com/google.protobuf.Struct, value: {a: b}}}", "/transportSocket/typedConfig/value/a", "replace", `1e400`, "/name")
	f.Fuzz(func(t *testing.T, value, path, op, operand, from string) {
		conf := proxypatch.Conf{AppendModifications: []proxypatch.Modification{
			{Cluster: &proxypatch.ClusterMod{Change: proxypatch.Change{Operation: proxypatch.Patch, Value: &value}}},
			{Cluster: &proxypatch.ClusterMod{Change: proxypatch.Change{Operation: proxypatch.Patch, JSONPatches: []proxypatch.JSONPatch{
				{Op: op, Path: path, Value: []byte(operand), From: &from},
			}}}},
		}}
		if ps := proxypatch.Policy.Check("spec", conf, policy.Where{}); len(ps) > 0 {
			conf.AppendModifications = slices.DeleteFunc(conf.AppendModifications, func(m proxypatch.Modification) bool {
				one := proxypatch.Conf{AppendModifications: []proxypatch.Modification{m}}
				return len(proxypatch.Policy.Check("spec", one, policy.Where{})) > 0
			})
		}
		m := sample()
		for _, p := range proxypatch.Policy.Hooks.Patches.Apply(conf) {
			before := proto.Clone(m)
			if _, err := p.Apply(m); err != nil {
				m = before.(*anyCluster)
			}
			if _, err := proto.Marshal(m); err != nil {
				t.Fatalf("%s leaves what cannot be encoded: %v", p.Name, err)
			}
		}
	})
}
