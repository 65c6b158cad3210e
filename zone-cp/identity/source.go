package identity

import (
	"errors"
	"fmt"
	"os"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store/catalog"
)

// maxSource is the largest accepted file of an authority, in bytes.
const maxSource = 1 << 20

// read fetches a value from where the user keeps it. Errors name the place and never the value.
func (a *Authority) read(s *catalog.Snapshot, in string, src *mesh.SecureDataSource) ([]byte, error) {
	if src == nil {
		return nil, errors.New("it is not set")
	}
	switch {
	case src.Type == mesh.SourceInsecureInline && src.InsecureInline != nil:
		return []byte(src.InsecureInline.Value), nil
	case src.Type == mesh.SourceSecret && src.SecretRef != nil:
		b, ok := secretData(s, resource.Key{Type: mesh.TypeSecret, Mesh: in, Name: src.SecretRef.Name})
		if !ok {
			return nil, fmt.Errorf("there is no Secret %s in mesh %s", resource.Quote(src.SecretRef.Name), in)
		}
		return b, nil
	case src.Type == mesh.SourceEnvVar && src.EnvVar != nil:
		if a.cfg.LookupEnv == nil {
			return nil, errors.New("environment variables are not available to this control plane")
		}
		v, ok := a.cfg.LookupEnv(src.EnvVar.Name)
		if !ok {
			return nil, fmt.Errorf("the control plane has no environment variable %s", resource.Quote(src.EnvVar.Name))
		}
		return []byte(v), nil
	case src.Type == mesh.SourceFile && src.File != nil:
		return readFile(src.File.Path)
	}
	return nil, fmt.Errorf("a source of type %s cannot be used", resource.Quote(string(src.Type)))
}

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read it: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxSource {
		return nil, fmt.Errorf("%s is not a file of at most %d bytes", path, maxSource)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read it: %w", err)
	}
	return b, nil
}

func secretData(s *catalog.Snapshot, k resource.Key) ([]byte, bool) {
	r, ok := s.Get(k)
	if !ok {
		return nil, false
	}
	switch spec := r.Spec.(type) {
	case *mesh.Secret:
		return spec.Data, true
	case *mesh.GlobalSecret:
		return spec.Data, true
	}
	return nil, false
}
