package resource

import (
	"fmt"
	"strconv"
	"strings"
)

// A Problem is one thing wrong with a resource, at a path in its YAML.
type Problem struct {
	Field  string `json:"field"`
	Reason string `json:"reason"`
}

// String renders a problem on one line. One without a field concerns the whole.
func (p Problem) String() string {
	if p.Field == "" {
		return p.Reason
	}
	return p.Field + ": " + p.Reason
}

// Problems is everything wrong with one resource; a non-empty list is an error.
type Problems []Problem

// Error lists the problems on one line.
func (ps Problems) Error() string {
	var b strings.Builder
	for i, p := range ps {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(p.String())
	}
	return b.String()
}

// Add appends a problem at a path.
func (ps *Problems) Add(at Path, format string, args ...any) {
	*ps = append(*ps, Problem{Field: string(at), Reason: fmt.Sprintf(format, args...)})
}

// Append adds all of more.
func (ps *Problems) Append(more Problems) { *ps = append(*ps, more...) }

// Err returns the problems as an error, nil when there are none.
func (ps Problems) Err() error {
	if len(ps) == 0 {
		return nil
	}
	return ps
}

// A Path points into the YAML of a resource: spec.to[0].default.http.
type Path string

// Field descends into a field.
func (p Path) Field(name string) Path {
	if p == "" {
		return Path(name)
	}
	return p + "." + Path(name)
}

// Index descends into a list element.
func (p Path) Index(i int) Path { return p + Path("["+strconv.Itoa(i)+"]") }

// Key descends into a map entry.
func (p Path) Key(k string) Path { return p + Path("["+strconv.Quote(clip(k))+"]") }

// Quote renders a value of a user for a message: quoted, escaped and never long.
func Quote(s string) string { return strconv.Quote(clip(s)) }

func clip(s string) string {
	if len(s) > 80 {
		return s[:77] + "..."
	}
	return s
}
