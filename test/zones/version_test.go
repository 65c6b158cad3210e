package zones

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/zone-cp/uplink"
)

const (
	policy     = `{"to":[{"targetRef":{"kind":"Mesh"},"default":{"connectionTimeout":"3s"}}]}`
	permission = `{"rules":[{"default":{"allow":[{"spiffeID":{"type":"Exact","value":"spiffe://a/%s"}}]}}]}`
)

// altered are all kinds, some of them in another version.
func altered(edit func(k *resource.Kind)) *resource.Kinds {
	list := api.Kinds().All()
	for i := range list {
		edit(&list[i])
	}
	return resource.NewKinds(list...)
}

func without(name string) *resource.Kinds {
	return resource.NewKinds(slices.DeleteFunc(api.Kinds().All(), func(k resource.Kind) bool { return k.Name == name })...)
}

// narrower is a permission of the next version: it can narrow whom it allows by the path.
type narrower struct {
	Rules []json.RawMessage `json:"rules,omitempty"`
	Paths []string          `json:"paths,omitempty"`
}

// nextVersion has the kinds of the next version.
func nextVersion() *resource.Kinds {
	return altered(func(k *resource.Kind) {
		if k.Name != "MeshTrafficPermission" {
			return
		}
		k.New, k.Validate = func() any { return new(narrower) }, nil
		k.Requires = func(r resource.Resource) []string {
			if s, ok := r.Spec.(*narrower); ok && len(s.Paths) > 0 {
				return []string{"permission.paths"}
			}
			return nil
		}
	})
}

// rejected lists what global sees set aside in a zone, by its display in the overview.
func (g *bareGlobal) rejected(t testing.TB, zone string) []string {
	t.Helper()
	text, _ := g.board.Zone(zone)
	var o struct{ Exceptions []mesh.PropagationException }
	if len(text) > 0 {
		if err := json.Unmarshal(text, &o); err != nil {
			t.Fatal(err)
		}
	}
	var out []string
	for _, e := range o.Exceptions {
		out = append(out, e.Name+": "+e.Reason)
	}
	slices.Sort(out)
	return out
}

func (g *bareGlobal) untilRejected(zone string, want int, says string) {
	g.t.Helper()
	until(g.t, fmt.Sprintf("global sees %d objects set aside in %s (%s)", want, zone, says), func() (any, bool) {
		all := g.rejected(g.t, zone)
		return all, len(all) == want && strings.Contains(strings.Join(all, "\n"), says)
	})
}

// Fault: a zone is one version older than global. Outcome: a kind that it does not know, and an object that needs a feature it lacks, are
// set aside in it and shown at global, everything else comes, and after its upgrade they come, too, without anything sent again. A permission
// in a version that the zone does not understand leaves the one in force that it did: never wider than before. Nothing is deleted.
func TestZoneIsOlder(t *testing.T) {
	g := newBareGlobal(t, version{kinds: nextVersion(), features: []string{"permission.paths"}})
	z := newBareZone(t, "east", g.token("east"), version{kinds: without("MeshRetry")})
	g.put("MeshTrafficPermission", "default", "allow", fmt.Sprintf(permission, "web"))
	z.until("MeshTrafficPermission", "allow", "", true)
	before, _ := z.find("MeshTrafficPermission", "allow", "")

	g.put("MeshRetry", "default", "again", `{"to":[{"targetRef":{"kind":"Mesh"},"default":{"http":{"numRetries":3}}}]}`)
	wider := fmt.Sprintf(permission, "everybody")
	g.put("MeshTrafficPermission", "default", "allow", wider[:len(wider)-1]+`,"paths":["/only-here"]}`)
	g.put("MeshTimeout", "default", "slow", policy)
	z.until("MeshTimeout", "slow", "", true)
	g.untilRejected("east", 2, "permission.paths")
	g.untilRejected("east", 2, "MeshRetry")
	after, ok := z.find("MeshTrafficPermission", "allow", "")
	if !ok || !bytes.Equal(after.Raw, before.Raw) {
		t.Errorf("in force is %s, want still %s", after.Raw, before.Raw)
	}

	// The upgrade: the same store, the next version.
	z.stop()
	z2 := newBareZone(t, "east", "", version{store: z.store, kinds: nextVersion(), features: []string{"permission.paths"}})
	z2.until("MeshRetry", "again", "", true)
	until(t, "the new permission is in force", func() (any, bool) {
		r, _ := z2.find("MeshTrafficPermission", "allow", "")
		return string(r.Raw), strings.Contains(string(r.Raw), "/only-here")
	})
	g.untilRejected("east", 0, "")
	z2.until("MeshTimeout", "slow", "", true)
}

// Fault: a field that the zone does not know is in a permission, and its writer did not say that it needs a feature. Outcome: the zone
// takes no half of it; the last version that it understood stays. Nothing is deleted.
func TestUnknownFieldInAPermission(t *testing.T) {
	forgetful := altered(func(k *resource.Kind) {
		if k.Name == "MeshTrafficPermission" {
			k.New, k.Validate = func() any { return new(narrower) }, nil
		}
	})
	g := newBareGlobal(t, version{kinds: forgetful})
	z := newBareZone(t, "east", g.token("east"), version{})
	g.put("MeshTrafficPermission", "default", "allow", fmt.Sprintf(permission, "web"))
	z.until("MeshTrafficPermission", "allow", "", true)
	wider := fmt.Sprintf(permission, "everybody")
	g.put("MeshTrafficPermission", "default", "allow", wider[:len(wider)-1]+`,"paths":["/only-here"]}`)
	g.put("MeshTimeout", "default", "slow", policy)
	z.until("MeshTimeout", "slow", "", true)
	g.untilRejected("east", 1, "paths")
	if r, ok := z.find("MeshTrafficPermission", "allow", ""); !ok || strings.Contains(string(r.Raw), "everybody") {
		t.Errorf("in force is %s, want what was before", r.Raw)
	}
}

// Fault: global is one version older than a zone. Outcome: what it does not know is set aside at global; everything else of the zone comes,
// and after the upgrade of global all of it. Nothing is deleted.
func TestGlobalIsOlder(t *testing.T) {
	g := newBareGlobal(t, version{kinds: without("MeshRetry")})
	z := newBareZone(t, "east", g.token("east"), version{})
	z.until(mesh.TypeMesh, "default", "", true)
	z.put("MeshRetry", "default", "again", `{"to":[{"targetRef":{"kind":"Mesh"},"default":{"http":{"numRetries":3}}}]}`)
	z.put(mesh.TypeMeshService, "default", "web", service)
	g.until(mesh.TypeMeshService, "web", "east", true)
	z.untilLinked(true, "")
	if _, ok := g.find("MeshRetry", "again", "east"); ok {
		t.Error("global stores a kind that it does not know")
	}
	if _, ok := z.find("MeshRetry", "again", "east"); !ok {
		t.Error("the zone lost its own policy")
	}
	g.stop()
	g2 := newBareGlobal(t, version{store: g.store})
	z.stop()
	z2 := newBareZone(t, "east", g2.token("east"), version{store: z.store})
	g2.until("MeshRetry", "again", "east", true)
	g2.until(mesh.TypeMeshService, "web", "east", true)
	z2.until("MeshRetry", "again", "east", true)
}

// Fault: an object makes the decoder of its receiver panic. Outcome: that object alone is set aside and shown; the link lives, and everything
// before and after it comes. Nothing is deleted.
func TestPoisonedObject(t *testing.T) {
	var panics atomic.Int32
	poisoned := altered(func(k *resource.Kind) {
		validate := k.Validate
		if k.Name == "MeshTimeout" {
			k.Validate = func(r resource.Resource) resource.Problems {
				if r.DisplayName() == "m-poison" {
					panics.Add(1)
					panic("boom")
				}
				return validate(r)
			}
		}
	})
	g := newBareGlobal(t, version{})
	z := newBareZone(t, "east", g.token("east"), version{kinds: poisoned})
	z.untilLinked(true, "")
	since := z.uplink.State().Since
	g.commit(g.resource("MeshTimeout", "default", "a-good", policy), g.resource("MeshTimeout", "default", "m-poison", policy), g.resource("MeshTimeout", "default", "z-good", policy))
	z.until("MeshTimeout", "a-good", "", true)
	z.until("MeshTimeout", "z-good", "", true)
	g.untilRejected("east", 1, "panics")
	g.put("MeshTimeout", "default", "later", policy)
	z.until("MeshTimeout", "later", "", true)
	if s := z.uplink.State(); !s.Linked || !s.Since.Equal(since) || panics.Load() == 0 {
		t.Errorf("the link stands at %+v after %d panics, want the one of %s", s, panics.Load(), since)
	}
	g.until("MeshTimeout", "m-poison", "", true)
}

// Fault: the clocks of a zone and of global are an hour apart, in either direction. Outcome: the zone joins, is linked, and gets everything;
// both ends say how far the clocks are apart. Nothing ends early because of it.
func TestClocksAnHourApart(t *testing.T) {
	for _, off := range []time.Duration{time.Hour, -time.Hour} {
		t.Run(off.String(), func(t *testing.T) {
			g := newBareGlobal(t, version{})
			z := newBareZone(t, "east", g.token("east"), version{now: func() time.Time { return time.Now().Add(off) }})
			g.put("MeshTimeout", "default", "slow", policy)
			z.until("MeshTimeout", "slow", "", true)
			z.put(mesh.TypeMeshService, "default", "web", service)
			g.until(mesh.TypeMeshService, "web", "east", true)
			near := func(d time.Duration) bool { return d.Abs() > 59*time.Minute && d.Abs() < 61*time.Minute }
			if s := z.uplink.State(); !s.Linked || !near(s.Clock) || (s.Clock > 0) == (off > 0) {
				t.Errorf("the zone says %+v, want that global's clock is off by %s", s, -off)
			}
			text, _ := g.board.Zone("east")
			var o struct{ ClockSkew string }
			if err := json.Unmarshal(text, &o); err != nil {
				t.Fatal(err)
			}
			if d, err := time.ParseDuration(o.ClockSkew); err != nil || !near(d) || (d > 0) != (off > 0) {
				t.Errorf("global says %q, want about %s", o.ClockSkew, off)
			}
			if _, ok := z.find(mesh.TypeGlobalSecret, uplink.CredentialSecret, "east"); !ok {
				t.Error("the credential is gone")
			}
		})
	}
}
