package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
)

// tree is a resource as parsed JSON; questions to it never fail.
type tree map[string]any

func treeOf(raw []byte) tree {
	var t tree
	if json.Unmarshal(raw, &t) != nil {
		return nil // what the server sent was parsed before; an empty cell is all that can be shown
	}
	return t
}

// at walks down field names.
func (t tree) at(path ...string) any {
	var v any = map[string]any(t)
	for _, p := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[p]
	}
	return v
}

func (t tree) text(path ...string) string {
	switch v := t.at(path...).(type) {
	case nil:
		return ""
	case string:
		return v
	case float64:
		return fmt.Sprintf("%v", v)
	case bool:
		return fmt.Sprint(v)
	default:
		b, err := json.Marshal(v)
		if err != nil {
			return ""
		}
		return string(b)
	}
}

func (t tree) list(path ...string) []tree {
	vs, _ := t.at(path...).([]any)
	out := make([]tree, 0, len(vs))
	for _, v := range vs {
		if m, ok := v.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}

// column is one fact of a kind that its table shows.
type column struct {
	header string
	cell   func(tree) string
}

func columnsOf(k resource.Kind) []column {
	switch {
	case k.Policy != nil:
		return []column{{"TARGETS", targetCell}, {"RULES", rulesCell}}
	case k.Name == mesh.TypeDataplane:
		return []column{{"STATUS", statusCell}, {"ADDRESS", networkingCell("address")}, {"INBOUNDS", inboundsCell}}
	case k.Name == mesh.TypeMeshService:
		return []column{{"STATE", func(t tree) string { return cmp.Or(t.text("status", "state"), t.text("spec", "state")) }}, {"PORTS", portsCell}, {"PROXIES", proxiesCell}}
	case k.Name == mesh.TypeMeshMultiZoneService:
		return []column{{"PORTS", portsCell}}
	case k.Name == mesh.TypeMeshIdentity:
		return []column{{"PROVIDER", func(t tree) string { return t.text("spec", "provider", "type") }}}
	case k.Name == mesh.TypeZone:
		return []column{{"STATUS", zoneStatusCell}, {"PROXIES", zoneProxiesCell}, {"ENABLED", enabledCell}}
	}
	return nil
}

func targetCell(t tree) string {
	ref := tree{}
	if m, ok := t.at("spec", "targetRef").(map[string]any); ok {
		ref = m
	}
	kind := ref.text("kind")
	if kind == "" {
		kind = "Mesh"
	}
	switch {
	case ref.text("name") != "":
		return kind + " " + ref.text("name")
	case ref.at("labels") != nil:
		labels := map[string]string{}
		if m, ok := ref.at("labels").(map[string]any); ok {
			for k, v := range m {
				labels[k] = fmt.Sprint(v)
			}
		}
		return kind + " " + labelList(labels)
	}
	return kind
}

func rulesCell(t tree) string {
	var parts []string
	for _, section := range []string{"to", "rules"} {
		if n := len(t.list("spec", section)); n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, section))
		}
	}
	if t.at("spec", "default") != nil {
		parts = append(parts, "default")
	}
	return strings.Join(parts, ", ")
}

// networkingCell finds a field of a Dataplane, also inside an overview.
func networkingCell(field string) func(tree) string {
	return func(t tree) string {
		if s := t.text("networking", field); s != "" {
			return s
		}
		return t.text("dataplane", "networking", field)
	}
}

func inboundsCell(t tree) string {
	inbounds := t.list("networking", "inbound")
	if len(inbounds) == 0 {
		inbounds = t.list("dataplane", "networking", "inbound")
	}
	var out []string
	for _, in := range inbounds {
		port := in.text("port")
		if proto := in.text("protocol"); proto != "" {
			port += "/" + proto
		}
		if state := in.text("state"); state != "" && state != "Ready" {
			port += "(" + state + ")"
		}
		out = append(out, port)
	}
	return strings.Join(out, ",")
}

// statusCell says whether a proxy is connected, as far as an overview tells.
func statusCell(t tree) string {
	if t.at("dataplaneInsight") == nil {
		return "Offline"
	}
	return onlineIn(t.list("dataplaneInsight", "subscriptions"))
}

// onlineIn says whether one of several connections is open.
func onlineIn(subscriptions []tree) string {
	for _, s := range subscriptions {
		if s.text("connectTime") != "" && s.text("disconnectTime") == "" {
			return "Online"
		}
	}
	return "Offline"
}

// zoneStatusCell says whether a zone is connected to global, as far as an overview tells.
func zoneStatusCell(t tree) string {
	if t.at("zoneInsight") == nil {
		return ""
	}
	return onlineIn(t.list("zoneInsight", "subscriptions"))
}

// zoneProxiesCell counts the proxies of a zone that have the newest configuration.
func zoneProxiesCell(t tree) string {
	connected := t.text("zoneInsight", "proxies", "connected")
	if connected == "" {
		return ""
	}
	return cmp.Or(t.text("zoneInsight", "proxies", "acknowledged"), "0") + "/" + connected + " up to date"
}

func portsCell(t tree) string {
	var out []string
	for _, p := range t.list("spec", "ports") {
		s := p.text("port")
		if proto := p.text("appProtocol"); proto != "" {
			s += "/" + proto
		}
		out = append(out, s)
	}
	return strings.Join(out, ",")
}

func proxiesCell(t tree) string {
	total := t.text("status", "dataplaneProxies", "total")
	if total == "" {
		return ""
	}
	healthy := t.text("status", "dataplaneProxies", "healthy")
	if healthy == "" {
		healthy = "0"
	}
	return healthy + "/" + total + " healthy"
}

func enabledCell(t tree) string {
	if t.text("enabled") == "false" || t.text("zone", "enabled") == "false" {
		return "false"
	}
	return "true"
}
