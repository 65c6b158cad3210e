package mesh_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
)

func TestStateOfInbounds(t *testing.T) {
	cases := []struct {
		name string
		in   mesh.Inbound
		want mesh.InboundState
	}{
		{"nothing said", mesh.Inbound{}, mesh.StateReady},
		{"state wins over health", mesh.Inbound{State: mesh.StateReady, Health: &mesh.Health{}}, mesh.StateReady},
		{"health", mesh.Inbound{Health: &mesh.Health{Ready: false}}, mesh.StateNotReady},
		{"not probed yet", mesh.Inbound{ServiceProbe: &mesh.ServiceProbe{}}, mesh.StateNotReady},
		{"probed", mesh.Inbound{State: mesh.StateReady, ServiceProbe: &mesh.ServiceProbe{}}, mesh.StateReady},
		{"probed, older form", mesh.Inbound{Health: &mesh.Health{Ready: true}, ServiceProbe: &mesh.ServiceProbe{}}, mesh.StateReady},
		{"ignored", mesh.Inbound{State: mesh.StateIgnored}, mesh.StateIgnored},
	}
	for _, tc := range cases {
		if got := tc.in.StateOrReady(); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

func TestADataplaneAnswersForItsPorts(t *testing.T) {
	dp := mesh.Dataplane{Networking: mesh.Networking{
		Address: "10.0.0.1",
		Inbound: []mesh.Inbound{
			{Port: 80, Name: "main", ServicePort: 8080, ServiceAddress: "127.0.0.1"},
			{Port: 81, Address: "10.0.0.2", State: mesh.StateNotReady},
			{Port: 82, State: mesh.StateIgnored},
		},
		Listeners: []mesh.Listener{{Type: mesh.ZoneIngress, Port: 10001, State: mesh.StateNotReady}},
	}}
	n := &dp.Networking
	type facts struct {
		Section, Address, Workload string
		Port                       uint32
	}
	var got []facts
	for _, in := range n.Inbound {
		got = append(got, facts{in.SectionName(), n.InboundAddress(in), n.WorkloadAddress(in), in.ServicePortOrPort()})
	}
	want := []facts{
		{"main", "10.0.0.1", "127.0.0.1", 8080},
		{"81", "10.0.0.2", "10.0.0.2", 81},
		{"82", "10.0.0.1", "10.0.0.1", 82},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("inbounds (-want +got):\n%s", diff)
	}
	if r, e := len(dp.ReadyInbounds()), len(dp.ExposedInbounds()); r != 1 || e != 2 {
		t.Errorf("%d ready and %d exposed, want 1 and 2", r, e)
	}
	if !dp.IsReady() || dp.IsGateway() || dp.Transparent() || !dp.HasListener(mesh.ZoneIngress) || dp.HasListener(mesh.ZoneEgress) {
		t.Error("a question about the whole proxy has the wrong answer")
	}
	n.Inbound = n.Inbound[1:]
	if dp.IsReady() {
		t.Error("ready without a ready inbound or listener")
	}
}

func TestPortsFindTheirInbounds(t *testing.T) {
	in := mesh.Inbound{Port: 8080, Name: "main"}
	cases := []struct {
		port mesh.Port
		want bool
	}{
		{mesh.Port{Port: 8080}, true},
		{mesh.Port{Port: 80}, false},
		{mesh.Port{Port: 80, TargetPort: mesh.PortRef{Number: 8080}}, true},
		{mesh.Port{Port: 8080, TargetPort: mesh.PortRef{Number: 80}}, false},
		{mesh.Port{Port: 80, TargetPort: mesh.PortRef{Name: "main"}}, true},
		{mesh.Port{Port: 8080, TargetPort: mesh.PortRef{Name: "other"}}, false},
	}
	for _, tc := range cases {
		if got := tc.port.Selects(in); got != tc.want {
			t.Errorf("%+v: %v, want %v", tc.port, got, tc.want)
		}
	}
}

func TestServicesSelectTheirMembers(t *testing.T) {
	dp := resource.Meta{Type: mesh.TypeDataplane, Name: "web-1-hash", Labels: map[string]string{resource.LabelDisplayName: "web-1", "app": "web"}}
	labels := func(l map[string]string) mesh.DataplaneSelector {
		return mesh.DataplaneSelector{DataplaneLabels: &mesh.LabelSelector{MatchLabels: l}}
	}
	cases := []struct {
		name string
		s    mesh.DataplaneSelector
		want bool
	}{
		{"nothing", mesh.DataplaneSelector{}, false},
		{"no labels", labels(nil), false},
		{"label", labels(map[string]string{"app": "web"}), true},
		{"other value", labels(map[string]string{"app": "db"}), false},
		{"display name", mesh.DataplaneSelector{DataplaneRef: &mesh.DataplaneRef{Name: "web-1"}}, true},
		{"other name", mesh.DataplaneSelector{DataplaneRef: &mesh.DataplaneRef{Name: "web"}}, false},
	}
	for _, tc := range cases {
		if got := tc.s.Selects(dp); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestMultiZonePortsJoin(t *testing.T) {
	cases := []struct {
		port   mesh.MultiZonePort
		member mesh.Port
		want   bool
	}{
		{mesh.MultiZonePort{Port: 80}, mesh.Port{Port: 80, Name: "main"}, true},
		{mesh.MultiZonePort{Port: 80, Name: "main"}, mesh.Port{Port: 8080, Name: "main"}, true},
		{mesh.MultiZonePort{Port: 80, Name: "main"}, mesh.Port{Port: 80, Name: "admin"}, false},
		{mesh.MultiZonePort{Port: 80, Name: "main"}, mesh.Port{Port: 80}, true},
		{mesh.MultiZonePort{Port: 81}, mesh.Port{Port: 80}, false},
	}
	for _, tc := range cases {
		if got := tc.port.Joins(tc.member); got != tc.want {
			t.Errorf("%+v with %+v: %v", tc.port, tc.member, got)
		}
	}
}

func TestHostnames(t *testing.T) {
	h := &mesh.HostnameGenerator{Template: `{{ label "pod" }}.{{ .DisplayName }}.{{ .Namespace }}.{{ .Zone }}.{{ .Mesh }}.local`}
	service := resource.Meta{Type: mesh.TypeMeshService, Mesh: "default", Name: "x", Labels: map[string]string{
		"pod": "web-0", resource.LabelDisplayName: "web", resource.LabelNamespace: "shop",
	}}
	template, err := h.ParseHostname()
	if err != nil {
		t.Fatal(err)
	}
	got, err := template.Hostname(service, "east")
	if err != nil || got != "web-0.web.shop.east.default.local" {
		t.Errorf("got %q, %v", got, err)
	}
	service.Labels["pod"] = "Web_0"
	if got, err := template.Hostname(service, "east"); err == nil {
		t.Errorf("a label that is no part of a DNS name gave %q", got)
	}
}
