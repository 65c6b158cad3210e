// Package golden tests compilation: each .txtar holds resources and the Envoy configuration that the first Dataplane in it gets.
// With -update the expected files are rewritten, to be read in review. Where a real Envoy is at hand, it validates every case,
// and what the hooks of a single policy made as well. It sends no traffic and knows nothing of streams.
package golden

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"sigs.k8s.io/yaml"

	"github.com/causeway-mesh/causeway/api"
	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policies"
	"github.com/causeway-mesh/causeway/api/policies/policytest"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
)

// Run tests every .txtar in dir.
func Run(t *testing.T, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no .txtar in %s (%v)", dir, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) { run(t, file) })
	}
}

func run(t *testing.T, file string) {
	ar, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	in := map[string][]byte{}
	for _, f := range ar.Files {
		in[f.Name] = f.Data
	}
	kept := []string{"resources.yaml", "facts.yaml", "show.txt"}
	cfg := Compile(t, in["resources.yaml"], in["facts.yaml"])
	out := &txtar.Archive{Comment: ar.Comment}
	for _, name := range kept {
		if data, ok := in[name]; ok {
			out.Files = append(out.Files, txtar.File{Name: name, Data: data})
		}
	}
	out.Files = append(out.Files, Render(t, cfg, strings.Fields(string(in["show.txt"])))...)
	got := txtar.Format(out)
	if policytest.Updating() {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	} else if want := txtar.Format(ar); !bytes.Equal(got, want) {
		t.Errorf("%s differs; run with -update and read the diff\n%s", file, got)
	}
	Validate(t, cfg)
}

// Facts are what a case says is observed, beside its resources.
type facts struct {
	// Dataplanes maps a name to the states of its inbounds.
	Dataplanes map[string]struct {
		Inbounds map[string]mesh.InboundState `json:"inbounds"`
		Draining bool                         `json:"draining"`
	} `json:"dataplanes"`
	// Plaintext lists services whose proxies do not all have an identity yet.
	Plaintext []string `json:"plaintext"`
	// Unavailable lists services of which no endpoint is ready.
	Unavailable []string `json:"unavailable"`
	// Identities maps a service to what its own zone says of who serves it.
	Identities map[string][]string `json:"identities"`
	// Remotes maps a service of another zone to the endpoints behind its ports.
	Remotes map[string]map[string]view.Capacity `json:"remotes"`
	// Gateways maps a MeshZoneAddress to what is known of it.
	Gateways map[string]view.Gateway `json:"gateways"`
	// Unusable maps an external service to why it cannot be connected to.
	Unusable map[string]string `json:"unusable"`
	// Settings are those of the zone.
	Settings view.Settings `json:"settings"`
}

// Compile computes what the first Dataplane of the resources gets in zone "east". Services get virtual IPs in order of name,
// and are ready for mesh TLS unless the facts say otherwise.
func Compile(t *testing.T, resources, observed []byte) envoy.ProxyConfig {
	t.Helper()
	kinds := api.Kinds()
	decoded, err := kinds.DecodeYAML(resources, true)
	if err != nil {
		t.Fatalf("resources.yaml: %v", err)
	}
	var f facts
	if err := yaml.UnmarshalStrict(observed, &f); err != nil {
		t.Fatalf("facts.yaml: %v", err)
	}
	v := view.New("east", kinds, policies.All)
	v.Configure(f.Settings)
	var first *resource.Key
	vip := 0
	for _, d := range decoded {
		r := complete(d.Resource)
		k, _ := kinds.ByName(r.Type)
		if k.Validate != nil {
			if err := k.Validate(r).Err(); err != nil {
				t.Fatalf("%s: %v", r.Key(), err)
			}
		}
		v.Put(r)
		if r.Type == mesh.TypeDataplane && first == nil {
			first = new(r.Key())
		}
		if k.Destination {
			vip++
			v.SetStatus(r.Key(), view.Status{
				VIPs: []string{fmt.Sprintf("241.0.0.%d", vip)}, TLSReady: !slices.Contains(f.Plaintext, r.Name),
				Unavailable: slices.Contains(f.Unavailable, r.Name), Identities: f.Identities[r.Name],
			})
		}
		if o, ok := f.Dataplanes[r.Name]; ok && r.Type == mesh.TypeDataplane {
			v.SetFacts(r.Key(), &view.Facts{Inbounds: o.Inbounds, Draining: o.Draining})
		}
		if ports, ok := f.Remotes[r.Name]; ok && r.Type == mesh.TypeMeshService {
			v.SetRemote(r.Key(), &view.Remote{Ports: ports})
		}
		if reason, ok := f.Unusable[r.Name]; ok && r.Type == mesh.TypeMeshExternalService {
			v.SetUnusable(r.Key(), reason)
		}
		if g, ok := f.Gateways[r.Name]; ok && r.Type == mesh.TypeMeshZoneAddress {
			v.SetGateway(r.Key(), &g)
		}
	}
	if first == nil {
		t.Fatal("resources.yaml: no Dataplane")
	}
	return envoy.NewCompiler(v).Proxy(*first).Value()
}

// complete adds the labels that a control plane computes.
func complete(r resource.Resource) resource.Resource {
	labels := map[string]string{resource.LabelDisplayName: r.Name}
	if r.Mesh != "" {
		labels[resource.LabelMesh] = r.Mesh
	}
	switch r.Type {
	case mesh.TypeDataplane, mesh.TypeMeshService, mesh.TypeMeshIdentity:
		labels[resource.LabelZone] = "east"
	}
	for k, v := range r.Labels {
		labels[k] = v
	}
	r.Labels = labels
	return r
}

var fileNames = [envoy.NumTypes]string{"clusters.yaml", "endpoints.yaml", "listeners.yaml", "routes.yaml", "extensions.yaml"}

// Render shows a configuration as files, one per type. With words in show, only resources whose name contains one of them.
func Render(t *testing.T, cfg envoy.ProxyConfig, show []string) []txtar.File {
	t.Helper()
	var out []txtar.File
	for typ := range envoy.NumTypes {
		var all []string
		for _, f := range slices.Concat(cfg.Shared.Of(typ), cfg.Own.Of(typ)) {
			if len(show) == 0 || slices.ContainsFunc(show, func(w string) bool { return strings.Contains(fileNames[typ]+" "+f.Name, w) }) {
				all = append(all, text(t, f))
			}
		}
		if len(all) > 0 {
			out = append(out, txtar.File{Name: fileNames[typ], Data: []byte(strings.Join(all, "---\n"))})
		}
	}
	var problems strings.Builder
	for _, p := range cfg.Problems {
		fmt.Fprintf(&problems, "%s %s: %s", p.Ref.Type, p.Ref.Name, p.Text)
		for _, k := range p.Policies {
			fmt.Fprintf(&problems, " [%s]", k)
		}
		problems.WriteByte('\n')
	}
	if problems.Len() > 0 {
		out = append(out, txtar.File{Name: "problems.txt", Data: []byte(problems.String())})
	}
	return out
}

func text(t *testing.T, f *envoy.Fragment) string {
	m := message(t, f)
	j, err := protojson.Marshal(m)
	if err != nil {
		t.Fatalf("%s %s: %v", f.Type, f.Name, err)
	}
	y, err := yaml.JSONToYAML(j)
	if err != nil {
		t.Fatal(err)
	}
	return string(y)
}

func message(t *testing.T, f *envoy.Fragment) proto.Message {
	t.Helper()
	m := empty(f.Type)
	if err := proto.Unmarshal(f.Body(), m); err != nil {
		t.Fatalf("%s %s: %v", f.Type, f.Name, err)
	}
	if name := nameOf(m.ProtoReflect()); name != f.Name {
		t.Errorf("%s %s: the message is named %q", f.Type, f.Name, name)
	}
	return m
}

func nameOf(m protoreflect.Message) string {
	for _, field := range []protoreflect.Name{"name", "cluster_name"} {
		if fd := m.Descriptor().Fields().ByName(field); fd != nil {
			return m.Get(fd).String()
		}
	}
	return ""
}
