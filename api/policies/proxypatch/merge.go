package proxypatch

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// merge puts a message into another as protobuf does: scalars are replaced, messages merge, lists grow, entries of maps are replaced.
// Durations and packed messages are values: half of an old one and half of a new one makes no sense, so they are replaced.
func merge(into, from protoreflect.Message) {
	from.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsList():
			list := into.Mutable(f).List()
			for i := range v.List().Len() {
				list.Append(copied(f, v.List().Get(i)))
			}
		case f.IsMap():
			m := into.Mutable(f).Map()
			v.Map().Range(func(k protoreflect.MapKey, e protoreflect.Value) bool {
				m.Set(k, copied(f.MapValue(), e))
				return true
			})
		case f.Message() != nil && into.Has(f) && !isValue(f.Message()):
			merge(into.Mutable(f).Message(), v.Message())
		default:
			into.Set(f, copied(f, v))
		}
		return true
	})
}

func isValue(d protoreflect.MessageDescriptor) bool {
	switch d.FullName() {
	case "google.protobuf.Duration", "google.protobuf.Any", "google.protobuf.Timestamp":
		return true
	}
	return false
}

func copied(f protoreflect.FieldDescriptor, v protoreflect.Value) protoreflect.Value {
	if f.Message() == nil {
		return v
	}
	return protoreflect.ValueOfMessage(proto.Clone(v.Message().Interface()).ProtoReflect())
}
