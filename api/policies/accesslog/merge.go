package accesslog

import (
	"encoding/json"
	"fmt"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policies/sink"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// Effective is what is logged at one element of a proxy, and where it is sent.
type Effective struct {
	Logs []Log `json:"logs,omitempty"`
	// Collectors are where the agent sends logs, by name. They are apart from the logs because an edit of a collector is none of theirs.
	Collectors map[string]mesh.Collector `json:"collectors,omitempty"`
}

// A Log is one backend.
type Log struct {
	Backend
	// Matches are the clients that it is for, any of them; none means all.
	Matches []policy.Match `json:"matches,omitempty"`
	// Collector names the entry in Collectors; empty for files, and for a reference that finds nothing.
	Collector string `json:"collector,omitempty"`
	// Missing says that a reference finds nothing.
	Missing string `json:"missing,omitempty"`
	// Origin says where the backend stands: the policy's identifier with a section such as to_0_backends_1.
	Origin string `json:"origin"`
}

// merge takes, for traffic that is sent, the backends of the strongest policy, and for traffic that is received those of every rule:
// each rule logs what it matches, whatever the others do.
func merge(in []policy.Sourced) policy.Merged {
	var m policy.Merged
	var c Effective
	for _, s := range in {
		var written struct {
			Matches []policy.Match `json:"matches"`
			Default Conf           `json:"default"`
		}
		convert(s.Conf, &written)
		if written.Default.Backends == nil {
			continue
		}
		section := "rules"
		if !s.Rule {
			// Of what is sent the last is the strongest, and its backends are all there are.
			section, c, m.Origins = "to", Effective{}, nil
		}
		for i, b := range *written.Default.Backends {
			c.add(b, s.Policy.WithSection(fmt.Sprintf("%s_%d_backends_%d", section, s.Index, i)), written.Matches)
		}
		m.Origins = append(m.Origins, policy.Origin{Field: "logs", Policy: s.Policy, Index: s.Index})
	}
	if len(m.Origins) == 0 {
		return policy.Merged{}
	}
	convert(c, &m.Conf)
	return m
}

func (c *Effective) add(b Backend, origin resource.KRI, matches []policy.Match) {
	l := Log{Backend: b, Matches: matches, Origin: origin.String()}
	if b.Type == TypeTCP && b.TCP != nil {
		l.Collector = "system_meshaccesslog_tcp_" + l.Origin
		c.know(l.Collector, mesh.Collector{TCP: b.TCP.Address})
		l.TCP = &TCP{Format: b.TCP.Format} // the address is its cluster's affair
	}
	c.Logs = append(c.Logs, l)
}

func (c *Effective) know(name string, to mesh.Collector) {
	if c.Collectors == nil {
		c.Collectors = map[string]mesh.Collector{}
	}
	c.Collectors[name] = to
}

// references lists the collectors that are referred to, everywhere in the spec.
func references(spec any) []policy.Reference {
	s, ok := spec.(*policy.Spec[Conf])
	if !ok {
		return nil
	}
	var refs []*sink.Ref
	each(s, func(_ resource.Path, c Conf) {
		if c.Backends == nil {
			return
		}
		for _, b := range *c.Backends {
			if b.OpenTelemetry != nil {
				refs = append(refs, b.OpenTelemetry.BackendRef)
			}
		}
	})
	return sink.References(refs...)
}

// link finds the collectors that are referred to.
func link(c *Effective, find policy.Find) {
	for i := range c.Logs {
		l := &c.Logs[i]
		if l.OpenTelemetry == nil {
			continue
		}
		name, to, ok := l.OpenTelemetry.BackendRef.Find(find)
		if !ok {
			l.Missing = l.OpenTelemetry.BackendRef.Missing()
			continue
		}
		l.Collector = "system_meshaccesslog_opentelemetry_" + name
		c.know(l.Collector, to)
		l.OpenTelemetry.BackendRef = nil
	}
}

// convert turns plain JSON into types and back. What does not fit was refused when the policy was written.
func convert(from, into any) {
	if b, err := json.Marshal(from); err == nil {
		_ = json.Unmarshal(b, into)
	}
}
