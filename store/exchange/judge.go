package exchange

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/role"
	"github.com/causeway-mesh/causeway/api/zonesync"
	"github.com/causeway-mesh/causeway/store"
)

// Why an object is set aside, for programs.
const (
	codeTooBig       = "too-big"
	codeCorrupt      = "corrupt"
	codeFeature      = "needs-feature"
	codeUnknownKind  = "unknown-kind"
	codeInvalid      = "invalid"
	codePanic        = "panic"
	codeNotAllowed   = "not-allowed"
	codeForeignZone  = "foreign-zone"
	codeForeignTrust = "foreign-trust-domain"
	codeLocalAddress = "local-address"
	codeNameTaken    = "name-taken"
	codeNoService    = "no-service"
	codeUnreadable   = "unreadable"
)

const (
	// maxKept is the largest encoded object that is kept while it is set aside.
	maxKept      = resource.MaxObject + 64<<10
	maxStatement = 256 << 10
	// maxQuarantined bounds what is remembered of objects that panic.
	maxQuarantined = 10_000
)

// Bounds limit what a zone may claim.
type Bounds struct {
	// AllowLocalAddresses lets zones publish ingress addresses that mean something else on every host, for demos on one machine.
	AllowLocalAddresses bool
	// Allowed refuses a resource of a zone in a mesh; nil means DefaultAllowed.
	Allowed func(mesh, zone string, r resource.Resource) error
}

// DefaultAllowed is what zones may claim when nothing else is said. HostnameGenerators of a zone act in that zone alone, and which zones'
// services a MeshMultiZoneService joins is for its selector to say; a policy for the clients in other zones must speak of the zone's own
// services alone, whatever its control plane checked.
func DefaultAllowed(_, _ string, r resource.Resource) error {
	if r.Label(resource.LabelPolicyRole) == role.Producer {
		return role.CheckProducer(r).Err()
	}
	return nil
}

// A rejection is why an object is set aside.
type rejection struct {
	code   string
	retry  zonesync.Rejected_Retry
	reason string
}

func reject(code string, retry zonesync.Rejected_Retry, format string, args ...any) *rejection {
	return &rejection{code: code, retry: retry, reason: fmt.Sprintf(format, args...)}
}

func (p *plan) now() time.Time { return p.sink.cfg.Now().UTC() }

// decode reads an object again that is set aside; false when it was not kept.
func (a *aside) decode() (*object, bool) {
	o := &zonesync.Object{}
	if len(a.Object) == 0 || proto.Unmarshal(a.Object, o) != nil {
		return nil, false
	}
	return &object{Object: o, encoded: a.Object}, true
}

// judge says what an object is stored as, or why it is set aside.
func (p *plan) judge(o *object) (resource.Resource, *rejection) {
	var none resource.Resource
	if bad := p.whole(o); bad != nil {
		return none, bad
	}
	kind, known := p.sink.cfg.Kinds.ByName(o.GetKind())
	if !known {
		return none, reject(codeUnknownKind, zonesync.Rejected_ON_UPGRADE, "kind %s is not known here", resource.Quote(o.GetKind()))
	}
	if bad := p.wellFormed(kind, o); bad != nil {
		return none, bad
	}
	if bad := p.allowed(kind, o); bad != nil {
		return none, bad
	}
	r := resource.Resource{Raw: o.GetSpec(), Meta: resource.Meta{Type: kind.Name, Mesh: o.GetMesh(), UID: o.GetUid(), Labels: maps.Clone(o.GetLabels())}}
	if r.Labels == nil {
		r.Labels = map[string]string{}
	}
	r.Labels[resource.LabelOrigin] = resource.OriginGlobal
	if p.sink.cfg.Zone == "" {
		r.Labels[resource.LabelOrigin] = resource.OriginZone
	}
	r.Name = storedName(kind.Name, o.GetMesh(), o.GetName(), r.Zone(), r.Namespace())
	if bad := p.readable(kind, &r, o.GetHash()); bad != nil {
		return none, bad
	}
	if bad := storable(r); bad != nil {
		return none, bad
	}
	if p.sink.cfg.Zone == "" {
		if bad := p.withinBounds(r); bad != nil {
			return none, bad
		}
	}
	return r, nil
}

// whole checks what holds for every object, of whatever kind.
func (p *plan) whole(o *object) *rejection {
	if len(o.GetSpec()) > resource.MaxObject || len(o.encoded) > maxKept {
		return reject(codeTooBig, zonesync.Rejected_PERMANENT, "it has %d bytes, at most %d are taken", len(o.encoded), resource.MaxObject)
	}
	if sum := zonesync.ContentHash(o.GetLabels(), resource.LabelOrigin, o.GetSpec()); !bytes.Equal(sum[:], o.GetHash()) {
		return reject(codeCorrupt, zonesync.Rejected_PERMANENT, "its content is not what its hash says")
	}
	var missing []string
	for _, f := range o.GetRequires() {
		if !slices.Contains(p.sink.cfg.Features, f) {
			missing = append(missing, f)
		}
	}
	if len(missing) > 0 {
		return reject(codeFeature, zonesync.Rejected_NEEDS_FEATURE, "it needs %s, which this version lacks", strings.Join(missing, ", "))
	}
	return nil
}

// wellFormed checks that an object says the same of itself everywhere.
func (p *plan) wellFormed(kind resource.Kind, o *object) *rejection {
	corrupt := func(format string, args ...any) *rejection {
		return reject(codeCorrupt, zonesync.Rejected_PERMANENT, format, args...)
	}
	m := resource.Meta{Type: kind.Name, Mesh: o.GetMesh(), Name: o.GetName(), Labels: o.GetLabels()}
	id := resource.KRIOf(kind, m)
	_, err := resource.ParseKRI(o.GetId())
	switch {
	case len(o.GetSpec()) == 0 || o.GetUid() == "" || len(o.GetUid()) > 128:
		return corrupt("it lacks a spec or a UID")
	case m.Label(resource.LabelDisplayName) != o.GetName() || id.String() != o.GetId() || err != nil || kind.Short == "":
		return corrupt("its id %s is not that of %s", resource.Quote(o.GetId()), resource.Quote(id.String()))
	case o.GetMesh() != p.mesh || (kind.Scope == resource.ScopeMesh) != (p.mesh != ""):
		return corrupt("it does not belong to scope %s", p.scope)
	case o.GetOriginZone() != m.Zone():
		return reject(codeForeignZone, zonesync.Rejected_PERMANENT, "it is of zone %s and labelled as of zone %s", resource.Quote(o.GetOriginZone()), resource.Quote(m.Zone()))
	}
	ps := resource.CheckLabels("labels", o.GetLabels())
	ps.Append(resource.CheckName("name", kind.Names, o.GetName()))
	if len(ps) > 0 {
		return reject(codeInvalid, zonesync.Rejected_ON_UPGRADE, "%s", ps.Error())
	}
	return nil
}

// allowed checks that the peer may send such an object at all.
func (p *plan) allowed(kind resource.Kind, o *object) *rejection {
	denied := func(format string, args ...any) *rejection {
		return reject(codeNotAllowed, zonesync.Rejected_PERMANENT, format, args...)
	}
	if !travels(kind) {
		return denied("objects of kind %s do not travel", kind.Name)
	}
	if zone := p.sink.cfg.From.Zone; zone != "" {
		switch {
		case !zoneMayWrite(kind):
			return denied("a zone may not write objects of kind %s", kind.Name)
		case o.GetOriginZone() != zone:
			return reject(codeForeignZone, zonesync.Rejected_PERMANENT, "it is of zone %s, and zone %s sent it", resource.Quote(o.GetOriginZone()), zone)
		}
		return nil
	}
	switch from := o.GetOriginZone(); {
	case from == p.sink.cfg.Zone:
		return reject(codeForeignZone, zonesync.Rejected_PERMANENT, "it is this zone's own")
	case from != "" && kind.Flow&resource.AcrossZones == 0:
		return denied("objects of kind %s do not go from zone to zone", kind.Name)
	case from == "" && kind.Flow&resource.FromGlobal == 0:
		return denied("global may not write objects of kind %s", kind.Name)
	case staysHere(kind.Name, o.GetMesh(), o.GetName()):
		return denied("this secret is each control plane's own")
	}
	return nil
}

// readable decodes and validates the spec. A panic concerns this object alone, and it is not tried again by this process.
func (p *plan) readable(kind resource.Kind, r *resource.Resource, hash []byte) (bad *rejection) {
	s := p.sink
	if how, ok := s.quarantined[string(hash)]; ok {
		return reject(codePanic, zonesync.Rejected_ON_UPGRADE, "%s", how)
	}
	defer func() {
		if cause := recover(); cause != nil {
			how := fmt.Sprintf("reading it panics: %v", cause)
			if len(s.quarantined) < maxQuarantined {
				s.quarantined[string(hash)] = how
			}
			s.cfg.Log.Error("reading an object of the peer panics", "key", r.Key().String(), "cause", cause)
			bad = reject(codePanic, zonesync.Rejected_ON_UPGRADE, "%s", how)
		}
	}()
	spec, err := kind.DecodeSpec(r.Raw)
	if err != nil {
		return reject(codeInvalid, zonesync.Rejected_ON_UPGRADE, "%v", err)
	}
	r.Spec = spec
	// What limits access is taken whole or not at all: without a part it may open what it closed.
	if kind.Policy != nil && kind.Policy.Restricts {
		switch unknown, err := kind.UnknownFields(r.Raw); {
		case err != nil:
			return reject(codeInvalid, zonesync.Rejected_ON_UPGRADE, "%v", err)
		case len(unknown) > 0:
			return reject(codeFeature, zonesync.Rejected_ON_UPGRADE, "%s is not known here, and a policy that limits access is not taken in part", unknown[0].Field)
		}
	}
	if kind.Validate != nil {
		if ps := kind.Validate(*r); len(ps) > 0 {
			return reject(codeInvalid, zonesync.Rejected_ON_UPGRADE, "%s", ps.Error())
		}
	}
	return nil
}

// storable checks what the store would refuse a whole batch for.
func storable(r resource.Resource) *rejection {
	o := store.Object{Key: store.Key{Type: r.Type, Mesh: r.Mesh, Name: r.Name}, UID: r.UID, Labels: r.Labels, Data: r.Raw}
	b := store.Batch{ID: store.BatchID{1}, Ops: []store.Op{{Object: o, Expect: store.ExpectAny}}}
	if err := b.Validate(); err != nil {
		return reject(codeInvalid, zonesync.Rejected_PERMANENT, "%v", err)
	}
	return nil
}

// withinBounds checks at global what a zone claims.
func (p *plan) withinBounds(r resource.Resource) (bad *rejection) {
	s, zone := p.sink, p.sink.cfg.From.Zone
	if a, ok := r.Spec.(*mesh.MeshZoneAddress); ok && !s.cfg.Bounds.AllowLocalAddresses && isLocal(a) {
		return reject(codeLocalAddress, zonesync.Rejected_PERMANENT, "%s is an address that means something else on every host", resource.Quote(a.Address))
	}
	if t, ok := r.Spec.(*mesh.MeshTrust); ok {
		if bad := p.ownsDomain(t.TrustDomain); bad != nil {
			return bad
		}
	}
	if err := s.cfg.Bounds.Allowed(r.Mesh, zone, r); err != nil {
		return reject(codeNotAllowed, zonesync.Rejected_PERMANENT, "%v", err)
	}
	return nil
}

// isLocal says that an ingress address leads every host that uses it to itself, its link or nowhere.
func isLocal(a *mesh.MeshZoneAddress) bool {
	if a.IsLocal() {
		return true
	}
	if ip, err := netip.ParseAddr(a.Address); err == nil {
		ip = ip.Unmap()
		return ip.IsUnspecified() || ip.IsMulticast() || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255})
	}
	// Resolvers read 127.1 and 0x7f000001 as addresses, too.
	labels := strings.Split(strings.TrimSuffix(a.Address, "."), ".")
	last := labels[len(labels)-1]
	return last == "" || last[0] >= '0' && last[0] <= '9' || strings.EqualFold(last, "localhost")
}

// ownsDomain says whether the zone may name authorities of a trust domain. The first who does owns it, except for domains of the
// form that identities have by default: those belong to the zone that they name.
func (p *plan) ownsDomain(domain string) *rejection {
	zone := p.sink.cfg.From.Zone
	foreign := func(owner string) *rejection {
		return reject(codeForeignTrust, zonesync.Rejected_PERMANENT, "trust domain %s belongs to %s", resource.Quote(domain), owner)
	}
	key := trustKey(domain)
	if data, ok := p.snap.Derived(key.Type, key.Mesh, key.Name); ok {
		var c claim
		switch {
		case !decode(data, &c):
			return foreign("nobody knows whom")
		case c.Zone == "":
			return foreign("global")
		case c.Zone != zone:
			return foreign("zone " + c.Zone)
		}
		return nil
	}
	if owner, ok := defaultOwner(domain); ok {
		if owner != zone {
			return foreign("zone " + owner)
		}
	} else if p.globalDomains()[domain] {
		return foreign("global")
	}
	return nil
}

// defaultOwner is the zone that a domain of the form <mesh>.<zone>.mesh.local names.
func defaultOwner(domain string) (string, bool) {
	rest, ok := strings.CutSuffix(strings.TrimSuffix(domain, "."), ".mesh.local")
	_, zone, two := strings.Cut(rest, ".")
	return zone, ok && two && zone != "" && !strings.Contains(zone, ".")
}

// globalDomains are the trust domains for which a MeshTrust was written at global.
func (p *plan) globalDomains() map[string]bool {
	if p.domains == nil {
		p.domains = map[string]bool{}
		p.snap.Each(mesh.TypeMeshTrust, "", func(r resource.Resource) bool {
			if t, ok := r.Spec.(*mesh.MeshTrust); ok && r.Label(resource.LabelOrigin) != resource.OriginZone {
				p.domains[t.TrustDomain] = true
			}
			return true
		})
	}
	return p.domains
}

// judgeStatement says which stored service a statement is about, or why it is set aside.
func (p *plan) judgeStatement(o *object, id string) (resource.Key, *rejection) {
	var none resource.Key
	if bad := p.whole(o); bad != nil {
		return none, bad
	}
	kri, err := resource.ParseKRI(id)
	kind, known := p.sink.cfg.Kinds.ByName(mesh.TypeMeshService)
	switch {
	case !known || o.GetKind() != statementKind:
		return none, reject(codeUnknownKind, zonesync.Rejected_ON_UPGRADE, "statements of kind %s are not known here", resource.Quote(o.GetKind()))
	case err != nil || kri.Short != kind.Short || kri.Section != "" || kri.Mesh != p.mesh || p.mesh == "" || len(o.GetLabels()) > 0 || o.GetUid() != "":
		return none, reject(codeCorrupt, zonesync.Rejected_PERMANENT, "it is no statement about a %s of scope %s", kind.Name, p.scope)
	case len(o.GetSpec()) > maxStatement:
		return none, reject(codeTooBig, zonesync.Rejected_PERMANENT, "it has %d bytes, at most %d are taken", len(o.GetSpec()), maxStatement)
	case p.sink.cfg.From.Zone != "" && kri.Zone != p.sink.cfg.From.Zone, kri.Zone == "", kri.Zone == p.sink.cfg.Zone:
		return none, reject(codeForeignZone, zonesync.Rejected_PERMANENT, "only zone %s speaks of its services", resource.Quote(kri.Zone))
	}
	var st mesh.MeshServiceStatus
	if len(o.GetSpec()) == 0 || !decode(o.GetSpec(), &st) {
		return none, reject(codeInvalid, zonesync.Rejected_ON_UPGRADE, "it cannot be decoded")
	}
	key := storedKey(kind, kri)
	r, stored := p.snap.Get(key)
	stored = stored && p.sink.belongs(r.Labels) && resource.KRIOf(kind, r.Meta) == kri
	if _, goes := p.deletes[key]; !p.accepted[key] && (!stored || goes) {
		return none, reject(codeNoService, zonesync.Rejected_ON_UPGRADE, "its service is not here")
	}
	return key, nil
}
