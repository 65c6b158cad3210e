package testmesh

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/causeway-mesh/causeway/api"
	"github.com/causeway-mesh/causeway/api/client"
	"github.com/causeway-mesh/causeway/api/resource"
)

// An API is the REST API of a control plane as a test uses it, for the resources of one mesh.
type API struct {
	client *client.Client
	in     string
}

// Apply creates or replaces the resources of a YAML text, all or none. What names no mesh goes into this one.
// A warning fails the test: what a test writes should be right.
func (a API) Apply(t testing.TB, text string) {
	t.Helper()
	for _, w := range a.ApplyWarned(t, text) {
		t.Errorf("applied with a warning: %s", w)
	}
}

// ApplyWarned is Apply for resources that are warned about.
func (a API) ApplyWarned(t testing.TB, text string) []string {
	t.Helper()
	done, err := a.client.Batch(t.Context(), documents(t, text), a.in, client.Precondition{})
	if err != nil {
		t.Fatalf("apply: %v\n%s", err, text)
	}
	var out []string
	for _, i := range done.Items {
		for _, w := range i.Warnings {
			out = append(out, i.Type+" "+i.Name+": "+w)
		}
	}
	return out
}

// TryApply is Apply that may be refused.
func (a API) TryApply(t testing.TB, text string) error {
	t.Helper()
	_, err := a.client.Batch(t.Context(), documents(t, text), a.in, client.Precondition{})
	return err
}

func documents(t testing.TB, text string) []json.RawMessage {
	t.Helper()
	var out []json.RawMessage
	for doc := range strings.SplitSeq("\n"+text, "\n---") {
		if strings.TrimSpace(doc) == "" {
			continue
		}
		b, err := yaml.YAMLToJSON([]byte(doc))
		if err != nil {
			t.Fatalf("not YAML: %v\n%s", err, doc)
		}
		out = append(out, b)
	}
	return out
}

func kind(t testing.TB, typ string) resource.Kind {
	t.Helper()
	k, ok := api.Kinds().ByName(typ)
	if !ok {
		t.Fatalf("there is no kind %s", typ)
	}
	return k
}

// Delete removes a resource that must exist.
func (a API) Delete(t testing.TB, typ, name string) {
	t.Helper()
	if err := a.client.Delete(t.Context(), kind(t, typ), a.in, name, client.Precondition{}); err != nil {
		t.Fatalf("delete: %v", err)
	}
}

// Read reads a resource with its status; it says whether it exists.
func (a API) Read(t testing.TB, typ, name string, into any) bool {
	t.Helper()
	return a.decoded(t, into)(a.client.Get(t.Context(), kind(t, typ), a.in, name))
}

// Overview reads a Dataplane with what is observed of it; it says whether it exists.
func (a API) Overview(t testing.TB, name string, into any) bool {
	t.Helper()
	return a.decoded(t, into)(a.client.Overview(t.Context(), kind(t, "Dataplane"), a.in, name))
}

func (a API) decoded(t testing.TB, into any) func(client.Object, error) bool {
	return func(o client.Object, err error) bool {
		t.Helper()
		if isNotFound(err) {
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(o.Raw, into); err != nil {
			t.Fatalf("read %s %s: %v", o.Type, o.Name, err)
		}
		return true
	}
}

// Token says what a dataplane token allows.
type Token = client.DataplaneToken

// Token issues a dataplane token for this mesh.
func (a API) Token(t testing.TB, ask Token) string {
	t.Helper()
	ask.Mesh = a.in
	token, err := a.client.NewDataplaneToken(t.Context(), ask)
	if err != nil {
		t.Fatalf("issue a token: %v", err)
	}
	return token
}

func isNotFound(err error) bool { return errors.Is(err, resource.ErrNotFound) }
