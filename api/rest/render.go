package rest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store/catalog"
)

// plainJSON writes answers as JSON without HTML escapes: they are read by programs and by people in terminals.
type plainJSON struct{ echo.DefaultJSONSerializer }

// Serialize writes a value.
func (plainJSON) Serialize(c echo.Context, v any, indent string) error {
	e := json.NewEncoder(c.Response())
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	return e.Encode(v)
}

// A fields writer makes one JSON object field by field, in an order that people like, without decoding what is already JSON.
type fields struct {
	b     bytes.Buffer
	err   error
	first bool
}

func newFields() *fields {
	f := &fields{first: true}
	f.b.WriteByte('{')
	return f
}

func (f *fields) raw(name string, value []byte) {
	if !f.first {
		f.b.WriteByte(',')
	}
	f.first = false
	f.b.WriteString(strconv.Quote(name)) // names are ours: plain ASCII
	f.b.WriteByte(':')
	f.b.Write(value)
}

func (f *fields) set(name string, value any) {
	b, err := json.Marshal(value)
	if err != nil && f.err == nil {
		f.err = fmt.Errorf("encode %s: %w", name, err)
	}
	f.raw(name, b)
}

// inline adds the fields of an object to this one.
func (f *fields) inline(object []byte) {
	inner := bytes.TrimSpace(object)
	if len(inner) < 2 {
		return
	}
	if inner = bytes.TrimSpace(inner[1 : len(inner)-1]); len(inner) == 0 {
		return
	}
	if !f.first {
		f.b.WriteByte(',')
	}
	f.first = false
	f.b.Write(inner)
}

func (f *fields) done() (json.RawMessage, error) {
	f.b.WriteByte('}')
	return f.b.Bytes(), f.err
}

// meta adds what all resources have in front.
func (f *fields) meta(typ string, k resource.Kind, m resource.Meta) {
	f.set("type", typ)
	if m.Mesh != "" {
		f.set("mesh", m.Mesh)
	}
	f.set("name", m.Name)
	if !m.Created.IsZero() {
		f.set("creationTime", m.Created.UTC().Format(time.RFC3339Nano))
		f.set("modificationTime", m.Modified.UTC().Format(time.RFC3339Nano))
	}
	if len(m.Labels) > 0 {
		f.set("labels", m.Labels)
	}
	if k.Short != "" {
		f.set("kri", resource.KRIOf(k, m).String())
	}
}

// render gives the API form of a resource.
func (s *Server) render(snap *catalog.Snapshot, k resource.Kind, r resource.Resource) (json.RawMessage, error) {
	f := newFields()
	f.meta(r.Type, k, r.Meta)
	if snis := snis(k, r); len(snis) > 0 {
		f.set("snis", snis)
	}
	spec := r.Raw
	if len(spec) == 0 {
		spec = []byte("{}")
	}
	status, _ := statusOf(snap, r)
	if s.cfg.Complete != nil {
		spec, status = s.cfg.Complete(snap, r, spec, status)
	}
	if k.Inline {
		f.inline(spec)
	} else {
		f.raw("spec", spec)
	}
	if len(status) > 0 {
		f.raw("status", status)
	}
	return f.done()
}

func statusOf(snap *catalog.Snapshot, r resource.Resource) ([]byte, bool) {
	k := catalog.StatusOf(r.Key())
	b, ok := snap.Derived(k.Type, k.Mesh, k.Name)
	return b, ok && json.Valid(b)
}

func digest(b []byte) string {
	h := fnv.New32a()
	h.Write(b)
	return strconv.FormatUint(uint64(h.Sum32()), 16)
}

// A sni is the server name of one port of a destination.
type sni struct {
	// Port of the destination.
	Port int `json:"port"`
	// SNI is the server name.
	SNI string `json:"sni"`
}

// snis lists the server names of a destination. Ports without one, because a name is too long, are left out.
func snis(k resource.Kind, r resource.Resource) []sni {
	var out []sni
	for _, p := range destinationPorts(k, r) {
		name, err := resource.KRIOf(k, r.Meta).WithSection(p.section()).SNI()
		if err == nil {
			out = append(out, sni{Port: p.Port, SNI: name})
		}
	}
	return out
}

type destinationPort struct {
	Name string `json:"name"`
	Port int    `json:"port"`
}

func (p destinationPort) section() string {
	if p.Name != "" {
		return p.Name
	}
	return strconv.Itoa(p.Port)
}

func destinationPorts(k resource.Kind, r resource.Resource) []destinationPort {
	if !k.Destination {
		return nil
	}
	var spec struct {
		Ports []destinationPort `json:"ports"`
		Match *destinationPort  `json:"match"`
	}
	if json.Unmarshal(r.Raw, &spec) != nil {
		return nil
	}
	if spec.Match != nil && spec.Match.Port != 0 {
		return append(spec.Ports, *spec.Match)
	}
	return spec.Ports
}
