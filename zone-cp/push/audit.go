package push

import (
	"maps"
	"time"

	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
)

// An audit recomputes what connected proxies get from scratch and compares. A difference is a bug of ours.
type audit struct {
	cfg       Config
	sequence  uint64
	resources []resource.Resource
	facts     map[resource.Key]view.Facts
	statuses  map[resource.Key]view.Status
	remotes   map[resource.Key]view.Remote
	gateways  map[resource.Key]view.Gateway
	envoys    map[resource.Key]string
	refused   map[string]*view.Refusals
	unusable  map[resource.Key]string
	want      map[resource.Key]envoy.ProxyConfig
}

type auditResult struct {
	sequence uint64
	proxies  int
	took     time.Duration
	// different lists the proxies whose incremental tables were wrong.
	different []resource.Key
}

// prepareAudit copies the inputs; resources are immutable, so this is cheap.
func (s *state) prepareAudit() audit {
	a := audit{
		cfg: s.cfg, sequence: s.sequence, resources: s.view.Resources(),
		facts: maps.Clone(s.facts), statuses: s.view.Statuses(), want: map[resource.Key]envoy.ProxyConfig{},
		remotes: maps.Clone(s.remotes), gateways: maps.Clone(s.gateways),
		envoys: maps.Clone(s.envoys), refused: maps.Clone(s.refused),
		unusable: s.view.Unusables(),
	}
	for k, p := range s.proxies {
		a.want[k] = p.last
	}
	return a
}

// compiler computes from scratch.
func (a audit) compiler(shadow bool) *envoy.Compiler {
	v := newView(a.cfg, shadow)
	for _, r := range a.resources {
		v.Put(r)
	}
	for k, f := range a.facts {
		v.SetFacts(k, &f)
	}
	for k, st := range a.statuses {
		v.SetStatus(k, st)
	}
	for k, m := range a.remotes {
		v.SetRemote(k, &m)
	}
	for k, g := range a.gateways {
		v.SetGateway(k, &g)
	}
	setEnvoys(v, a.envoys, a.refused)
	for k, reason := range a.unusable {
		v.SetUnusable(k, reason)
	}
	return envoy.NewCompiler(v)
}

// run computes outside the loop.
func (a audit) run() auditResult {
	start := time.Now()
	c := a.compiler(false)
	res := auditResult{sequence: a.sequence, proxies: len(a.want)}
	for k, want := range a.want {
		got := c.Proxy(k).Value()
		if !same(want.Shared, got.Shared) || !same(want.Own, got.Own) {
			res.different = append(res.different, k)
		}
	}
	res.took = time.Since(start)
	return res
}

func same(a, b *envoy.Part) bool {
	d := b.DiffFrom(a)
	for t := range envoy.NumTypes {
		if len(d.Upserts[t]) > 0 || len(d.Removed[t]) > 0 {
			return false
		}
	}
	return true
}

// report counts, logs and heals what an audit found: a fresh state replaces the one that went wrong.
func (e *Engine) report(s *state, r auditResult) {
	e.metrics.audited(len(r.different))
	if len(r.different) == 0 {
		e.cfg.Log.Debug("audit found no difference", "proxies", r.proxies, "took", r.took)
		return
	}
	e.cfg.Log.Error("audit found tables that differ from a computation from scratch; this is a bug in causeway, please report it; the tables are computed anew",
		"proxies", r.proxies, "different", len(r.different), "first", r.different[0].String())
	s.rebuild()
	e.compute(s, func() {})
}

// rebuild computes everything from scratch and keeps the sessions.
func (s *state) rebuild() {
	fresh := newState(s.cfg)
	for _, r := range s.view.Resources() {
		fresh.view.Put(r)
	}
	for k, f := range s.facts {
		fresh.view.SetFacts(k, &f)
	}
	for k, st := range s.view.Statuses() {
		fresh.view.SetStatus(k, st)
	}
	for k, m := range s.remotes {
		fresh.view.SetRemote(k, &m)
	}
	for k, g := range s.gateways {
		fresh.view.SetGateway(k, &g)
	}
	setEnvoys(fresh.view, s.envoys, s.refused)
	for k, reason := range s.view.Unusables() {
		fresh.view.SetUnusable(k, reason)
	}
	s.view, s.compiler = fresh.view, fresh.compiler
	for k, p := range s.proxies {
		p.root = s.compiler.Proxy(k)
	}
}

func setEnvoys(v *view.View, envoys map[resource.Key]string, refused map[string]*view.Refusals) {
	for k, version := range envoys {
		v.SetEnvoy(k, version)
	}
	for version, x := range refused {
		v.SetRefused(version, x)
	}
}
