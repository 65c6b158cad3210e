package agentapi

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
)

func setOf(have map[string]byte, domains ...string) *NameSet {
	var records []*NameRecord
	for name, ip := range have {
		records = append(records, &NameRecord{Name: name, Addresses: [][]byte{{241, 0, 0, ip}}})
	}
	slices.SortFunc(records, CompareRecords)
	return NewNameSet(records, domains)
}

// follow does what a reader of the messages does.
func follow(t *testing.T, have map[string]byte, version string, list []*ZoneMessage) (map[string]byte, string) {
	t.Helper()
	for i, m := range list {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > 2*maxNamesPart {
			t.Errorf("a message of %d bytes", len(b))
		}
		var got ZoneMessage
		if err := proto.Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		n := got.GetNames()
		if n.GetFrom() == "" && i == 0 {
			have = map[string]byte{}
		} else if n.GetFrom() != "" && n.GetFrom() != version {
			t.Fatalf("from %q, %q is held", n.GetFrom(), version)
		}
		if n.GetMore() != (i < len(list)-1) {
			t.Errorf("message %d of %d: more is %v", i, len(list), n.GetMore())
		}
		have = maps.Clone(have)
		for _, r := range n.GetRecords() {
			have[r.GetName()] = r.GetAddresses()[0][3]
		}
		for _, r := range n.GetRemoved() {
			delete(have, r)
		}
		if !n.GetMore() {
			version = n.GetVersion()
		}
	}
	return have, version
}

// From any set to any other, messages say what differs and no more, and everybody gets the same ones.
func TestNamesSince(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	now := map[string]byte{}
	held, version := map[string]byte{}, ""
	var last *NameSet
	for range 300 {
		for range rnd.IntN(4) {
			name := fmt.Sprintf("s%d.svc.mesh.local", rnd.IntN(20))
			if rnd.IntN(3) == 0 {
				delete(now, name)
			} else {
				now[name] = byte(rnd.IntN(3))
			}
		}
		set := setOf(now, "mesh.local")
		from := last
		if rnd.IntN(10) == 0 {
			from = nil
		}
		list := set.Since(from)
		if len(list) > 0 && &set.Since(from)[0] != &list[0] {
			t.Fatal("the messages are encoded twice")
		}
		if from != nil && from.Version() == set.Version() {
			if len(list) > 0 {
				t.Fatal("a message although nothing changed")
			}
			continue
		}
		held, version = follow(t, held, version, list)
		if !maps.Equal(held, now) || version != set.Version() {
			t.Fatalf("got %v (%s), want %v (%s)", held, version, now, set.Version())
		}
		last = set
	}
}

// Thousands of names come in several messages, none of them large; one more name is one small message.
func TestNamesInParts(t *testing.T) {
	have := map[string]byte{}
	for i := range 20_000 {
		have[fmt.Sprintf("service-with-a-long-name-%d.svc.zone.mesh.local", i)] = byte(i)
	}
	set := setOf(have, "mesh.local")
	list := set.Since(nil)
	if len(list) < 3 {
		t.Errorf("%d messages", len(list))
	}
	got, version := follow(t, map[string]byte{"old.mesh.local": 1}, "old", list)
	if !maps.Equal(got, have) || version != set.Version() {
		t.Errorf("%d of %d names arrived", len(got), len(have))
	}
	have["one-more.mesh.local"] = 7
	list = setOf(have, "mesh.local").Since(set)
	if b, _ := proto.Marshal(list[0]); len(list) != 1 || len(b) > 200 {
		t.Errorf("one more name takes %d messages, the first of %d bytes", len(list), len(b))
	}
}

func TestNameVersions(t *testing.T) {
	a := setOf(map[string]byte{"a": 1}, "mesh.local")
	for what, other := range map[string]*NameSet{
		"another address": setOf(map[string]byte{"a": 2}, "mesh.local"),
		"another name":    setOf(map[string]byte{"b": 1}, "mesh.local"),
		"another domain":  setOf(map[string]byte{"a": 1}, "mesh.test"),
		"nothing":         setOf(nil, "mesh.local"),
	} {
		if other.Version() == a.Version() || len(other.Since(a)) != 1 {
			t.Errorf("%s makes no difference", what)
		}
	}
	if setOf(map[string]byte{"a": 1}, "mesh.local").Version() != a.Version() {
		t.Error("equal sets have unequal versions")
	}
}
