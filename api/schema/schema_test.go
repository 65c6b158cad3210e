package schema_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/api"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/schema"
)

// A place is one field of a kind and the way to it from the top of the resource.
type place struct {
	kind   resource.Kind
	path   []string       // names of fields; "0" stands for the item of a list, "key" for that of a map
	owners []*schema.Type // what each step of the path is taken in
	field  schema.Field
	also   map[int]map[string]any // what else objects on the way hold, by the number of the step
}

// owner is the object that has the field.
func (p place) owner() *schema.Type { return p.owners[len(p.owners)-1] }

func (p place) String() string { return p.kind.Name + " " + dotted(p.path) }

// source is where the comment of the field stands; fields of the same type in several places share it.
func (p place) source() string { return p.field.Name + ": " + p.field.Doc }

// each calls f for every field below a type. A type that contains itself is entered once.
func each(p place, t *schema.Type, f func(place)) {
	if slices.Contains(p.owners, t) {
		return
	}
	p.owners = append(slices.Clone(p.owners), t)
	step := func(name string) place {
		n := p
		n.path = append(slices.Clone(p.path), name)
		return n
	}
	switch t.Form {
	case schema.List:
		each(step("0"), t.Elem, f)
	case schema.Map:
		each(step("key"), t.Elem, f)
	case schema.Object:
		for _, field := range t.Fields {
			n := step(field.Name)
			n.field = field
			f(n)
			each(n, field.Type, f)
		}
	}
}

// spec visits what users write of a kind.
func spec(r *schema.Reader, k resource.Kind, f func(place)) {
	top := &schema.Type{Form: schema.Object, Fields: []schema.Field{{Name: "spec", Type: r.Kind(k).Spec}}}
	t := top
	if k.Inline {
		t = top.Fields[0].Type
	}
	each(place{kind: k}, t, f)
}

func TestEveryFieldIsExplained(t *testing.T) {
	r := schema.NewReader()
	told := map[string]bool{}
	for _, k := range api.Kinds().All() {
		explained := func(p place) {
			if p.field.Doc == "" && !slices.Equal(p.path, []string{"spec"}) && !told[p.source()] {
				told[p.source()] = true
				t.Errorf("%s has no comment", p)
			}
		}
		spec(r, k, explained)
		if status := r.Kind(k).Status; status != nil {
			each(place{kind: k}, status, explained)
		}
	}
	for _, typ := range r.Unread() {
		t.Errorf("%s writes itself; say in ofValue how", typ)
	}
}

// problems decodes and validates a resource that is nothing but the way to the field, with a value for it, and returns what is said
// about the field or, when the value is nil and the field therefore missing, about what it is missing in.
func (p place) problems(t *testing.T, value any, beside map[string]any) []string {
	t.Helper()
	tree := map[string]any{}
	p.put(tree, 0, value, beside)
	tree["type"], tree["name"] = p.kind.Name, "n"
	if p.kind.Scope == resource.ScopeMesh {
		tree["mesh"] = "m"
	}
	b, err := json.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	d, err := resource.NewKinds(p.kind).Decode(b, true)
	var ps resource.Problems
	switch {
	case errors.As(err, &ps):
	case err != nil:
		t.Fatalf("%s: %v", b, err)
	case p.kind.Validate != nil:
		ps = p.kind.Validate(d.Resource)
	}
	field, parent := dotted(p.path), dotted(p.path[:len(p.path)-1])
	var out []string
	for _, problem := range ps {
		if problem.Field == field || value == nil && (problem.Field == parent || strings.HasPrefix(problem.Field, field+".")) {
			out = append(out, problem.String())
		}
	}
	return out
}

// put writes the value to the end of the path, with what stands between.
func (p place) put(tree map[string]any, at int, value any, beside map[string]any) {
	name := p.path[at]
	if at == len(p.path)-1 {
		maps.Copy(tree, beside)
		if value != nil {
			tree[name] = value
		}
		return
	}
	p.choose(tree, at)
	maps.Copy(tree, p.also[at])
	next := map[string]any{}
	tree[name] = next
	for at++; p.path[at] == "0" && at < len(p.path)-1; at++ {
		tree[name] = []any{next}
	}
	p.put(next, at, value, beside)
}

// choose sets the type of an object that has one field for each of its types.
func (p place) choose(tree map[string]any, at int) {
	typ, ok := p.owners[at].Field("type")
	if !ok {
		return
	}
	for _, v := range typ.Values {
		if strings.EqualFold(v, p.path[at]) || strings.EqualFold(v+"Ref", p.path[at]) {
			tree["type"] = v
		}
	}
}

// beside finds what else may have to be set for a field to be looked at: the type that it belongs to.
func (p place) beside() []map[string]any {
	out := []map[string]any{nil}
	for _, other := range p.owner().Fields {
		if other.Name == p.field.Name || other.Type.Form != schema.Text {
			continue
		}
		for _, v := range other.Values {
			out = append(out, map[string]any{other.Name: v})
		}
	}
	return out
}

func dotted(path []string) string {
	var b strings.Builder
	for i, p := range path {
		switch {
		case p == "0":
			b.WriteString("[0]")
		case i > 0:
			b.WriteString("." + p)
		default:
			b.WriteString(p)
		}
	}
	return b.String()
}

// otherwise are the same place in objects of other sorts: with each value of each choice on the way to it.
func (p place) otherwise() []place {
	var out []place
	for at, owner := range p.owners[:len(p.owners)-1] {
		for _, choice := range owner.Fields {
			if choice.Type.Form != schema.Text || choice.Name == p.path[at] {
				continue
			}
			for _, v := range choice.Values {
				other := p
				other.also = map[int]map[string]any{at: {choice.Name: v}}
				out = append(out, other)
			}
		}
	}
	return out
}

// A trial holds what comments say against what validation does.
type trial struct {
	t    *testing.T
	said int
	// taken and notTaken are statements of sources about values: a type that several kinds share says what any of them takes.
	taken    map[string]bool
	notTaken map[string]string
}

func (tr *trial) refused(p place, what string, v any) {
	tr.said++
	for _, with := range p.beside() {
		if len(p.problems(tr.t, v, with)) > 0 {
			return
		}
	}
	for _, other := range p.otherwise() {
		if len(other.problems(tr.t, v, nil)) > 0 {
			return
		}
	}
	tr.t.Errorf("%s: %s is accepted, and the comment says otherwise: %s", p, what, p.field.Doc)
}

func (tr *trial) accepted(p place, what string, v any) {
	tr.said++
	statement := p.source() + what
	var ps []string
	for _, with := range p.beside() {
		if ps = p.problems(tr.t, v, with); len(ps) == 0 {
			tr.taken[statement] = true
			return
		}
	}
	tr.notTaken[statement] = fmt.Sprintf("%s: %s is refused, and the comment says otherwise: %s\n%s", p, what, p.field.Doc, ps)
}

// What comments say of allowed values, bounds, defaults and required fields is what validation does.
func TestCommentsSayWhatValidationDoes(t *testing.T) {
	r := schema.NewReader()
	tr := &trial{t: t, taken: map[string]bool{}, notTaken: map[string]string{}}
	for _, k := range api.Kinds().All() {
		var computed []string
		if k.ReadOnly() {
			continue
		}
		spec(r, k, func(p place) {
			if p.field.Computed {
				computed = append(computed, dotted(p.path))
			}
			within := func(c string) bool { return strings.HasPrefix(dotted(p.path), c) }
			if !p.field.Removed && !slices.Contains(p.path, "key") && !slices.ContainsFunc(computed, within) {
				tr.field(p)
			}
		})
	}
	for statement, complaint := range tr.notTaken {
		if !tr.taken[statement] {
			t.Error(complaint)
		}
	}
	t.Logf("%d statements were tried", tr.said)
	if tr.said < 300 {
		t.Error("too little was tried to prove anything")
	}
}

func (tr *trial) field(p place) {
	f := p.field
	switch {
	case f.Required:
		tr.refused(p, "nothing", nil)
	case f.Always && f.Type.Form != schema.Object:
		tr.said++
		if ps := p.problems(tr.t, nil, nil); len(ps) > 0 && strings.HasPrefix(ps[0], dotted(p.path)+":") {
			tr.t.Errorf("%s: nothing is refused, and the comment does not say Required: %s\n%s", p, f.Doc, ps)
		}
	}
	if len(f.Values) > 0 {
		if f.Type.Form == schema.Integer {
			tr.refused(p, "another value", 123456)
		} else {
			tr.refused(p, "another value", "Nonsense")
		}
	}
	for _, v := range f.Values {
		if f.Type.Form == schema.Integer {
			tr.accepted(p, v, json.Number(v))
		} else {
			tr.accepted(p, v, v)
		}
	}
	switch {
	case f.Min == nil:
	case f.Above:
		tr.accepted(p, "more than the bound", *f.Min+1)
		if *f.Min != 0 || !f.Zero {
			tr.refused(p, "the bound itself", *f.Min)
		}
	default:
		tr.accepted(p, "the least", *f.Min)
		if *f.Min != 1 || !f.Zero {
			tr.refused(p, "less than the least", *f.Min-1)
		}
	}
	if f.Max != nil {
		tr.accepted(p, "the greatest", *f.Max)
		tr.refused(p, "more than the greatest", *f.Max+1)
	}
	if v, ok := f.Literal(f.Type); ok {
		tr.accepted(p, fmt.Sprintf("the default %v", v), v)
	}
}
