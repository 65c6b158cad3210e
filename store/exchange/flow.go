package exchange

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/role"
	"github.com/causeway-mesh/causeway/api/token"
	"github.com/causeway-mesh/causeway/api/zonesync"
)

// A flow is one object on its way: where it belongs, who owns it and what is sent.
type flow struct {
	scope  string
	id     string
	zone   string // its owner; empty: global
	mesh   string // of a Mesh, its name: only who serves it gets it
	kind   resource.Kind
	meta   resource.Meta // with the labels that are sent
	name   string        // that its owner gave
	raw    []byte
	kindOf string // as sent, where it differs from the kind: that of statements
}

// statementKind is what statements are called in Object.kind.
const statementKind = StatementOfService

// StatementOfService is the type of derived records that hold what the control plane of its zone says of a MeshService.
const StatementOfService = "owner/" + mesh.TypeMeshService

// statementType is the type of the derived records that hold what the owners of MeshServices say of them.
const statementType = "owner/" + mesh.TypeMeshService

const disabled = "disabled"

// The names of secrets that concern one control plane alone, by their beginnings: keys of users, of zones and of the links between them.
var ownGlobalSecrets = []string{
	"admin-user-token", "user-token-", "zone-token-", "zone-join-", "zone-control-ca", "zone-members", "zone-revocations", "agent-control-ca", "uplink-",
	"envoy-admin-ca", "inter-cp-ca",
}

// The ends of names under which a zone keeps the authority of a MeshIdentity.
var authoritySecrets = []string{"-root-ca", "-private-key", "-private-key-next"}

func privateKeyPrefix(mesh string) string {
	return strings.TrimSuffix(token.DataplaneSigningKey(mesh, 1).Name, "1")
}

// publicKeyName is the name under which the public half of a signing key travels.
func publicKeyName(mesh, private string) string {
	serial, _ := strings.CutPrefix(private, privateKeyPrefix(mesh))
	return strings.TrimSuffix(token.DataplanePublicKey(mesh, 1).Name, "1") + serial
}

// staysHere says that a Secret or GlobalSecret never leaves the control plane that has it, whatever else is true.
func staysHere(typ, meshName, name string) bool {
	switch typ {
	case mesh.TypeGlobalSecret:
		for _, prefix := range ownGlobalSecrets {
			if strings.HasPrefix(name, prefix) {
				return true
			}
		}
	case mesh.TypeSecret:
		return strings.HasPrefix(name, privateKeyPrefix(meshName))
	}
	return false
}

// authorityOf is the identity whose authority a Secret holds, by its name.
func authorityOf(name string) (identity string, ok bool) {
	for _, suffix := range authoritySecrets {
		if identity, ok = strings.CutSuffix(name, suffix); ok && identity != "" {
			return identity, true
		}
	}
	return "", false
}

// refersTo says that an identity takes its authority from a Secret, so that zones need it.
func refersTo(identity resource.Resource, secret string) bool {
	spec, ok := identity.Spec.(*mesh.MeshIdentity)
	if !ok || spec.Provider == nil || spec.Provider.Bundled == nil || spec.Provider.Bundled.CA == nil {
		return false
	}
	ca := spec.Provider.Bundled.CA
	for _, source := range []*mesh.SecureDataSource{ca.Certificate, ca.PrivateKey} {
		if source != nil && source.SecretRef != nil && source.SecretRef.Name == secret {
			return true
		}
	}
	return false
}

// travels says whether objects of a kind leave their control plane at all.
func travels(k resource.Kind) bool {
	return k.Short != "" && k.Flow&resource.Internal == 0 && k.Name != mesh.TypeZone
}

// fromGlobal says what of a global's resource goes to zones: what was written here goes to all of them, what another zone owns to the others.
// Named says that an identity of its mesh refers to a Secret by name.
func fromGlobal(k resource.Kind, r resource.Resource, named bool) (flow, bool) {
	zone := r.Zone()
	owned := r.Label(resource.LabelOrigin) == resource.OriginZone
	switch {
	case !travels(k) || r.Label(resource.LabelKDSSync) == disabled || owned != (zone != ""):
		return flow{}, false
	case owned:
		if !crosses(k, r.Meta) {
			return flow{}, false
		}
		return flowOf(k, r), true
	case k.Flow&resource.FromGlobal == 0:
		return flow{}, false
	case k.Name == mesh.TypeSecret && strings.HasPrefix(r.Name, privateKeyPrefix(r.Mesh)):
		return publicHalf(k, r)
	case staysHere(k.Name, r.Mesh, r.Name):
		return flow{}, false
	}
	if _, ca := authorityOf(r.Name); ca && k.Name == mesh.TypeSecret && !named {
		return flow{}, false
	}
	return flowOf(k, r), true
}

// crosses says that what a zone owns goes to the other zones.
func crosses(k resource.Kind, m resource.Meta) bool {
	return k.Flow&resource.AcrossZones != 0 && (k.Policy == nil || m.Label(resource.LabelPolicyRole) == role.Producer)
}

// identity is what a resource is called on its way, by its labels alone; ok is false when it never travels, whatever else it holds.
// Zone is this zone, empty at global.
func identity(k resource.Kind, m resource.Meta, zone string) (id, owner string, ok bool) {
	owned := m.Label(resource.LabelOrigin) == resource.OriginZone
	switch {
	case !travels(k) || owned != (m.Zone() != ""):
		return "", "", false
	case zone != "":
		return resource.KRIOf(k, m).String(), m.Zone(), zoneMayWrite(k) && owned && m.Zone() == zone
	case owned:
		return resource.KRIOf(k, m).String(), m.Zone(), k.Flow&resource.AcrossZones != 0
	case k.Name == mesh.TypeSecret && strings.HasPrefix(m.Name, privateKeyPrefix(m.Mesh)):
		m.Name, m.Labels = publicKeyName(m.Mesh, m.Name), nil
	case staysHere(k.Name, m.Mesh, m.Name):
		return "", "", false
	}
	return resource.KRIOf(k, m).String(), "", k.Flow&resource.FromGlobal != 0
}

// fromZone says what of a zone's resource goes to global: what the zone itself owns, and no secrets.
func fromZone(k resource.Kind, r resource.Resource, zone string) (flow, bool) {
	if !travels(k) || !zoneMayWrite(k) || r.Label(resource.LabelKDSSync) == disabled ||
		r.Label(resource.LabelOrigin) != resource.OriginZone || r.Zone() != zone {
		return flow{}, false
	}
	return flowOf(k, r), true
}

// zoneMayWrite says that global takes objects of a kind from zones.
func zoneMayWrite(k resource.Kind) bool { return k.Flow&resource.FromZone != 0 && !k.AdminOnly }

// publicHalf replaces a private signing key by what is needed to check its signatures. A key that cannot be read stays here.
func publicHalf(k resource.Kind, r resource.Resource) (flow, bool) {
	var spec struct {
		Data []byte `json:"data"`
	}
	if json.Unmarshal(r.Raw, &spec) != nil {
		return flow{}, false
	}
	public, err := token.PublicKey(spec.Data)
	if err != nil {
		return flow{}, false
	}
	r.Name = publicKeyName(r.Mesh, r.Name)
	r.Labels = maps.Clone(r.Labels)
	delete(r.Labels, resource.LabelDisplayName)
	r.Raw = []byte(`{"data":"` + base64.StdEncoding.EncodeToString(public) + `"}`)
	return flowOf(k, r), true
}

func flowOf(k resource.Kind, r resource.Resource) flow {
	r.Labels = sentLabels(r.Meta)
	f := flow{scope: zonesync.ScopeOf(r.Mesh), id: resource.KRIOf(k, r.Meta).String(), zone: r.Zone(), kind: k, meta: r.Meta, name: r.DisplayName(), raw: r.Raw}
	if len(f.raw) == 0 {
		f.raw = []byte("{}")
	}
	if k.Name == mesh.TypeMesh {
		f.mesh = r.Name
	}
	return f
}

// sentLabels are those of the owner and the name it gave, without what only concerns its own control plane.
func sentLabels(m resource.Meta) map[string]string {
	out := make(map[string]string, len(m.Labels)+1)
	maps.Copy(out, m.Labels)
	out[resource.LabelDisplayName] = m.DisplayName()
	delete(out, resource.LabelGraceStarted)
	return out
}

// statementOf picks from the status of a MeshService what its zone tells global, or global the other zones; nothing when nothing is known.
// Global shows where the zone finds the service; other zones find it at names and addresses of their own.
func statementOf(status []byte, toGlobal bool) ([]byte, bool) {
	var st mesh.MeshServiceStatus
	if json.Unmarshal(status, &st) != nil {
		return nil, false
	}
	said := mesh.MeshServiceStatus{State: st.State, Identities: st.Identities, TLS: st.TLS}
	if toGlobal {
		said.VIPs, said.Addresses, said.HostnameGenerators = st.VIPs, st.Addresses, st.HostnameGenerators
	}
	if said.State == "" && len(said.Identities) == 0 && said.TLS.Status == "" && len(said.VIPs)+len(said.Addresses)+len(said.HostnameGenerators) == 0 {
		return nil, false
	}
	b, err := json.Marshal(said)
	return b, err == nil
}

// about is the flow of a statement beside that of its service.
func (f flow) about(statement []byte) flow {
	return flow{
		scope: f.scope, id: zonesync.StatementID(f.id), zone: f.zone, kind: f.kind, name: f.name, raw: statement, kindOf: statementKind,
		meta: resource.Meta{Type: f.meta.Type, Mesh: f.meta.Mesh, Name: f.meta.Name},
	}
}

func (f flow) hash() [sha256.Size]byte {
	return zonesync.ContentHash(f.meta.Labels, resource.LabelOrigin, f.raw)
}

// item encodes what flows. Requires says what a peer must understand; a statement has no UID, its identity is that of its service.
func (f flow) item(requires []string) (*zonesync.Item, error) {
	hash := f.hash()
	o := &zonesync.Object{
		Id: f.id, Uid: f.meta.UID, Kind: f.kind.Name, Mesh: f.meta.Mesh, Name: f.name, Version: f.meta.Version, Revision: f.meta.Revision,
		OriginZone: f.zone, Labels: f.meta.Labels, Requires: requires, Hash: hash[:], Spec: f.raw,
	}
	if f.kindOf != "" {
		o.Kind = f.kindOf
	}
	if !f.meta.Created.IsZero() {
		o.CreatedMs, o.ModifiedMs = f.meta.Created.UnixMilli(), f.meta.Modified.UnixMilli()
	}
	it, err := zonesync.NewItem(o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.id, err)
	}
	return it, nil
}
