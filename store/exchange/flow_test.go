package exchange

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/api"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/token"
)

func labelled(typ, meshName, name string, labels ...string) resource.Resource {
	r := resource.Resource{Meta: resource.Meta{Type: typ, Mesh: meshName, Name: name, Labels: map[string]string{}}, Raw: []byte("{}")}
	for i := 0; i < len(labels); i += 2 {
		r.Labels[labels[i]] = labels[i+1]
	}
	return r
}

func kindOf(t testing.TB, typ string) resource.Kind {
	k, ok := api.Kinds().ByName(typ)
	if !ok {
		t.Fatal("no kind " + typ)
	}
	return k
}

// What global sends to zones, and which of it to the zones that do not own it.
//
// Acceptance: M sync: which kinds and labels travel from global
func TestFromGlobal(t *testing.T) {
	global := []string{resource.LabelOrigin, resource.OriginGlobal}
	east := []string{resource.LabelOrigin, resource.OriginZone, resource.LabelZone, "east"}
	for _, c := range []struct {
		typ, name string
		labels    []string
		named     bool
		id        string // empty: stays
	}{
		{mesh.TypeMesh, "default", global, false, "kri_m____default_"},
		{mesh.TypeZone, "east", global, false, ""},
		{"MeshTimeout", "slow", global, false, "kri_mt_default___slow_"},
		{"MeshTimeout", "slow", nil, false, "kri_mt_default___slow_"},
		{"MeshTimeout", "slow", append(global, resource.LabelKDSSync, "disabled"), false, ""},
		{"MeshTimeout", "slow", append(global, resource.LabelKDSSync, "enabled"), false, "kri_mt_default___slow_"},
		{"MeshTimeout", "slow", append(global, resource.LabelZone, "east"), false, ""},
		{mesh.TypeHostnameGenerator, "hg", global, false, "kri_hg____hg_"},
		{mesh.TypeMeshMultiZoneService, "web", global, false, "kri_mzsvc_default___web_"},
		{mesh.TypeMeshIdentity, "id", global, false, "kri_mid_default___id_"},
		{mesh.TypeMeshTrust, "t", global, false, "kri_mtrust_default___t_"},
		{mesh.TypeMeshService, "web", global, false, ""}, // only zones write it
		{mesh.TypeDataplane, "web", global, false, ""},
		{mesh.TypeSecret, "password", nil, false, "kri_s_default___password_"},
		{mesh.TypeSecret, "id-root-ca", nil, false, ""},
		{mesh.TypeSecret, "id-private-key", nil, false, ""},
		{mesh.TypeSecret, "id-private-key-next", nil, false, ""},
		{mesh.TypeSecret, "id-private-key", nil, true, "kri_s_default___id-private-key_"}, // an identity refers to it
		{mesh.TypeSecret, "dataplane-token-revocations-default", nil, false, "kri_s_default___dataplane-token-revocations-default_"},
		{mesh.TypeSecret, "dataplane-token-signing-key-default-1", nil, false, ""}, // no key in it
		{mesh.TypeGlobalSecret, "cloud", nil, false, "kri_gs____cloud_"},
		{mesh.TypeGlobalSecret, "admin-user-token", nil, false, ""},
		{mesh.TypeGlobalSecret, "user-token-signing-key-1", nil, false, ""},
		{mesh.TypeGlobalSecret, "user-token-revocations", nil, false, ""},
		{mesh.TypeGlobalSecret, "zone-token-signing-key-1", nil, false, ""},
		{mesh.TypeGlobalSecret, "zone-token-revocations", nil, false, ""},
		{mesh.TypeGlobalSecret, "zone-join-east", nil, false, ""},
		{mesh.TypeGlobalSecret, "zone-control-ca", nil, false, ""},
		{mesh.TypeGlobalSecret, "zone-revocations", nil, false, ""},
		{mesh.TypeGlobalSecret, "zone-members", nil, false, ""},
		{mesh.TypeGlobalSecret, "agent-control-ca", nil, false, ""},
		{mesh.TypeGlobalSecret, "uplink-key", nil, false, ""},
		{mesh.TypeMeshService, "web-x", append(east, resource.LabelDisplayName, "web"), false, "kri_msvc_default_east__web_"},
		{mesh.TypeMeshZoneAddress, "in-x", append(east, resource.LabelDisplayName, "in"), false, "kri_mza_default_east__in_"},
		{mesh.TypeMeshTrust, "t-x", append(east, resource.LabelDisplayName, "t"), false, "kri_mtrust_default_east__t_"},
		{mesh.TypeDataplane, "web-1-x", append(east, resource.LabelDisplayName, "web-1"), false, ""},
		{mesh.TypeMeshIdentity, "id-x", append(east, resource.LabelDisplayName, "id"), false, ""},
		{mesh.TypeWorkload, "web-x", append(east, resource.LabelDisplayName, "web"), false, ""},
		{mesh.TypeHostnameGenerator, "hg-x", append(east, resource.LabelDisplayName, "hg"), false, ""},
		{"MeshTimeout", "slow-x", append(east, resource.LabelDisplayName, "slow", resource.LabelPolicyRole, "system"), false, ""},
		{"MeshTimeout", "slow-x", append(east, resource.LabelDisplayName, "slow", resource.LabelPolicyRole, "consumer"), false, ""},
		{"MeshTimeout", "slow-x", append(east, resource.LabelDisplayName, "slow", resource.LabelPolicyRole, "producer", resource.LabelNamespace, "ns"), false, "kri_mt_default_east_ns_slow_"},
		{mesh.TypeMeshService, "web-x", []string{resource.LabelOrigin, resource.OriginZone}, false, ""}, // nobody's
	} {
		kind := kindOf(t, c.typ)
		meshName := demo
		if kind.Scope == resource.ScopeGlobal {
			meshName = ""
		}
		r := labelled(c.typ, meshName, c.name, c.labels...)
		f, ok := fromGlobal(kind, r, c.named)
		if ok != (c.id != "") || f.id != c.id {
			t.Errorf("%s %s %v: sent as %q, want %q", c.typ, c.name, c.labels, f.id, c.id)
		}
		if ok && f.meta.Labels[resource.LabelDisplayName] != f.name {
			t.Errorf("%s %s: goes without the name that its owner gave", c.typ, c.name)
		}
		if id, _, could := identity(kind, r.Meta, ""); ok && (!could || id != c.id) {
			t.Errorf("%s %s: is sent as %s and known as %q afterwards", c.typ, c.name, c.id, id)
		}
	}
}

// Acceptance: M sync: which kinds and labels travel from a zone; secrets do not
func TestFromZone(t *testing.T) {
	own := []string{resource.LabelOrigin, resource.OriginZone, resource.LabelZone, "east"}
	for _, c := range []struct {
		typ    string
		labels []string
		id     string
	}{
		{mesh.TypeDataplane, own, "kri_dp_default_east__x_"},
		{mesh.TypeMeshService, append(own, resource.LabelGraceStarted, "1"), "kri_msvc_default_east__x_"},
		{mesh.TypeMeshTrust, own, "kri_mtrust_default_east__x_"},
		{mesh.TypeMeshIdentity, own, "kri_mid_default_east__x_"},
		{mesh.TypeMeshZoneAddress, own, "kri_mza_default_east__x_"},
		{mesh.TypeWorkload, own, "kri_wl_default_east__x_"},
		{"MeshTimeout", own, "kri_mt_default_east__x_"},
		{"MeshTrafficPermission", own, "kri_mtp_default_east__x_"},
		{mesh.TypeHostnameGenerator, own, "kri_hg__east__x_"},
		{mesh.TypeSecret, own, ""},
		{mesh.TypeGlobalSecret, own, ""},
		{mesh.TypeMesh, own, ""},
		{mesh.TypeZone, own, ""},
		{mesh.TypeMeshMultiZoneService, own, ""},
		{mesh.TypeDataplaneInsight, own, ""},
		{mesh.TypeDataplane, nil, ""},
		{mesh.TypeDataplane, append(own, resource.LabelKDSSync, "disabled"), ""},
		{mesh.TypeMeshService, []string{resource.LabelOrigin, resource.OriginGlobal, resource.LabelZone, "west"}, ""},
		{mesh.TypeMeshService, []string{resource.LabelOrigin, resource.OriginZone, resource.LabelZone, "west"}, ""},
		{"MeshTimeout", []string{resource.LabelOrigin, resource.OriginGlobal}, ""},
	} {
		kind := kindOf(t, c.typ)
		meshName := demo
		if kind.Scope == resource.ScopeGlobal {
			meshName = ""
		}
		f, ok := fromZone(kind, labelled(c.typ, meshName, "x", c.labels...), "east")
		if ok != (c.id != "") || f.id != c.id {
			t.Errorf("%s %v: sent as %q, want %q", c.typ, c.labels, f.id, c.id)
		}
		if _, grace := f.meta.Labels[resource.LabelGraceStarted]; grace {
			t.Errorf("%s: the grace period goes along", c.typ)
		}
	}
}

func TestSigningKeysTravelAsTheirPublicHalf(t *testing.T) {
	private, err := token.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	public, err := token.PublicKey(private)
	if err != nil {
		t.Fatal(err)
	}
	key := token.DataplaneSigningKey(demo, 12)
	r := token.Secret(key, private)
	r.Labels = map[string]string{resource.LabelDisplayName: key.Name}
	f, ok := fromGlobal(kindOf(t, mesh.TypeSecret), r, false)
	if !ok || f.name != "dataplane-token-signing-public-key-default-12" || f.id != "kri_s_default___dataplane-token-signing-public-key-default-12_" {
		t.Fatalf("sent: %v as %s, %s", ok, f.name, f.id)
	}
	if want := `{"data":"` + base64.StdEncoding.EncodeToString(public) + `"}`; string(f.raw) != want {
		t.Errorf("sent is %s", f.raw)
	}
	if it, err := f.item(nil); err != nil || strings.Contains(string(it.Encoded), base64.StdEncoding.EncodeToString(private)[100:140]) {
		t.Error("the private key goes along", err)
	}
}

func TestStatementsSayOnlyWhatOthersNeed(t *testing.T) {
	const (
		full  = `{"vips":[{"ip":"241.0.0.1"}],"state":"Available","tls":{"status":"Ready"},"identities":[{"type":"SpiffeID","value":"spiffe://a/b"}],"dataplaneProxies":{"total":3},"unusedSince":"2026-01-02T03:04:05Z"}`
		found = `{"vips":[{"ip":"241.0.0.1"}]}`
	)
	for _, c := range []struct {
		status   string
		toGlobal bool
		want     string // empty: nothing is said
	}{
		{full, true, `{"vips":[{"ip":"241.0.0.1"}],"tls":{"status":"Ready"},"state":"Available","identities":[{"type":"SpiffeID","value":"spiffe://a/b"}]}`},
		{full, false, `{"tls":{"status":"Ready"},"state":"Available","identities":[{"type":"SpiffeID","value":"spiffe://a/b"}]}`},
		{found, true, found},
		{found, false, ""},
		{`nonsense`, true, ""},
	} {
		got, ok := statementOf([]byte(c.status), c.toGlobal)
		if ok != (c.want != "") || string(got) != c.want {
			t.Errorf("%s, to global %t: is told as %s, want %s", c.status, c.toGlobal, got, c.want)
		}
	}
}
