package schema

import (
	"reflect"
	"strings"

	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// A Kind is a resource kind as users write and read it.
type Kind struct {
	resource.Kind
	Spec *Type
	// Status is nil for kinds without one.
	Status *Type
}

// Kind describes a resource kind. Of a policy it leaves out the sections that the policy does not have.
func (r *Reader) Kind(k resource.Kind) Kind {
	out := Kind{Kind: k, Spec: r.Type(reflect.TypeOf(k.New()))}
	if k.NewStatus != nil {
		out.Status = r.Type(reflect.TypeOf(k.NewStatus()))
	}
	if k.Policy != nil && out.Spec.Form == Object {
		out.Spec = r.policySpec(k, out.Spec)
	}
	return out
}

// Meta lists what every resource of a kind has in front of what it says.
func Meta(k resource.Kind) []Field {
	text := &Type{Form: Text}
	instant := &Type{Form: Text, Format: FormatTime}
	out := []Field{{Name: "type", Type: text, Doc: "Type of the resource: " + k.Name + ".", Facts: Facts{Required: true}}}
	if k.Scope == resource.ScopeMesh {
		out = append(out, Field{Name: "mesh", Type: text, Doc: "Mesh that the resource belongs to.", Facts: Facts{Required: true}})
	}
	out = append(out,
		Field{Name: "name", Type: text, Doc: "Name of the resource, unique for its type in its mesh or, when it belongs to none, in all.", Facts: Facts{Required: true}},
		Field{
			Name: "labels", Type: &Type{Form: Map, Elem: text},
			Doc: "Labels by which others select the resource. What Causeway needs of kuma.io labels is set by the control plane.",
		},
		Field{Name: "creationTime", Type: instant, Doc: "When the resource was created.", Facts: Facts{Computed: true}},
		Field{Name: "modificationTime", Type: instant, Doc: "When the resource was changed last.", Facts: Facts{Computed: true}},
	)
	if k.Short != "" {
		out = append(out, Field{Name: "kri", Type: text, Doc: "Identifier of the resource everywhere.", Facts: Facts{Computed: true}})
	}
	return out
}

// Top describes a whole resource of the kind.
func (k Kind) Top() *Type {
	out := &Type{Form: Object, Doc: k.Spec.Doc, Fields: Meta(k.Kind)}
	if k.Inline {
		out.Fields = append(out.Fields, k.Spec.Fields...)
	} else {
		out.Fields = append(out.Fields, Field{Name: "spec", Type: k.Spec, Doc: "What the resource says."})
	}
	if k.Status != nil {
		out.Fields = append(out.Fields, Field{Name: "status", Type: k.Status, Doc: "What the control plane reports.", Facts: Facts{Computed: true}})
	}
	return out
}

func (r *Reader) policySpec(k resource.Kind, spec *Type) *Type {
	out := *spec
	out.Name, out.Fields = "", nil
	out.Doc = r.packageDoc(reflect.TypeOf(k.New()).Elem())
	for _, f := range spec.Fields {
		switch {
		case f.Name == "to" && !k.Policy.HasTo, f.Name == "rules" && !k.Policy.HasRules, f.Name == "default" && !k.Policy.HasDefault:
			continue
		case f.Name == "to":
			f.Type = each(f.Type, func(item *Type) { aim(item, k.Policy.ToKinds, true) })
		case f.Name == "rules" && !k.Policy.RuleMatches:
			f.Type = each(f.Type, func(item *Type) { item.Fields = without(item.Fields, "matches") })
		}
		out.Fields = append(out.Fields, f)
	}
	aim(&out, []string{policy.TargetMesh, policy.TargetDataplane}, false)
	return &out
}

// packageDoc is what the package of a policy says it is, which is where its configuration comes from.
func (r *Reader) packageDoc(spec reflect.Type) string {
	if f, ok := spec.FieldByName("Default"); ok && strings.Contains(spec.Name(), "[") {
		spec = f.Type.Elem()
	}
	_, doc, _ := strings.Cut(r.comments[strings.TrimPrefix(spec.PkgPath(), module)], " is the ")
	if doc == "" {
		return ""
	}
	return "The " + doc
}

// each returns a list whose items are changed, without touching those of others.
func each(list *Type, change func(*Type)) *Type {
	item := *list.Elem
	item.Name = "" // it is no longer what others contain
	item.Fields = append([]Field(nil), item.Fields...)
	change(&item)
	out := *list
	out.Elem = &item
	return &out
}

// aim narrows the kinds that the targetRef of an object may name.
func aim(t *Type, kinds []string, required bool) {
	for i, f := range t.Fields {
		if f.Name != "targetRef" {
			continue
		}
		ref := *f.Type
		ref.Name = ""
		ref.Fields = append([]Field(nil), ref.Fields...)
		for j := range ref.Fields {
			if ref.Fields[j].Name != "kind" {
				continue
			}
			ref.Fields[j].Values, ref.Fields[j].Required = kinds, required
			ref.Fields[j].Doc = "Kind of what is selected: " + strings.Join(kinds, ", ") + "."
			if ref.Fields[j].Default = "Mesh"; required {
				ref.Fields[j].Default = ""
			}
		}
		t.Fields[i].Type = &ref
	}
}

func without(fields []Field, name string) []Field {
	var out []Field
	for _, f := range fields {
		if f.Name != name {
			out = append(out, f)
		}
	}
	return out
}
