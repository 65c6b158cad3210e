package derive

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
)

// Who makes the generated resources, as their kuma.io/managed-by label says.
const (
	ManagedByServiceGenerator  = "meshservice-generator"
	ManagedByWorkloadGenerator = "workload-generator"
)

// EnvUniversal is the environment of zones without Kubernetes.
const EnvUniversal = "universal"

type workloadKey struct{ mesh, name string }

// generate makes the workloads and services that dataplanes imply by their kuma.io/workload label, and takes those away
// that no dataplane has implied for the grace period. It only touches what it made itself.
// On Kubernetes services come from Services instead.
func (r *run) generate() {
	members := map[workloadKey][]*resource.Resource{}
	dataplanes := r.byType[mesh.TypeDataplane]
	for i := range dataplanes {
		dp := &dataplanes[i]
		name := dp.Label(resource.LabelWorkload)
		if _, ok := dp.Spec.(*mesh.Dataplane); !ok || name == "" || !r.local(dp.Meta) || !r.meshExists(dp.Mesh) {
			continue
		}
		if len(validation.IsDNS1035Label(name)) > 0 {
			r.problem(dp.Key(), "label "+resource.LabelWorkload+" is not a valid name")
			continue
		}
		k := workloadKey{dp.Mesh, name}
		members[k] = append(members[k], dp)
	}
	offers := map[workloadKey]bool{}
	for _, k := range slices.SortedFunc(maps.Keys(members), compareWorkloads) {
		offers[k] = r.generateOne(k, members[k])
	}
	r.include()
	r.retire(mesh.TypeWorkload, ManagedByWorkloadGenerator, func(k workloadKey) bool { return len(members[k]) > 0 })
	r.retire(mesh.TypeMeshService, ManagedByServiceGenerator, func(k workloadKey) bool { return offers[k] })
}

// meshExists guards against making something in a mesh that has just been deleted with all it held.
func (r *run) meshExists(name string) bool {
	k := resource.Key{Type: mesh.TypeMesh, Name: name}
	_, ok := r.Resources[k]
	return ok || r.Aside[k]
}

func compareWorkloads(a, b workloadKey) int {
	return cmp.Or(strings.Compare(a.mesh, b.mesh), strings.Compare(a.name, b.name))
}

// generateOne says whether the dataplanes offer a service.
func (r *run) generateOne(k workloadKey, members []*resource.Resource) bool {
	r.write(mesh.TypeWorkload, k, ManagedByWorkloadGenerator, nil, func(any) any { return &mesh.Workload{} })
	members = slices.DeleteFunc(slices.Clone(members), func(dp *resource.Resource) bool { return mesh.OnKubernetes(dp.Meta) })
	ports, disputes := servicePorts(members)
	if len(ports) == 0 {
		return false // a client or gateway offers nothing
	}
	had, common := r.dataplaneLabels(k), commonLabels(members)
	label := func(labels map[string]string) { r.generated(k).DataplaneLabels = propagate(labels, had, common) }
	made := r.write(mesh.TypeMeshService, k, ManagedByServiceGenerator, label, func(old any) any {
		s := &mesh.MeshService{}
		if o, ok := old.(*mesh.MeshService); ok {
			*s = *o // fields that are not ours stay
		}
		s.Selector = mesh.DataplaneSelector{DataplaneLabels: &mesh.LabelSelector{MatchLabels: map[string]string{resource.LabelWorkload: k.name}}}
		s.Ports = ports
		return s
	})
	if made && len(disputes) > 0 {
		r.generated(k).Conditions = []mesh.Condition{{
			Type: mesh.ConditionPortsUnique, Status: mesh.False, Reason: mesh.ReasonPortConflict, Message: strings.Join(disputes, "; "),
		}}
	}
	return true
}

// generated is where generation notes things about a service, to be taken into its status.
func (r *run) generated(k workloadKey) *mesh.MeshServiceStatus {
	key := resource.Key{Type: mesh.TypeMeshService, Mesh: k.mesh, Name: k.name}
	st, ok := r.out.Statuses[key].(*mesh.MeshServiceStatus)
	if !ok {
		st = &mesh.MeshServiceStatus{}
		r.out.Statuses[key] = st
	}
	return st
}

// dataplaneLabels are the keys of the labels that a generated service has from its dataplanes so far.
func (r *run) dataplaneLabels(k workloadKey) []string {
	st, ok := r.Inputs.Statuses[resource.Key{Type: mesh.TypeMeshService, Mesh: k.mesh, Name: k.name}].(*mesh.MeshServiceStatus)
	if !ok {
		return nil
	}
	return st.DataplaneLabels
}

// commonLabels are those that users gave to all dataplanes alike.
func commonLabels(members []*resource.Resource) map[string]string {
	out := map[string]string{}
	for i, dp := range members {
		if i == 0 {
			maps.Copy(out, dp.Labels)
		}
		maps.DeleteFunc(out, func(key, value string) bool { return dp.Labels[key] != value || ofSystem(key) })
	}
	return out
}

// ofSystem says that a label is given meaning by control planes or by Kubernetes.
func ofSystem(key string) bool {
	domain, _, ok := strings.Cut(key, "/")
	return ok && slices.ContainsFunc([]string{"kuma.io", "causeway.io", "kubernetes.io", "k8s.io"}, func(d string) bool {
		return domain == d || strings.HasSuffix(domain, "."+d)
	})
}

// propagate gives labels of dataplanes to their service and takes away those that it had from them. A label that somebody gave
// to the service itself stays. It returns the keys that come from dataplanes.
func propagate(labels map[string]string, had []string, common map[string]string) []string {
	var keys []string
	for _, key := range had {
		delete(labels, key)
	}
	for _, key := range slices.Sorted(maps.Keys(common)) {
		if _, own := labels[key]; !own {
			labels[key] = common[key]
			keys = append(keys, key)
		}
	}
	return keys
}

// write makes a generated resource equal to what it should be; label edits its labels, if given. It is false when somebody
// else's resource has the name.
func (r *run) write(typ string, k workloadKey, by string, label func(map[string]string), spec func(old any) any) bool {
	key := resource.Key{Type: typ, Mesh: k.mesh, Name: k.name}
	if r.Aside[key] {
		return false
	}
	old, exists := r.Resources[key]
	if exists && old.Label(resource.LabelManagedBy) != by {
		return false
	}
	meta := old.Meta
	meta.Type, meta.Mesh, meta.Name = typ, k.mesh, k.name
	meta.Labels = maps.Clone(old.Labels)
	if label != nil {
		if meta.Labels == nil {
			meta.Labels = map[string]string{}
		}
		label(meta.Labels)
	}
	meta.Labels = stamp(meta, r.Zone, r.Env)
	meta.Labels[resource.LabelManagedBy] = by
	meta.Labels[resource.LabelWorkload] = k.name
	want := spec(old.Spec)
	if exists && maps.Equal(old.Labels, meta.Labels) && reflect.DeepEqual(old.Spec, want) {
		return true
	}
	res, err := resource.WithSpec(meta, want)
	if err != nil {
		r.problem(key, err.Error())
		return false
	}
	r.out.Put = append(r.out.Put, res)
	return true
}

// include lets the rest of the computation see generated resources as they will be.
func (r *run) include() {
	for _, res := range r.out.Put {
		list := r.byType[res.Type]
		i, found := slices.BinarySearchFunc(list, res.Key(), func(have resource.Resource, k resource.Key) int { return have.Key().Compare(k) })
		if found {
			list[i] = res
		}
	}
	for _, res := range r.out.Put {
		if _, exists := r.Resources[res.Key()]; !exists {
			r.byType[res.Type] = append(r.byType[res.Type], res)
		}
	}
	for _, typ := range []string{mesh.TypeWorkload, mesh.TypeMeshService} {
		slices.SortFunc(r.byType[typ], func(a, b resource.Resource) int { return a.Key().Compare(b.Key()) })
	}
}

// retire notes since when generated resources are unused, and deletes those whose grace period is over.
func (r *run) retire(typ, by string, used func(workloadKey) bool) {
	var left []resource.Resource
	for _, res := range r.byType[typ] {
		k := workloadKey{res.Mesh, res.Name}
		if res.Label(resource.LabelManagedBy) != by || !r.local(res.Meta) || used(k) {
			left = append(left, res)
			continue
		}
		since := r.unusedSince(res.Key())
		if due := since.Add(r.Grace); r.Now.Before(due) {
			r.due(due)
			left = append(left, res)
			r.noteUnused(res.Key(), since)
			continue
		}
		r.out.Delete = append(r.out.Delete, res)
	}
	r.byType[typ] = left
}

func (r *run) unusedSince(k resource.Key) time.Time {
	var since time.Time
	switch st := r.Inputs.Statuses[k].(type) {
	case *mesh.MeshServiceStatus:
		since = st.UnusedSince
	case *mesh.WorkloadStatus:
		since = st.UnusedSince
	}
	// A time in the future is another clock's: the grace period starts now.
	if since.IsZero() || since.After(r.Now) {
		return r.Now.UTC().Truncate(time.Second)
	}
	return since
}

func (r *run) noteUnused(k resource.Key, since time.Time) {
	if k.Type == mesh.TypeWorkload {
		r.out.Statuses[k] = &mesh.WorkloadStatus{UnusedSince: since}
		return
	}
	st := r.generated(workloadKey{k.Mesh, k.Name})
	st.UnusedSince, st.DataplaneLabels = since, r.dataplaneLabels(workloadKey{k.Mesh, k.Name})
}

// A portJoin makes the ports of a service from the inbounds of its dataplanes, which come in order of their names.
// Of several that disagree about a port the first wins; a name that another port has is dropped rather than the port.
type portJoin struct {
	byNumber map[uint32]joinedPort
	names    map[string]uint32
	disputes []string
}

type joinedPort struct {
	port     mesh.Port
	declared string // the name it came with
	by       string
}

func servicePorts(members []*resource.Resource) (ports []mesh.Port, disputes []string) {
	j := portJoin{byNumber: map[uint32]joinedPort{}, names: map[string]uint32{}}
	for _, dp := range members {
		for _, in := range dp.Spec.(*mesh.Dataplane).ExposedInbounds() {
			j.add(dp.DisplayName(), in)
		}
	}
	for _, number := range slices.Sorted(maps.Keys(j.byNumber)) {
		ports = append(ports, j.byNumber[number].port)
	}
	return ports, j.disputes
}

func (j *portJoin) add(dataplane string, in mesh.Inbound) {
	p := mesh.Port{Name: in.Name, Port: in.Port, TargetPort: mesh.PortRef{Number: in.Port}, AppProtocol: in.ProtocolOrTCP()}
	if first, ok := j.byNumber[p.Port]; ok {
		if first.declared != in.Name {
			j.dispute(p.Port, "%s calls it %q, %s calls it %q", dataplane, in.Name, first.by, first.declared)
		}
		if first.port.AppProtocol != p.AppProtocol {
			j.dispute(p.Port, "%s speaks %s, %s speaks %s", dataplane, p.AppProtocol, first.by, first.port.AppProtocol)
		}
		return
	}
	if other, dup := j.names[p.SectionName()]; dup && p.Name != "" {
		j.dispute(p.Port, "its name %q at %s is that of port %d", p.Name, dataplane, other)
		p.Name = ""
	}
	if other, dup := j.names[p.SectionName()]; dup {
		j.dispute(p.Port, "its number is the name of port %d, so it is left out", other)
		return
	}
	j.byNumber[p.Port], j.names[p.SectionName()] = joinedPort{p, in.Name, dataplane}, p.Port
}

// maxDisputes bounds the message: one wrong dataplane explains a thousand like it.
const maxDisputes = 5

func (j *portJoin) dispute(port uint32, format string, args ...any) {
	switch len(j.disputes) {
	case maxDisputes:
		j.disputes = append(j.disputes, "and more")
	case maxDisputes + 1:
	default:
		j.disputes = append(j.disputes, fmt.Sprintf("port %d: ", port)+fmt.Sprintf(format, args...))
	}
}
