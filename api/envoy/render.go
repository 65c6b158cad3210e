package envoy

import (
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"
)

// Render shows a table as JSON for people, in the form of the Kuma API's _config: resources by type URL and name.
// What could not be built as declared is listed beside it.
func Render(t *Table, problems []Problem) (json.RawMessage, error) {
	type problem struct {
		Type     string   `json:"type"`
		Name     string   `json:"name"`
		Reason   string   `json:"reason"`
		Policies []string `json:"policies,omitempty"`
	}
	out := struct {
		Sequence uint64                                `json:"sequence"`
		XDS      map[string]map[string]json.RawMessage `json:"xds"`
		Problems []problem                             `json:"problems,omitempty"`
	}{Sequence: t.Sequence, XDS: map[string]map[string]json.RawMessage{}}
	for _, part := range []*Part{t.Shared, t.Own} {
		for typ := range NumTypes {
			for _, f := range part.Of(typ) {
				text, err := protojson.Marshal(&anypb.Any{TypeUrl: typ.URL(), Value: f.Body()})
				if err != nil {
					return nil, fmt.Errorf("render %s %s: %w", typ, f.Name, err)
				}
				if out.XDS[typ.URL()] == nil {
					out.XDS[typ.URL()] = map[string]json.RawMessage{}
				}
				out.XDS[typ.URL()][f.Name] = text
			}
		}
	}
	for _, p := range problems {
		q := problem{Type: p.Ref.Type.String(), Name: p.Ref.Name, Reason: p.Text}
		for _, k := range p.Policies {
			q.Policies = append(q.Policies, k.String())
		}
		out.Problems = append(out.Problems, q)
	}
	return json.Marshal(out)
}
