package proxypatch

import (
	"slices"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// maxModifications bounds one policy.
const maxModifications = 100

func check(at resource.Path, c Conf, _ policy.Where) resource.Problems {
	var ps resource.Problems
	at = at.Field("appendModifications")
	switch n := len(c.AppendModifications); {
	case n == 0:
		ps.Add(at, "must not be empty")
	case n > maxModifications:
		ps.Add(at, "must have at most %d modifications; write several policies", maxModifications)
		return ps
	}
	for i, m := range c.AppendModifications {
		field, _, ok := m.kind()
		if !ok {
			ps.Add(at.Index(i), "must have exactly one of cluster, listener, networkFilter, httpFilter and virtualHost")
			continue
		}
		ps.Append(m.check(at.Index(i).Field(field)))
	}
	return ps
}

func (m Modification) check(at resource.Path) resource.Problems {
	var ps resource.Problems
	whole := []Operation{Add, Remove, Patch}
	switch {
	case m.Cluster != nil:
		if m.Cluster.Operation == Add && m.Cluster.Match != nil {
			ps.Add(at.Field("match"), "must not be set with operation Add, which matches nothing")
		}
		ps.Append(m.Cluster.check(at, new(clusterv3.Cluster), whole))
	case m.Listener != nil:
		if m.Listener.Operation == Add && m.Listener.Match != nil {
			ps.Add(at.Field("match"), "must not be set with operation Add, which matches nothing")
		}
		ps.Append(m.Listener.check(at, new(listenerv3.Listener), whole))
	case m.NetworkFilter != nil:
		ps.Append(m.NetworkFilter.check(at, new(listenerv3.Filter)))
	case m.HTTPFilter != nil:
		ps.Append(m.HTTPFilter.check(at, new(hcmv3.HttpFilter)))
	case m.VirtualHost != nil:
		if match := m.VirtualHost.Match; m.VirtualHost.Operation == Add && match != nil && match.Name != nil {
			ps.Add(at.Field("match").Field("name"), "must not be set with operation Add, which names its virtual host in value")
		}
		ps.Append(m.VirtualHost.check(at, new(routev3.VirtualHost), whole))
	}
	return ps
}

func (f *FilterMod) check(at resource.Path, value proto.Message) resource.Problems {
	var ps resource.Problems
	if f.Match == nil || f.Match.Name == nil {
		hint := map[Operation]string{
			Patch:     "must name the filter to patch",
			AddBefore: "must name the filter before which the new one is to stand",
			AddAfter:  "must name the filter after which the new one is to stand",
		}[f.Operation]
		if hint != "" {
			ps.Add(at.Field("match").Field("name"), "%s", hint)
		}
	}
	ps.Append(f.Change.check(at, value, []Operation{AddFirst, AddLast, AddBefore, AddAfter, Remove, Patch}))
	return ps
}

// check validates operation, value and jsonPatches against the message that is changed.
func (c Change) check(at resource.Path, value proto.Message, operations []Operation) resource.Problems {
	var ps resource.Problems
	if !slices.Contains(operations, c.Operation) {
		ps.Add(at.Field("operation"), "must be one of %s", strings.Join(operations, ", "))
		return ps
	}
	if len(c.JSONPatches) > 0 && c.Operation != Patch {
		ps.Add(at.Field("jsonPatches"), "is only possible with operation Patch")
	}
	switch c.Operation {
	case Remove:
		if c.Value != nil {
			ps.Add(at.Field("value"), "must not be set with operation Remove")
		}
	case Patch:
		if (c.Value == nil) == (len(c.JSONPatches) == 0) {
			ps.Add(at, "must have exactly one of value and jsonPatches with operation Patch")
			return ps
		}
		ps.Append(c.checkValue(at.Field("value"), value))
		ps.Append(checkJSON(at.Field("jsonPatches"), c.JSONPatches, below(value)))
	default:
		if c.Value == nil {
			ps.Add(at.Field("value"), "must be set with operation %s", c.Operation)
			return ps
		}
		ps.Append(c.checkValue(at.Field("value"), value))
	}
	return ps
}

// checkValue reads the value. One that is added must be complete by the rules of the protobufs; one that is merged need not be.
func (c Change) checkValue(at resource.Path, value proto.Message) resource.Problems {
	var ps resource.Problems
	if c.Value == nil {
		return nil
	}
	if err := read(*c.Value, value); err != nil {
		ps.Add(at, "is not a valid %s: %v", value.ProtoReflect().Descriptor().FullName(), err)
		return ps
	}
	if c.Operation == Patch {
		return nil
	}
	if err := policy.Validate(value); err != nil {
		ps.Add(at, "is not a valid %s: %v", value.ProtoReflect().Descriptor().FullName(), err)
	}
	if n, ok := value.(interface{ GetName() string }); ok && n.GetName() == "" {
		ps.Add(at, "must have a name")
	}
	return ps
}

// below is the message that JSON patches of a value are applied to: of a filter it is its configuration, which can be any.
func below(value proto.Message) protoreflect.MessageDescriptor {
	switch value.(type) {
	case *listenerv3.Filter, *hcmv3.HttpFilter:
		return nil
	}
	return value.ProtoReflect().Descriptor()
}

func checkJSON(at resource.Path, list []JSONPatch, md protoreflect.MessageDescriptor) resource.Problems {
	var ps resource.Problems
	if len(list) > maxModifications {
		ps.Add(at, "must have at most %d operations", maxModifications)
		return ps
	}
	for i, p := range list {
		at := at.Index(i)
		ps.Append(checkPointer(at.Field("path"), p.Path, md))
		switch p.Op {
		case "add", "replace", "test":
			if len(p.Value) == 0 {
				ps.Add(at.Field("value"), "must be set with op %s", p.Op)
			}
		case "move", "copy":
			if p.From == nil {
				ps.Add(at.Field("from"), "must be set with op %s", p.Op)
			} else {
				ps.Append(checkPointer(at.Field("from"), *p.From, md))
			}
		case "remove":
			if p.Path == "" {
				ps.Add(at.Field("path"), "must not be empty: the whole cannot be removed; use operation Remove")
			}
		default:
			ps.Add(at.Field("op"), "must be one of add, remove, replace, move, copy, test")
		}
	}
	return ps
}

// checkPointer names what a path leads through and the message does not have, as far as its type is known.
func checkPointer(at resource.Path, path string, md protoreflect.MessageDescriptor) resource.Problems {
	var ps resource.Problems
	parts, err := pointer(path)
	if err != nil {
		ps.Add(at, "%v", err)
		return ps
	}
	s := shape{md: md}
	for _, element := range parts {
		if s.md != nil && s.field == nil && !opaque(s.md) && !isAny(s.md) && fieldNamed(s.md, element) == nil {
			ps.Add(at, "%s is not a field of %s%s", resource.Quote(element), s.md.FullName(), similar(s.md, element))
			return ps
		}
		_, s = s.step(nil, element)
	}
	return ps
}
