package rest

import (
	"encoding/json"
	"fmt"
	"maps"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/role"
)

const labelEnabled = "enabled"

var labelsPath = resource.Path("labels")

// checkLabels reports labels that a writer may not set like this. Old is what is replaced, nil on creation.
func (s *Server) checkLabels(k resource.Kind, r resource.Resource, old *resource.Resource) resource.Problems {
	ps := resource.CheckLabels(labelsPath, r.Labels)
	must := func(label, want string) {
		if have, ok := r.Labels[label]; ok && have != want {
			ps.Add(labelsPath.Key(label), "must be %s, not %s; leave it out and it is set", resource.Quote(want), resource.Quote(have))
		}
	}
	must(resource.LabelOrigin, s.origin())
	if k.Scope == resource.ScopeMesh {
		must(resource.LabelMesh, r.Mesh)
	}
	if _, ok := r.Labels[resource.LabelZone]; ok && s.cfg.Mode == Global {
		ps.Add(labelsPath.Key(resource.LabelZone), "must not be set: what is written at global belongs to no zone")
	} else if s.cfg.Mode != Global {
		must(resource.LabelZone, s.cfg.Zone)
	}
	if k.Policy != nil && s.cfg.Environment == Universal {
		ps.Append(s.checkRole(r))
	}
	if old != nil && old.Zone() != "" && r.Labels[resource.LabelZone] != "" && old.Zone() != r.Labels[resource.LabelZone] {
		ps.Add(labelsPath.Key(resource.LabelZone), "cannot be changed from %s", resource.Quote(old.Zone()))
	}
	ps.Append(s.checkWorkload(k, r))
	return ps
}

// checkRole reports a role that a policy cannot have. In a namespace it follows from what is targeted. Elsewhere it is system; in a zone a
// policy can say that it speaks for the owner of its services, when it speaks of nothing else.
func (s *Server) checkRole(r resource.Resource) resource.Problems {
	stated := r.Labels[resource.LabelPolicyRole]
	if s.cfg.Mode != Global && r.Namespace() == "" && stated == role.Producer {
		return role.CheckProducer(s.home(r))
	}
	want, ps := s.role(r)
	if len(ps) == 0 && stated != "" && stated != want {
		ps.Add(labelsPath.Key(resource.LabelPolicyRole), "must be %s, not %s; leave it out and it is set", resource.Quote(want), resource.Quote(stated))
	}
	return ps
}

// role is that of a policy that does not say it.
func (s *Server) role(r resource.Resource) (string, resource.Problems) {
	if s.cfg.Mode == Global || r.Namespace() == "" || s.cfg.Environment != Universal {
		return role.System, nil
	}
	return role.InNamespace(s.home(r))
}

// home is a resource with the zone that it gets.
func (s *Server) home(r resource.Resource) resource.Resource {
	r.Labels = maps.Clone(r.Labels)
	if r.Labels == nil {
		r.Labels = map[string]string{}
	}
	r.Labels[resource.LabelZone] = s.cfg.Zone
	return r
}

func (s *Server) checkWorkload(k resource.Kind, r resource.Resource) resource.Problems {
	w, ok := r.Labels[resource.LabelWorkload]
	if !ok || k.Name != "Dataplane" {
		return nil
	}
	at := labelsPath.Key(resource.LabelWorkload)
	if s.cfg.Mode == Global {
		return resource.Problems{{Field: string(at), Reason: "must not be set at global"}}
	}
	return resource.CheckName(at, resource.RFC1035Label, w)
}

func (s *Server) origin() string {
	if s.cfg.Mode == Global {
		return resource.OriginGlobal
	}
	return resource.OriginZone
}

// computeLabels gives the labels that are stored: those of the writer and those that the control plane sets.
func (s *Server) computeLabels(k resource.Kind, r resource.Resource) map[string]string {
	out := maps.Clone(r.Labels)
	if out == nil {
		out = map[string]string{}
	}
	missing := func(label, value string) {
		if out[label] == "" && value != "" {
			out[label] = value
		}
	}
	out[resource.LabelDisplayName] = r.Name
	out[resource.LabelOrigin] = s.origin()
	if k.Scope == resource.ScopeMesh {
		missing(resource.LabelMesh, r.Mesh)
	}
	if s.cfg.Mode != Global {
		if k.Flow&resource.FromZone != 0 {
			missing(resource.LabelZone, s.cfg.Zone)
		}
		missing(resource.LabelEnv, s.cfg.Environment)
	}
	if k.Policy != nil {
		computed, _ := s.role(r) // checkLabels reports what is wrong
		missing(resource.LabelPolicyRole, computed)
	}
	if k.Name == "Dataplane" {
		listenerLabels(r.Raw, out)
	}
	return out
}

// listenerLabels marks Dataplanes that are zone proxies, so that policies can select them.
func listenerLabels(raw []byte, labels map[string]string) {
	delete(labels, resource.LabelZoneIngress)
	delete(labels, resource.LabelZoneEgress)
	for _, l := range dataplaneFacts(raw).Networking.Listeners {
		switch l.Type {
		case "ZoneIngress":
			labels[resource.LabelZoneIngress] = labelEnabled
		case "ZoneEgress":
			labels[resource.LabelZoneEgress] = labelEnabled
		}
	}
}

// facts are the few things the API itself reads in a Dataplane.
type facts struct {
	Networking struct {
		Inbound []struct {
			State string `json:"state"`
		} `json:"inbound"`
		Listeners []struct {
			Type  string `json:"type"`
			State string `json:"state"`
		} `json:"listeners"`
		Gateway *struct {
			Type string            `json:"type"`
			Tags map[string]string `json:"tags"`
		} `json:"gateway"`
	} `json:"networking"`
}

func dataplaneFacts(raw []byte) facts {
	var f facts
	if json.Unmarshal(raw, &f) != nil {
		return facts{}
	}
	return f
}

// checkOwner refuses to touch what another control plane owns.
func (s *Server) checkOwner(old resource.Resource) resource.Problems {
	at := labelsPath.Key(resource.LabelOrigin)
	origin := old.Label(resource.LabelOrigin)
	var where string
	switch {
	case s.cfg.Mode == Global && origin == resource.OriginZone:
		where = "zone " + resource.Quote(old.Zone())
	case s.cfg.Mode == Zone && old.Zone() != "" && old.Zone() != s.cfg.Zone: // also when it came through global
		where = "zone " + resource.Quote(old.Zone())
	case s.cfg.Mode == Zone && origin == resource.OriginGlobal:
		where = "global"
	default:
		return nil
	}
	return resource.Problems{{Field: string(at), Reason: fmt.Sprintf("%s is owned by %s; change it there", old.Key(), where)}}
}

// writable says where a kind is written, and refuses it elsewhere.
func (s *Server) writable(k resource.Kind) bool {
	switch {
	case k.ReadOnly():
		return false
	case s.cfg.Mode == Global:
		return k.Flow&resource.FromGlobal != 0
	case s.cfg.Mode == Zone:
		return k.Flow&resource.FromZone != 0
	default:
		return true
	}
}
