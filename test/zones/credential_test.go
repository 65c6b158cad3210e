package zones

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/global-cp/access"
	"github.com/causeway-mesh/causeway/zone-cp/uplink"
)

const service = `{"selector":{"dataplaneLabels":{"matchLabels":{"app":"web"}}},"ports":[{"port":80,"targetPort":80,"appProtocol":"http"}]}`

// Fault: the credential of a zone is revoked while it is connected. Outcome: the link is cut at once and the zone cannot come back
// with what it has; with a new join token it goes on where it was. Nothing is deleted at either end.
func TestCredentialRevoked(t *testing.T) {
	g := newBareGlobal(t, version{})
	z := newBareZone(t, "east", g.token("east"), version{})
	z.until(mesh.TypeMesh, "default", "", true)
	z.put(mesh.TypeMeshService, "default", "web", service)
	g.until(mesh.TypeMeshService, "web", "east", true)
	before, _ := g.find(mesh.TypeMeshService, "web", "east")

	if err := g.access.Revoke(t.Context(), "east"); err != nil {
		t.Fatal(err)
	}
	z.untilLinked(false, "join token")
	if n := g.hub.Connected(); n != 0 {
		t.Errorf("%d links are open, want none", n)
	}
	g.put("MeshTimeout", "default", "later", `{"to":[{"targetRef":{"kind":"Mesh"},"default":{"connectionTimeout":"3s"}}]}`)
	z.delete(mesh.TypeMeshService, "default", "web")
	z.put(mesh.TypeMeshService, "default", "api", service)

	z.give(g.token("east"))
	z.untilLinked(true, "")
	z.until("MeshTimeout", "later", "", true)
	g.until(mesh.TypeMeshService, "api", "east", true)
	g.until(mesh.TypeMeshService, "web", "east", false) // its owner deleted it
	z.until(mesh.TypeMesh, "default", "", true)
	if before.UID == "" {
		t.Error("the service had no UID")
	}
}

// Fault: the credential is renewed while the zone is connected. Outcome: the link goes on; the next one uses the new certificate, long
// after the first has ended.
func TestCredentialRenewed(t *testing.T) {
	g := newBareGlobal(t, version{life: 4 * time.Second})
	z := newBareZone(t, "east", g.token("east"), version{})
	z.untilLinked(true, "")
	since := z.uplink.State().Since
	versionOf := func() uint64 {
		r, _ := z.find(mesh.TypeGlobalSecret, uplink.CredentialSecret, "east")
		return r.Version
	}
	first := versionOf()
	until(t, "the credential was renewed twice", func() (any, bool) { return versionOf(), versionOf() >= first+2 })
	if s := z.uplink.State(); !s.Linked || !s.Since.Equal(since) {
		t.Errorf("the link stands at %+v, want the one of %s", s, since)
	}
	z.stop()
	z.give("")
	z.start(version{})
	z.untilLinked(true, "")
}

// Fault: global was away until the certificate of a zone had ended. Outcome: the zone is let in with it, and renews it at once; one that
// ended longer ago than the grace needs a new join token. Nothing is deleted.
func TestCredentialEnded(t *testing.T) {
	var ahead atomic.Int64
	clock := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	g := newBareGlobal(t, version{now: clock, life: time.Hour})
	z := newBareZone(t, "east", g.token("east"), version{now: clock})
	z.until(mesh.TypeMesh, "default", "", true)
	z.put(mesh.TypeMeshService, "default", "web", service)
	g.until(mesh.TypeMeshService, "web", "east", true)
	z.give("")
	secret := func() string {
		r, _ := z.find(mesh.TypeGlobalSecret, uplink.CredentialSecret, "east")
		return string(r.Raw)
	}
	z.stop()
	until(t, "global has no link", func() (any, bool) { return g.hub.Connected(), g.hub.Connected() == 0 })
	old := secret()
	ahead.Store(int64(10 * 24 * time.Hour))
	z.start(version{now: clock})
	z.untilLinked(true, "")
	until(t, "the credential is renewed", func() (any, bool) { return nil, secret() != old })

	z.stop()
	until(t, "global has no link", func() (any, bool) { return g.hub.Connected(), g.hub.Connected() == 0 })
	ahead.Add(int64(access.Grace + 2*time.Hour))
	z.start(version{now: clock})
	z.untilLinked(false, "certificate")
	z.give(g.token("east"))
	z.untilLinked(true, "")
	z.until(mesh.TypeMesh, "default", "", true)
	g.until(mesh.TypeMeshService, "web", "east", true)
	g.until(mesh.TypeZone, "east", "", true)
}

// Fault: the answer to a join is lost. Outcome: the zone asks again with the same token and key, and is let in as the same zone; nobody else can
// use the token.
func TestJoinWhoseAnswerIsLost(t *testing.T) {
	g := newBareGlobal(t, version{})
	g.lost.Store(2)
	token := g.token("east")
	z := newBareZone(t, "east", token, version{})
	z.untilLinked(true, "")
	if n := g.lost.Load(); n >= 0 {
		t.Errorf("%d answers were still to be lost", n+1)
	}
	other := newBareZone(t, "east", token, version{instance: "-b"})
	other.untilLinked(false, "used before")
	z.untilLinked(true, "")
	z.until(mesh.TypeMesh, "default", "", true)
}
