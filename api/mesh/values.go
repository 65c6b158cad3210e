package mesh

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/api/resource"
)

// A Duration is written like "5s" or "1h30m".
type Duration struct{ time.Duration }

// MarshalJSON writes the duration as users do.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(d.String()) }

// UnmarshalJSON reads a Go duration string.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("must be a duration such as \"5s\" or \"1h30m\"")
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("%s is not a duration such as \"5s\" or \"1h30m\"", resource.Quote(s))
	}
	d.Duration = v
	return nil
}

// A PortRef refers to a port by number or by name. The zero value refers to none.
type PortRef struct {
	Number uint32
	Name   string
}

// IsZero says that no port is meant.
func (p PortRef) IsZero() bool { return p == PortRef{} }

// String renders the number or the name.
func (p PortRef) String() string {
	if p.Name != "" {
		return p.Name
	}
	return strconv.FormatUint(uint64(p.Number), 10)
}

// MarshalJSON writes a number or a name.
func (p PortRef) MarshalJSON() ([]byte, error) {
	if p.Name != "" {
		return json.Marshal(p.Name)
	}
	return json.Marshal(p.Number)
}

// UnmarshalJSON reads a number or a name; a string of digits is a name.
func (p *PortRef) UnmarshalJSON(b []byte) error {
	var v PortRef
	if strings.HasPrefix(string(b), `"`) {
		if err := json.Unmarshal(b, &v.Name); err != nil {
			return fmt.Errorf("must be a port number or the name of an inbound")
		}
	} else if err := json.Unmarshal(b, &v.Number); err != nil {
		return fmt.Errorf("must be a port number or the name of an inbound")
	}
	*p = v
	return nil
}

// A Count is a counter, written as a string because JSON numbers lose large ones.
type Count uint64

// MarshalJSON writes the number as a string.
func (c Count) MarshalJSON() ([]byte, error) {
	return json.Marshal(strconv.FormatUint(uint64(c), 10))
}

// UnmarshalJSON reads a string or a number.
func (c *Count) UnmarshalJSON(b []byte) error {
	n, err := strconv.ParseUint(strings.Trim(string(b), `"`), 10, 64)
	if err != nil {
		return fmt.Errorf("must be a whole number that is not negative, as a string")
	}
	*c = Count(n)
	return nil
}

// SecretBytes are bytes that no log or message shows. They are written in base64.
type SecretBytes []byte

// UnmarshalJSON reads base64. Its errors do not repeat the value.
func (s *SecretBytes) UnmarshalJSON(b []byte) error {
	var v []byte
	if err := json.Unmarshal(b, &v); err != nil {
		return fmt.Errorf("must be a base64 string")
	}
	*s = v
	return nil
}

// String hides the bytes.
func (SecretBytes) String() string { return "[redacted]" }

// GoString hides the bytes.
func (SecretBytes) GoString() string { return "[redacted]" }

// LogValue hides the bytes.
func (SecretBytes) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// A SecureDataSource is where a secret value comes from. Type names the one field that is set.
type SecureDataSource struct {
	// Type is File, Secret, EnvVar or InsecureInline. Required.
	Type DataSourceType `json:"type"`
	// File is read by the control plane.
	File *FileSource `json:"file,omitempty"`
	// EnvVar is read from the environment of the control plane.
	EnvVar *EnvVarSource `json:"envVar,omitempty"`
	// InsecureInline holds the value itself; whoever may read the resource may read the value.
	InsecureInline *InlineSource `json:"insecureInline,omitempty"`
	// SecretRef is a Secret of the same mesh.
	SecretRef *SecretRef `json:"secretRef,omitempty"`
}

// A DataSourceType is a kind of source.
type DataSourceType string

// The kinds of sources of secret values.
const (
	SourceFile           DataSourceType = "File"
	SourceSecret         DataSourceType = "Secret"
	SourceEnvVar         DataSourceType = "EnvVar"
	SourceInsecureInline DataSourceType = "InsecureInline"
)

// FileSource is a file beside the control plane.
type FileSource struct {
	// Path is absolute and has no "..". Required.
	Path string `json:"path"`
}

// EnvVarSource is a variable of the environment of the control plane.
type EnvVarSource struct {
	// Name of the variable. Required.
	Name string `json:"name"`
}

// InlineSource is a value written in the resource.
type InlineSource struct {
	// Value itself. Required.
	Value string `json:"value"`
}

// String hides the value.
func (InlineSource) String() string { return "[redacted]" }

// GoString hides the value.
func (InlineSource) GoString() string { return "[redacted]" }

// SecretRef names a Secret of the same mesh.
type SecretRef struct {
	// Kind is Secret. Required.
	Kind string `json:"kind"`
	// Name of the Secret. Required.
	Name string `json:"name"`
}

// LabelSelector selects resources that carry all its labels; without labels it selects all.
type LabelSelector struct {
	// MatchLabels that the resource carries, each with an equal value.
	MatchLabels map[string]string `json:"matchLabels,omitempty"`
}

// Matches says whether labels satisfy the selector. The nil selector matches nothing.
func (s *LabelSelector) Matches(labels map[string]string) bool {
	return s != nil && resource.Selector(s.MatchLabels).Matches(labels)
}

// An Extension is configuration for software outside Causeway.
type Extension struct {
	// Type or name of the extension. Required.
	Type string `json:"type"`
	// Config is anything the extension understands.
	Config any `json:"config,omitempty"`
}
