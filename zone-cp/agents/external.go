package agents

import (
	"crypto/sha256"

	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/api/agentapi"
	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store/catalog"
)

// maxSecrets bounds the bytes of secrets in one message.
const maxSecrets = 256 << 10

// isEgress says that a dataplane takes traffic to external services, so that it needs what they are spoken to with.
func isEgress(s *catalog.Snapshot, k resource.Key) bool {
	r, _ := s.Get(k)
	dp, ok := r.Spec.(*mesh.Dataplane)
	return ok && dp.HasListener(mesh.ZoneEgress)
}

// externalSecrets are the authorities, certificates and keys of the external services of a mesh. What is missing or wrong is left out:
// nothing is sent to such a service, and the configuration of the egress says why.
func externalSecrets(s *catalog.Snapshot, kind resource.Kind, in string) []*agentapi.ExternalSecret {
	var out []*agentapi.ExternalSecret
	s.Each(mesh.TypeMeshExternalService, in, func(r resource.Resource) bool {
		spec, ok := r.Spec.(*mesh.MeshExternalService)
		if !ok {
			return true
		}
		m, err := spec.Material(secretsOf(s, in))
		if err != nil {
			return true
		}
		kri := resource.KRIOf(kind, r.Meta)
		if m.Authorities != nil {
			out = append(out, &agentapi.ExternalSecret{Name: envoy.AuthoritySecret(kri), Authorities: m.Authorities})
		}
		if m.Key != nil {
			out = append(out, &agentapi.ExternalSecret{Name: envoy.CertificateSecret(kri), Certificate: m.Certificate, Key: m.Key})
		}
		return true
	})
	return out
}

func secretsOf(s *catalog.Snapshot, in string) func(name string) ([]byte, bool) {
	return func(name string) ([]byte, bool) {
		r, _ := s.Get(resource.Key{Type: mesh.TypeSecret, Mesh: in, Name: name})
		spec, ok := r.Spec.(*mesh.Secret)
		if !ok {
			return nil, false
		}
		return spec.Data, true
	}
}

// refreshExternal sends the secrets of external services that are new for the agent. What it was sent is remembered as hashes.
func (ss *session) refreshExternal() []*agentapi.ZoneMessage {
	s := ss.s.cfg.Catalog.Snapshot()
	var all []*agentapi.ExternalSecret
	if isEgress(s, ss.key) {
		kind, _ := ss.s.cfg.Catalog.Kinds().ByName(mesh.TypeMeshExternalService)
		all = externalSecrets(s, kind, ss.key.Mesh)
	}
	now := make(map[string][sha256.Size]byte, len(all))
	var changed []*agentapi.ExternalSecret
	for _, x := range all {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(x)
		if err != nil {
			continue // strings of the protocol are names of ours
		}
		now[x.GetName()] = sha256.Sum256(b)
		if old, ok := ss.external[x.GetName()]; !ok || old != now[x.GetName()] {
			changed = append(changed, x)
		}
	}
	gone := false
	for name := range ss.external {
		_, still := now[name]
		gone = gone || !still
	}
	// An agent that comes back may hold what is gone meanwhile.
	complete := gone || ss.external == nil && len(all) > 0
	ss.external = now
	if complete {
		changed = all
	}
	return inMessages(changed, complete)
}

// inMessages splits secrets into messages of bounded size.
func inMessages(list []*agentapi.ExternalSecret, complete bool) []*agentapi.ZoneMessage {
	if len(list) == 0 && !complete {
		return nil
	}
	next := &agentapi.ExternalSecrets{Complete: complete}
	out, size := []*agentapi.ZoneMessage{{Message: &agentapi.ZoneMessage_External{External: next}}}, 0
	for _, x := range list {
		if size += proto.Size(x); size > maxSecrets && len(next.GetSecrets()) > 0 {
			next, size = &agentapi.ExternalSecrets{}, proto.Size(x)
			out = append(out, &agentapi.ZoneMessage{Message: &agentapi.ZoneMessage_External{External: next}})
		}
		next.Secrets = append(next.Secrets, x)
	}
	return out
}

// pokeEgresses wakes the sessions of a mesh whose proxies are egresses.
func (s *Service) pokeEgresses(snapshot *catalog.Snapshot, in string) {
	for _, ss := range s.registry.sessions(in) {
		if isEgress(snapshot, ss.key) {
			ss.poke()
		}
	}
}
