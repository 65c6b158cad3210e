package probe

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFrames(t *testing.T) {
	want := Reply{
		Version: 1, Zone: "west", Mesh: "default", Instance: "a", Sequence: 7,
		Services: []ServiceCounts{{KRI: "kri_msvc_default_west__web_", Sequence: 7, Ports: []PortCounts{{"http", 2, 3}}}},
	}
	var b bytes.Buffer
	if err := writeFrame(&b, want, maxReply); err != nil {
		t.Fatal(err)
	}
	var got Reply
	if err := readFrame(&b, &got, maxReply); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if err := got.check("west", "default"); err != nil {
		t.Error(err)
	}
	if err := writeFrame(io.Discard, Request{Zone: strings.Repeat("x", maxRequest)}, maxRequest); err == nil {
		t.Error("a frame that is too long was written")
	}
}

func TestBadFrames(t *testing.T) {
	frame := func(n uint32, text string) string {
		return string(binary.BigEndian.AppendUint32(nil, n)) + text
	}
	for _, tc := range []struct{ name, in, want string }{
		{"nothing", "", "EOF"},
		{"half a length", "\x00\x00", "unexpected EOF"},
		{"no content", frame(0, ""), "0 bytes, 1 to"},
		{"too long", frame(maxReply+1, ""), "1048577 bytes, 1 to 1048576 are allowed"},
		{"as long as can be", frame(1<<32-1, "{}"), "4294967295 bytes"},
		{"cut", frame(10, "{}"), "unexpected EOF"},
		{"no JSON", frame(3, "abc"), "invalid character"},
		{"another type", frame(2, "[]"), "cannot unmarshal"},
		{"nested without end", frame(20_000, strings.Repeat("[", 20_000)), "frame: "},
		{"a negative count", frame(49, `{"services":[{"ports":[{"section":"x","total":-1}]}]}`[:49]), "frame: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var r Reply
			if err := readFrame(strings.NewReader(tc.in), &r, maxReply); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestRepliesOfOthersAreRefused(t *testing.T) {
	good := func() Reply {
		return Reply{
			Version: 1, Zone: "west", Mesh: "default", Instance: "a", Sequence: 7,
			Services: []ServiceCounts{{KRI: "kri_msvc_default_west__web_", Sequence: 7}},
		}
	}
	for _, tc := range []struct {
		name, want string
		edit       func(*Reply)
	}{
		{"no version", "no version", func(r *Reply) { r.Version = 0 }},
		{"another zone", `mesh "default" in zone "north"`, func(r *Reply) { r.Zone = "north" }},
		{"another mesh", `mesh "other"`, func(r *Reply) { r.Mesh = "other" }},
		{"no instance", "does not name its instance", func(r *Reply) { r.Instance = "" }},
		{"endless", "promises more", func(r *Reply) { r.Services, r.More = nil, true }},
		{"a service of another zone", "not a service of its mesh and zone", func(r *Reply) { r.Services[0].KRI = "kri_msvc_default_north__web_" }},
		{"a service of another mesh", "not a service of its mesh and zone", func(r *Reply) { r.Services[0].KRI = "kri_msvc_other_west__web_" }},
		{"no service", "must have the form", func(r *Reply) { r.Services[0].KRI = "web" }},
		{"ahead of itself", "beyond that of the reply", func(r *Reply) { r.Services[0].Sequence = 8 }},
		{"too many services", "2001 services", func(r *Reply) { r.Services = make([]ServiceCounts, maxServices+1) }},
		{"too many ports", "257 ports", func(r *Reply) { r.Services[0].Ports = make([]PortCounts, maxPorts+1) }},
		{"a port without a name", "no usable name", func(r *Reply) { r.Services[0].Ports = make([]PortCounts, 1) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := good()
			tc.edit(&r)
			if err := r.check("west", "default"); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
	if err := good().check("west", "default"); err != nil {
		t.Error(err)
	}
}

// FuzzDecode requires of whatever comes that it is refused or keeps to the bounds, and is never more healthy than there is.
func FuzzDecode(f *testing.F) {
	for _, text := range []string{
		`{"version":1,"zone":"west","mesh":"default","instance":"a","sequence":9,"reset":true,"services":[{"kri":"kri_msvc_default_west__web_","sequence":9,"ports":[{"section":"http","healthy":7,"total":3}]}]}`,
		`{"version":1,"zone":"east","instance":"a","after":3}`,
		`{"version":2,"unknown":{"a":[1,2]}}`, `[]`, `{`, ``,
	} {
		f.Add(append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var q Request
		if readFrame(bytes.NewReader(data), &q, maxRequest) == nil && q.check() == nil && len(q.Zone)+len(q.Instance) > 2*maxText {
			t.Error("a question that is too long was taken")
		}
		var r Reply
		if readFrame(bytes.NewReader(data), &r, maxReply) != nil || r.check("west", "default") != nil {
			return
		}
		table := NewTable(nil)
		p := peer{"default", "west"}
		for i, s := range r.Services {
			table.place(key("MeshService", fmt.Sprint("web-", i)), p, s.KRI)
		}
		table.claim(p, []Reply{r})
		for _, s := range table.collect().Services {
			for _, c := range s.Ports {
				if c.Healthy > c.Total {
					t.Errorf("%d of %d are healthy", c.Healthy, c.Total)
				}
			}
		}
	})
}
