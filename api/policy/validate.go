package policy

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

// maxNesting bounds how deep messages may be packed in each other.
const maxNesting = 64

// Validate checks a message and everything packed in it by the rules of the protobufs themselves. The rules of a message alone do
// not enter what is packed.
func Validate(m proto.Message) error {
	if v, ok := m.(interface{ ValidateAll() error }); ok {
		if err := v.ValidateAll(); err != nil {
			return err
		}
	}
	return validatePacked(m.ProtoReflect(), 0)
}

func validatePacked(m protoreflect.Message, depth int) (err error) {
	if depth > maxNesting {
		return errors.New("messages nest too deep")
	}
	if a, ok := m.Interface().(*anypb.Any); ok {
		return validateAny(a, depth)
	}
	if m.Descriptor().ParentFile().Package() == "google.protobuf" {
		return nil
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap() && f.MapValue().Message() != nil:
			v.Map().Range(func(_ protoreflect.MapKey, e protoreflect.Value) bool {
				err = validatePacked(e.Message(), depth+1)
				return err == nil
			})
		case f.Message() == nil || f.IsMap():
		case f.IsList():
			for i := 0; i < v.List().Len() && err == nil; i++ {
				err = validatePacked(v.List().Get(i).Message(), depth+1)
			}
		default:
			err = validatePacked(v.Message(), depth+1)
		}
		return err == nil
	})
	return err
}

func validateAny(a *anypb.Any, depth int) error {
	if a.GetTypeUrl() == "" {
		return nil
	}
	inner, err := a.UnmarshalNew()
	if err != nil {
		return fmt.Errorf("%s: %w", a.GetTypeUrl(), err)
	}
	if v, ok := inner.(interface{ ValidateAll() error }); ok {
		if err := v.ValidateAll(); err != nil {
			return err
		}
	}
	return validatePacked(inner.ProtoReflect(), depth+1)
}
