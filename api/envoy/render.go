package envoy

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

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

// A change is one operation of a JSON patch.
type change struct {
	Op    string          `json:"op"`
	Path  string          `json:"path"`
	Value json.RawMessage `json:"value,omitempty"`
}

// WithDiff adds to a rendered configuration what differs from another, as operations of a JSON patch on its xds: whole Envoy resources,
// which are what Envoy takes.
func WithDiff(before, after json.RawMessage) (json.RawMessage, error) {
	type table = map[string]map[string]json.RawMessage
	read := func(text json.RawMessage) (all map[string]json.RawMessage, xds table, err error) {
		if err = json.Unmarshal(text, &all); err == nil {
			err = json.Unmarshal(all["xds"], &xds)
		}
		return all, xds, err
	}
	_, old, err := read(before)
	if err != nil {
		return nil, fmt.Errorf("compare configurations: %w", err)
	}
	all, now, err := read(after)
	if err != nil {
		return nil, fmt.Errorf("compare configurations: %w", err)
	}
	diff := []change{}
	pointer := strings.NewReplacer("~", "~0", "/", "~1")
	for t := range NumTypes {
		url := t.URL()
		at := func(name string) string { return "/" + pointer.Replace(url) + "/" + pointer.Replace(name) }
		if len(old[url]) == 0 && len(now[url]) > 0 {
			diff = append(diff, change{"add", "/" + pointer.Replace(url), json.RawMessage("{}")})
		}
		for _, name := range slices.Sorted(maps.Keys(now[url])) {
			was, had := old[url][name]
			switch {
			case !had:
				diff = append(diff, change{"add", at(name), now[url][name]})
			case string(was) != string(now[url][name]):
				diff = append(diff, change{"replace", at(name), now[url][name]})
			}
		}
		for _, name := range slices.Sorted(maps.Keys(old[url])) {
			if _, is := now[url][name]; !is {
				diff = append(diff, change{"remove", at(name), nil})
			}
		}
	}
	text, err := json.Marshal(diff)
	if err != nil {
		return nil, fmt.Errorf("compare configurations: %w", err)
	}
	all["diff"] = text
	return json.Marshal(all)
}
