package view

import (
	"slices"
	"strings"

	"github.com/causeway-mesh/causeway/api/memo"
	"github.com/causeway-mesh/causeway/api/resource"
)

// A Refusal is a resource that an Envoy has refused, by what it was made of.
type Refusal struct {
	Type string // of the resource
	// Base identifies the resource as it was before patches.
	Base string
	// Patches are the IDs of the patches that were applied to it, in order.
	Patches []string
	Text    string // what Envoy said
}

func recipe(typ, base string, patches []string) string {
	return typ + "\x00" + base + "\x00" + strings.Join(patches, "\x00")
}

// Refusals is what the Envoys of one version have refused. It is immutable.
type Refusals struct {
	list    []Refusal // oldest first
	recipes map[string]string
}

// maxRefusals bounds what is remembered for one version of Envoy.
const maxRefusals = 512

// With returns the refusals and one more; the same ones when it is known.
func (r *Refusals) With(x Refusal) *Refusals {
	key := recipe(x.Type, x.Base, x.Patches)
	var list []Refusal
	if r != nil {
		if _, known := r.recipes[key]; known {
			return r
		}
		list = r.list
	}
	list = append(slices.Clone(list), x)
	list = list[max(0, len(list)-maxRefusals):]
	out := &Refusals{list: list, recipes: make(map[string]string, len(list))}
	for _, y := range list {
		out.recipes[recipe(y.Type, y.Base, y.Patches)] = y.Text
	}
	return out
}

func (r *Refusals) refused(typ, base string, patches []string) (text string, ok bool) {
	if r == nil {
		return "", false
	}
	text, ok = r.recipes[recipe(typ, base, patches)]
	return text, ok
}

// Without finds out which of the patches of a resource Envoy refuses, and why. What it refuses also without patches is no fault of
// any. A patch that was refused where it was the only one is refused everywhere. Of several, one is left out after the other,
// the last first, until what is left has not been refused: each refusal that follows makes the answer more precise.
func (r *Refusals) Without(typ, base string, patches []string) (kept []string, out map[string]string) {
	if r == nil {
		return patches, nil
	}
	leave := func(id, text string) {
		if out == nil {
			out = map[string]string{}
		}
		out[id] = text
	}
	for _, id := range patches {
		if text, alone := r.alone(typ, id); alone {
			leave(id, text)
		} else {
			kept = append(kept, id)
		}
	}
	for len(kept) > 0 {
		text, refused := r.refused(typ, base, kept)
		if !refused {
			break
		}
		n := len(kept) - 1
		for ; n >= 0; n-- {
			if _, refused := r.refused(typ, base, kept[:n]); !refused {
				break
			}
		}
		if n < 0 {
			return patches, nil
		}
		leave(kept[n], text)
		kept = slices.Delete(slices.Clone(kept), n, n+1)
	}
	return kept, out
}

// alone says that a patch was refused where there was no other, and its absence helped.
func (r *Refusals) alone(typ, id string) (text string, ok bool) {
	for _, x := range r.list {
		if x.Type != typ || len(x.Patches) != 1 || x.Patches[0] != id {
			continue
		}
		if _, base := r.refused(typ, x.Base, nil); !base {
			return x.Text, true
		}
	}
	return "", false
}

// SetEnvoy says which version of Envoy a dataplane runs; empty takes away what was said.
func (v *View) SetEnvoy(dp resource.Key, version string) {
	if version == "" {
		v.envoys.Delete(dp)
		return
	}
	v.envoys.Set(dp, version)
}

// EnvoyOf is the version of Envoy that a dataplane runs, empty while that is not known.
func (v *View) EnvoyOf(r *memo.Reader, dp resource.Key) string {
	version, _ := v.envoys.Get(r, dp)
	return version
}

// SetRefused replaces what the Envoys of a version have refused.
func (v *View) SetRefused(version string, x *Refusals) { v.refused.Set(version, x) }

// Refused is what the Envoys of a version have refused, nil when nothing.
func (v *View) Refused(r *memo.Reader, version string) *Refusals {
	x, _ := v.refused.Get(r, version)
	return x
}
