package resource_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/api/resource"
)

// spec has a field of every sort that kinds use.
type spec struct {
	Text   string            `json:"text,omitempty"`
	Number uint32            `json:"number,omitempty"`
	Signed *int64            `json:"signed,omitempty"`
	Float  float64           `json:"float,omitempty"`
	Flag   *bool             `json:"flag,omitempty"`
	Bytes  []byte            `json:"bytes,omitempty"`
	List   []item            `json:"list,omitempty"`
	Map    map[string]string `json:"map,omitempty"`
	Items  map[string]item   `json:"items,omitempty"`
	Pause  *pause            `json:"pause,omitempty"`
	Any    any               `json:"any,omitempty"`
	Hidden string            `json:"-"`
	embedded
}

type embedded struct {
	Inner string `json:"inner,omitempty"`
}

type item struct {
	Name  string `json:"name,omitempty"`
	Names []item `json:"names,omitempty"`
}

// pause reads itself, as durations do.
type pause struct{ time.Duration }

func (p *pause) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return errors.New("must be a pause")
	}
	d, err := time.ParseDuration(s)
	p.Duration = d
	return err
}

var thing = resource.Kind{
	Name: "MeshThing", Path: "meshthings", Short: "mthing", Singular: "Mesh Thing", Plural: "Mesh Things",
	Scope: resource.ScopeMesh, New: func() any { return new(spec) },
}

var kinds = resource.NewKinds(thing, resource.Kind{
	Name: "Plain", Path: "plains", Singular: "Plain", Plural: "Plains", Scope: resource.ScopeGlobal, Inline: true, New: func() any { return new(spec) },
})

func TestDecode(t *testing.T) {
	d, err := kinds.Decode([]byte(`{"type":"MeshThing","mesh":"m","name":"n","labels":{"a":"b"},"creationTime":"2020-01-01T00:00:00Z","kri":"x","status":{},
		"spec":{"text":"t","number":7,"signed":-5,"float":1.5,"flag":true,"bytes":"aGk=","list":[{"name":"x"},null],"map":{"k":"v"},"items":{"i":{}},"pause":"5s","inner":"i","any":[1]}}`), true)
	if err != nil {
		t.Fatal(err)
	}
	if d.Type != "MeshThing" || d.Mesh != "m" || d.Name != "n" || d.Labels["a"] != "b" || len(d.Warnings) > 0 {
		t.Errorf("got %+v, %v", d.Meta, d.Warnings)
	}
	s := d.Spec.(*spec)
	if s.Text != "t" || s.Number != 7 || *s.Signed != -5 || !*s.Flag || string(s.Bytes) != "hi" || len(s.List) != 2 || s.Pause.Duration != 5*time.Second || s.Inner != "i" {
		t.Errorf("got %+v", s)
	}
	if !d.Created.IsZero() {
		t.Error("a client decided when the resource was created")
	}
}

// Every mismatch is named with its path, and all of them at once.
func TestDecodeProblems(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     []string
	}{
		{"types", `{"type":"MeshThing","name":"n","spec":{"text":5,"number":-1,"signed":1.5,"float":"x","flag":"true","bytes":"%","list":{},"map":[],"items":{"a":5},"pause":5,"inner":[]}}`, []string{
			`spec.bytes: must be a base64 string, not "%"`, `spec.flag: must be true or false, not "true"`, `spec.float: must be a number, not "x"`,
			`spec.inner: must be a string, not []`, `spec.items["a"]: must be an object`, `spec.list: must be a list`, `spec.map: must be an object`,
			`spec.number: must be a whole number that is not negative, not -1`, `spec.pause: must be a pause`,
			`spec.signed: must be a whole number, not 1.5`, `spec.text: must be a string, not 5`,
		}},
		{"deep", `{"type":"MeshThing","name":"n","spec":{"list":[{},{"names":[{"name":{}}]}],"map":{"a.b":1}}}`, []string{
			`spec.list[1].names[0].name: must be a string, not {}`, `spec.map["a.b"]: must be a string, not 1`,
		}},
		{"too large a number", `{"type":"MeshThing","name":"n","spec":{"number":4294967296}}`, []string{`spec.number: must be a whole number that is not negative, not 4294967296`}},
		{"inline", `{"type":"Plain","name":"n","number":"x"}`, []string{`number: must be a whole number that is not negative, not "x"`}},
		{"spec is a list", `{"type":"MeshThing","name":"n","spec":[]}`, []string{`spec: must be an object`}},
		{"names are numbers", `{"type":"MeshThing","name":5,"mesh":true,"labels":{"a":1}}`, []string{`mesh: must be a string`, `name: must be a string`, `labels["a"]: must be a string; quote it`}},
		{"labels are a list", `{"type":"MeshThing","name":"n","labels":["a"]}`, []string{`labels: must be an object of strings`}},
		{"no type", `{"name":"n"}`, []string{`type: must be set`}},
		{"a list", `[]`, []string{`must be an object with type, name and spec`}},
		{"null", `null`, []string{`must be an object with type, name and spec`}},
		{"two", `{"type":"MeshThing"}{}`, []string{`has data after the JSON object`}},
		{"cut off", `{"type":"Mesh`, []string{`is not valid JSON: unexpected EOF`}},
		{"too deep", `{"type":"MeshThing","name":"n","spec":` + strings.Repeat(`{"a":`, 70) + `1` + strings.Repeat(`}`, 71), []string{`is nested deeper than 64 levels`}},
		{"far too deep", strings.Repeat(`[`, 100_000), []string{`is not valid JSON: invalid character '[' exceeded max depth`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := kinds.Decode([]byte(c.in), false)
			var ps resource.Problems
			if !errors.As(err, &ps) {
				t.Fatalf("got %v", err)
			}
			var got []string
			for _, p := range ps {
				got = append(got, p.String())
			}
			if diff := cmp.Diff(sorted(c.want), sorted(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func sorted(list []string) string {
	m := map[string]bool{}
	for _, s := range list {
		m[s] = true
	}
	b, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func TestUnknownFields(t *testing.T) {
	const in = `{"type":"MeshThing","name":"n","specs":{},"spec":{"txet":"a","numbers":1,"list":[{"nam":"a"}],"entirely":{"other":1},"private":1,"Hidden":1}}`
	want := []string{
		`specs: unknown field, did you mean "spec"?`, `spec.Hidden: unknown field`, `spec.entirely: unknown field`,
		`spec.list[0].nam: unknown field, did you mean "name"?`, `spec.numbers: unknown field, did you mean "number"?`,
		`spec.private: unknown field`, `spec.txet: unknown field, did you mean "text"?`,
	}
	d, err := kinds.Decode([]byte(in), false)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, w := range d.Warnings {
		got = append(got, w.String())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(string(d.Raw), `"entirely":{"other":1}`) {
		t.Errorf("what a newer peer may understand is lost: %s", d.Raw)
	}
	_, err = kinds.Decode([]byte(in), true)
	var ps resource.Problems
	if !errors.As(err, &ps) || len(ps) != len(want) {
		t.Errorf("strictly: %v", err)
	}
}

// A sender of nonsense gets a bounded answer in bounded time.
func TestManyUnknownFields(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"type":"MeshThing","name":"n","spec":{`)
	for i := range 20_000 {
		fmt.Fprintf(&b, `"field-that-nobody-knows-%05d":1,`, i)
	}
	b.WriteString(`"text":"t"}}`)
	d, err := kinds.Decode([]byte(b.String()), false)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(d.Warnings); n == 0 || n > 100 {
		t.Errorf("%d warnings", n)
	}
}

func TestUnknownKind(t *testing.T) {
	for in, want := range map[string]string{
		`{"type":"MeshThings"}`: "unknown resource type: \"MeshThings\"", // a path is not a type
		`{"type":"MeshThnig"}`:  "did you mean MeshThing?",
		`{"type":"Whatever"}`:   `unknown resource type: "Whatever"`,
	} {
		_, err := kinds.Decode([]byte(in), false)
		if !errors.Is(err, resource.ErrUnknownKind) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", in, err)
		}
	}
}

func TestSize(t *testing.T) {
	object := func(n int) []byte {
		return []byte(`{"type":"MeshThing","name":"n","spec":{"text":"` + strings.Repeat("a", n) + `"}}`)
	}
	if _, err := kinds.Decode(object(resource.MaxObject-100), true); err != nil {
		t.Errorf("just below the limit: %v", err)
	}
	for _, n := range []int{resource.MaxObject, 5 << 20} {
		_, err := kinds.Decode(object(n), true)
		if err == nil || !strings.Contains(err.Error(), "at most 1048576 are allowed") {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestParseYAML(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"empty", "", `null`},
		{"empty documents", "---\n---\n# nothing\n---\na: 1\n---\n", `[{"a":1}]`},
		{"several", "a: 1\n---\nb: 2\n", `[{"a":1},{"b":2}]`},
		{"JSON", `{"a": [1, "b", null]}`, `[{"a":[1,"b",null]}]`},
		{"numbers stay exact", "a: 12345678901234567890\nb: 0.10\nc: 0x1F", `[{"a":12345678901234567890,"b":0.1,"c":31}]`},
		{"dates are text", "a: 2024-01-01\nb: {2024-01-02: 2001-12-14t21:59:43.10-05:00}\nc: !!timestamp 2024-01-03", `[{"a":"2024-01-01","b":{"2024-01-02":"2001-12-14t21:59:43.10-05:00"},"c":"2024-01-03"}]`},
		{"words are text", "a: yes\nb: on\nc: true", `[{"a":"yes","b":"on","c":true}]`},
		{"aliases", "a: &x {b: 1}\nc: *x\nd:\n  <<: *x\n  e: 2", `[{"a":{"b":1},"c":{"b":1},"d":{"b":1,"e":2}}]`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := resource.ParseYAML([]byte(c.in))
			if err != nil {
				t.Fatal(err)
			}
			b, err := json.Marshal(got)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, string(b)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseYAMLProblems(t *testing.T) {
	bomb := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'k'; c++ {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c,", c-1), 10), ","))
	}
	ladder := "a0: &a0 {}\n"
	for i := 1; i < 100; i++ {
		ladder += fmt.Sprintf("a%d: &a%d {x: *a%d}\n", i, i, i-1)
	}
	wide := "a: &a " + strings.Repeat("x", 100_000) + "\nb: [" + strings.Repeat("*a,", 20) + "]\n"
	for _, c := range []struct{ name, in, want string }{
		{"aliases that explode", bomb, "excessive aliasing"},
		{"aliases that nest", ladder, "nested deeper than 64 levels"},
		{"aliases that grow", wide, "at most 1048576 are allowed"},
		{"alias of itself", "a: &a [*a]", "contains itself"},
		{"unknown alias", "a: *b", "unknown anchor"},
		{"too deep", strings.Repeat("[", 80) + strings.Repeat("]", 80), "nested deeper than 64 levels"},
		{"far too deep", strings.Repeat("[", 20_000), "is not valid YAML"},
		{"the same key twice", "a: 1\na: 2", "already defined"},
		{"keys that are no text", "{1: a}", "keys must be strings"},
		{"no number", "a: .inf", "numbers finite"},
		{"a list", "- a", "must be an object"},
		{"text", "hello", "must be an object"},
		{"tabs", "a:\n\t- b", "is not valid YAML"},
		{"not text", "a: \xff", "is not valid YAML"},
		{"too large", "a: " + strings.Repeat("x", 2<<20), "at most 1048576 are allowed"},
		{"many documents", strings.Repeat("---\na: 1\n", 10_001), "more than 10000 documents"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := resource.ParseYAML([]byte(c.in))
			var ps resource.Problems
			if !errors.As(err, &ps) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v with %d documents, want %q", err, len(got), c.want)
			}
		})
	}
}

func TestDecodeYAML(t *testing.T) {
	d, err := kinds.DecodeYAML([]byte("type: MeshThing\nname: a\nlabels: {version: 2024-01-01}\nspec: {pause: 5s}\n---\ntype: Plain\nname: b\nnumber: 3\n"), true)
	if err != nil {
		t.Fatal(err)
	}
	if len(d) != 2 || d[0].Labels["version"] != "2024-01-01" || d[1].Spec.(*spec).Number != 3 {
		t.Errorf("got %+v", d)
	}
	_, err = kinds.DecodeYAML([]byte("type: MeshThing\nname: a\n---\ntype: MeshThing\nname: b\nspec: {text: 5}\n"), true)
	if err == nil || err.Error() != "document 2: spec.text: must be a string, not 5" {
		t.Errorf("got %v", err)
	}
	_, err = kinds.DecodeYAML([]byte("type: MeshThing\nname: b\nspec: {text: 5}\n"), true)
	if err == nil || err.Error() != "spec.text: must be a string, not 5" {
		t.Errorf("got %v", err)
	}
}

func TestEncode(t *testing.T) {
	created := time.Date(2024, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	meta := resource.Meta{Type: "MeshThing", Mesh: "m", Name: "n", Labels: map[string]string{"a": "b"}, Created: created, Modified: created}
	r, err := resource.WithSpec(meta, &spec{Text: "t", Number: 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		typ   string
		extra map[string]any
		want  string
	}{
		{"MeshThing", map[string]any{"kri": "x"}, `{"creationTime":"2024-01-02T02:04:05Z","kri":"x","labels":{"a":"b"},"mesh":"m","modificationTime":"2024-01-02T02:04:05Z","name":"n","spec":{"number":1,"text":"t"},"type":"MeshThing"}`},
		{"Plain", nil, `{"creationTime":"2024-01-02T02:04:05Z","labels":{"a":"b"},"mesh":"m","modificationTime":"2024-01-02T02:04:05Z","name":"n","number":1,"text":"t","type":"Plain"}`},
	} {
		k, _ := kinds.ByName(c.typ)
		r.Type = c.typ
		got, err := k.Encode(r, c.extra)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, string(got)); diff != "" {
			t.Error(diff)
		}
	}
	empty, err := thing.Encode(resource.Resource{Meta: resource.Meta{Type: "MeshThing", Name: "n"}}, nil)
	if err != nil || string(empty) != `{"name":"n","spec":{},"type":"MeshThing"}` {
		t.Errorf("%s, %v", empty, err)
	}
}

// What is decoded and encoded is decoded to the same again, and nothing panics.
func roundTrip(t *testing.T, d resource.Decoded) {
	t.Helper()
	k, ok := kinds.ByName(d.Type)
	if !ok {
		t.Fatalf("%s is decoded and unknown", d.Type)
	}
	if len(d.Raw) > resource.MaxObject {
		t.Fatalf("%d bytes", len(d.Raw))
	}
	encoded, err := k.Encode(d.Resource, nil)
	if err != nil {
		t.Fatal(err)
	}
	again, err := kinds.Decode(encoded, false)
	if err != nil {
		t.Fatalf("%s: %v", encoded, err)
	}
	if again.Key() != d.Key() || string(again.Raw) != string(d.Raw) {
		t.Fatalf("%s became %s", d.Raw, again.Raw)
	}
	if _, err := k.DecodeSpec(d.Raw); err != nil {
		t.Fatal(err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"type":"MeshThing","mesh":"m","name":"n","labels":{"a":"b"},"spec":{"text":"t","list":[{"name":"x"}],"pause":"5s","any":{"a":[1,null]}}}`))
	f.Add([]byte(`{"type":"Plain","name":"n","number":3,"unknown":1e400}`))
	f.Add([]byte(`{"type":"MeshThing","spec":{"items":{"a":{"names":[null]}},"bytes":"aGk="}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if d, err := kinds.Decode(data, false); err == nil {
			roundTrip(t, d)
		}
	})
}

func FuzzDecodeYAML(f *testing.F) {
	f.Add([]byte("type: MeshThing\nmesh: m\nname: n\nlabels: {version: 2024-01-01}\nspec: &a\n  text: t\n  list: [{name: x}]\n---\ntype: Plain\nname: n\nnumber: 0x1F\n"))
	f.Add([]byte("type: MeshThing\nspec:\n  <<: {text: a}\n  any: &x [1, 2]\n  map: {a: !!str 5}\n"))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := kinds.DecodeYAML(data, false)
		if err != nil {
			return
		}
		for _, d := range list {
			roundTrip(t, d)
		}
	})
}
