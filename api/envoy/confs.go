package envoy

import (
	"encoding/json"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/api/memo"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
)

// confs is what policies say to one hook, as canonical JSON, so that it can be part of a key:
// equal settings of equal origin give one fragment, whoever asks for it.
type confs string

// A conf is what one policy says to one hook.
type conf struct {
	Type     string         `json:"t"`
	Conf     string         `json:"c"`
	Policies []resource.KRI `json:"p,omitempty"`
}

// confsFor asks every policy that has the hook for its effective configuration, reduced to what the hook reads.
func (c *Compiler) confsFor(h policy.HookName, effective func(typ string) policy.Effective) confs {
	return c.confsOf(h, effective, func(policy.Policy) bool { return true })
}

// ownConfs leaves out the policies that configure the proxy as a whole.
func (c *Compiler) ownConfs(h policy.HookName, effective func(typ string) policy.Effective) confs {
	return c.confsOf(h, effective, func(p policy.Policy) bool { return !p.ProxyWide() })
}

// wideConfs asks only the policies that configure the proxy as a whole.
func (c *Compiler) wideConfs(h policy.HookName, effective func(typ string) (policy.Effective, bool)) confs {
	return c.confsOf(h, func(typ string) policy.Effective { e, _ := effective(typ); return e }, policy.Policy.ProxyWide)
}

func (c *Compiler) confsOf(h policy.HookName, effective func(typ string) policy.Effective, asked func(policy.Policy) bool) confs {
	var out []conf
	for _, p := range c.view.Policies() {
		fields, ok := p.Fields(h)
		if !ok || !asked(p) {
			continue
		}
		typ := p.Resource().Name
		e := effective(typ)
		if projected := policy.Project(e.Conf, fields); projected != "" {
			out = append(out, conf{typ, projected, e.Policies(fields...)})
		}
	}
	if len(out) == 0 {
		return ""
	}
	return confs(encode(out))
}

func (cs confs) list() []conf {
	var out []conf
	if cs != "" {
		decode(string(cs), &out)
	}
	return out
}

// clientLabels picks what the configuration asks of a client's labels, as canonical JSON.
func (c *Compiler) clientLabels(cs confs, of string) string {
	if cs == "" || of == "" {
		return ""
	}
	have, picked := map[string]string{}, map[string]string{}
	decode(of, &have)
	for _, co := range cs.list() {
		conf := map[string]any{}
		decode(co.Conf, &conf)
		for _, p := range c.view.Policies() {
			if p.Resource().Name != co.Type {
				continue
			}
			for _, label := range p.ClientLabels(conf) {
				if v, ok := have[label]; ok {
					picked[label] = v
				}
			}
		}
	}
	if len(picked) == 0 {
		return ""
	}
	return encode(picked)
}

// origins are the policies behind the configuration, sorted.
func (cs confs) origins() []resource.KRI {
	var out []resource.KRI
	for _, c := range cs.list() {
		out = append(out, c.Policies...)
	}
	slices.SortFunc(out, resource.KRI.Compare)
	return slices.Compact(out)
}

// apply binds every configuration and gives it to use.
func (c *Compiler) apply(cs []conf, use func(typ string, b policy.Bound)) error {
	for _, p := range c.view.Policies() {
		typ := p.Resource().Name
		for _, co := range cs {
			if co.Type != typ {
				continue
			}
			b, err := p.Bind(co.Conf)
			if err != nil {
				return err
			}
			use(typ, b)
		}
	}
	return nil
}

// buildFragment makes a fragment with everything that policies say. When the result is not valid it finds the policy type
// without which it is, and leaves that out: one bad policy hurts only itself. The problem names the policies.
func (c *Compiler) buildFragment(t Type, name string, cs confs, refs func(proto.Message) []Ref, build func([]conf) (proto.Message, error)) built {
	all := cs.list()
	f, err := c.tryFragment(t, name, all, refs, build)
	if err == nil {
		return built{frag: f}
	}
	for i, culprit := range all {
		rest := slices.Delete(slices.Clone(all), i, i+1)
		if f, err2 := c.tryFragment(t, name, rest, refs, build); err2 == nil {
			return built{f, &Problem{Ref{t, name}, fmt.Sprintf("%s is left out of %s: %v", culprit.Type, name, err), culprit.Policies}}
		}
	}
	problem := &Problem{Ref{t, name}, err.Error(), cs.origins()}
	f, err = c.tryFragment(t, name, nil, refs, build)
	if err != nil {
		return built{problem: problem}
	}
	return built{f, problem}
}

func (c *Compiler) tryFragment(t Type, name string, cs []conf, refs func(proto.Message) []Ref, build func([]conf) (proto.Message, error)) (*Fragment, error) {
	msg, err := build(cs)
	if err != nil {
		return nil, err
	}
	f, err := NewFragment(t, name, msg)
	if err != nil {
		return nil, err
	}
	if refs != nil {
		f.Refs = refs(msg)
	}
	f.Origins = confs(encode(cs)).origins()
	return f, nil
}

// encode is canonical JSON of plain values.
func encode(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return string(b)
}

type typedSet struct {
	Type string   `json:"t"`
	Set  view.Set `json:"s"`
}

// The sets that concern what a proxy sends, and the proxy as a whole.
func outboundSet(s view.Selected) view.Set { return s.Outbound }
func proxySet(s view.Selected) view.Set    { return s.Proxy }

// encodeSets keeps the policy types that say anything.
func encodeSets(sel []view.Selected, set func(view.Selected) view.Set) string {
	var out []typedSet
	for _, s := range sel {
		if set(s) != "" {
			out = append(out, typedSet{s.Type, set(s)})
		}
	}
	if out == nil {
		return ""
	}
	return encode(out)
}

func decodeSets(s string) map[string]view.Set {
	var list []typedSet
	if s != "" {
		decode(s, &list)
	}
	out := make(map[string]view.Set, len(list))
	for _, e := range list {
		out[e.Type] = e.Set
	}
	return out
}

// decode reads what encode wrote.
func decode(s string, into any) {
	if s != "" {
		_ = json.Unmarshal([]byte(s), into) // written by encode, so it can be read
	}
}

// proxyWide is what is in force for the proxy as a whole, given the encoded sets of its policies. It knows no other policies.
func (c *Compiler) proxyWide(r *memo.Reader, meshName, encoded string) func(typ string) (policy.Effective, bool) {
	sets := decodeSets(encoded)
	return func(typ string) (policy.Effective, bool) {
		if !c.view.IsProxyWide(typ) {
			return policy.Effective{}, false
		}
		if sets[typ] == "" {
			return policy.Effective{}, true
		}
		return c.view.Linked(r, typ, meshName, c.view.ProxyWide(r, typ, meshName, sets[typ])), true
	}
}

// An additionKey is what policies add to proxies.
type additionKey struct {
	Self  proxy.Self
	Confs confs
}

// buildAdditions makes the resources that policies add to a proxy.
func (c *Compiler) buildAdditions(_ *memo.Reader, k additionKey) []built {
	var out []built
	for _, co := range k.Confs.list() {
		var added []policy.Addition
		if err := c.apply([]conf{co}, func(_ string, b policy.Bound) { added = b.Resources(k.Self) }); err != nil {
			out = append(out, built{problem: &Problem{Text: err.Error(), Policies: co.Policies}})
		}
		for _, a := range added {
			if a.Problem != "" {
				out = append(out, built{problem: &Problem{Text: a.Problem, Policies: co.Policies}})
				continue
			}
			out = append(out, addition(a, co.Policies))
		}
	}
	return out
}

func addition(a policy.Addition, origins []resource.KRI) built {
	t, name, m := Cluster, a.Cluster.GetName(), proto.Message(a.Cluster)
	if a.Listener != nil {
		t, name, m = Listener, a.Listener.Name, a.Listener
	}
	if a.Routes != nil {
		t, name, m = Route, a.Routes.Name, a.Routes
	}
	f, err := NewFragment(t, name, m)
	if err != nil {
		return built{problem: &Problem{Ref{t, name}, err.Error(), origins}}
	}
	f.Origins, f.Refs = origins, refsOf(m)
	return built{frag: f}
}
