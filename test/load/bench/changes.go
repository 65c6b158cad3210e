package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
)

// A change is something that is written again and again, a little different each time.
type change struct {
	what  string
	write func(ctx context.Context, round int) error
	// undo is done before the next round, unmeasured. Nil: nothing.
	undo func(ctx context.Context, round int) error
	// reaches says which proxies have to do with it. Nil: all.
	reaches func(i int) bool
	// trust says that it comes to agents, not to their proxies.
	trust bool
}

// chosen is the service that some changes are about.
const chosen = 3

func (w *world) changes() []change {
	one := func(p *plane, format string, args ...any) func(context.Context, int) error {
		return func(ctx context.Context, round int) error {
			_, err := write(ctx, p, fmt.Sprintf(format, append([]any{round}, args...)...))
			return err
		}
	}
	service := chosen % w.o.services
	ref := fmt.Sprintf("{kind: MeshService, labels: {kuma.io/display-name: svc-%d, kuma.io/zone: east}}", service)
	extra := func(state mesh.InboundState) func(context.Context, int) error {
		return func(ctx context.Context, _ int) error {
			_, err := write(ctx, w.east, dataplane("extra", workload(service, w.o.services), 60_000, state))
			return err
		}
	}
	gone := func(ctx context.Context, _ int) error { return remove(ctx, w.east, mesh.TypeDataplane, "extra") }
	return []change{
		{what: "mesh-wide timeout", write: one(w.global, "type: MeshTimeout\nmesh: default\nname: all\nspec: {to: [{targetRef: {kind: Mesh}, default: {connectionTimeout: 2%03dms, http: {requestTimeout: 9%[1]ds}}}]}")},
		{what: "timeout of one service", write: one(w.global, "type: MeshTimeout\nmesh: default\nname: one\nspec: {to: [{targetRef: %[2]s, default: {http: {requestTimeout: 8%[1]ds}}}]}", ref)},
		{what: "route edit", write: one(w.global, "type: MeshHTTPRoute\nmesh: default\nname: route\nspec: {to: [{targetRef: %[2]s, rules: [{matches: [{path: {type: PathPrefix, value: /v%[1]d}}], default: {filters: []}}]}]}", ref)},
		{
			what: "permission edit", reaches: func(i int) bool { return i%w.o.services == service },
			write: one(w.global, "type: MeshTrafficPermission\nmesh: default\nname: may\nspec: {targetRef: {kind: Dataplane, labels: {kuma.io/workload: %[2]s}}, rules: [{default: {allow: [{spiffeID: {type: Exact, value: \"spiffe://default.east.mesh.local/c%[1]d\"}}]}}]}", workload(service, w.o.services)),
		},
		{what: "endpoint added", write: extra(""), undo: gone},
		{what: "endpoint made unready", write: extra(mesh.StateNotReady), undo: extra("")},
		{what: "endpoint removed", write: gone, undo: extra("")},
		{
			what: "service added", undo: func(ctx context.Context, round int) error {
				return remove(ctx, w.east, mesh.TypeMeshService, fmt.Sprintf("new-%d", round))
			},
			write: one(w.east, "type: MeshService\nmesh: default\nname: new-%d\nspec: {selector: {dataplaneLabels: {matchLabels: {kuma.io/workload: svc-0}}}, ports: [{port: 80, targetPort: 8080, appProtocol: http}]}"),
		},
		{
			what: "service added in another zone", undo: func(ctx context.Context, round int) error {
				return remove(ctx, w.west, mesh.TypeMeshService, fmt.Sprintf("far-%d", round))
			},
			write: one(w.west, "type: MeshService\nmesh: default\nname: far-%d\nspec: {selector: {dataplaneLabels: {matchLabels: {kuma.io/workload: west-0}}}, ports: [{port: 80, targetPort: 8080, appProtocol: http}]}"),
		},
		{what: "bundle change", trust: true, write: func(ctx context.Context, round int) error {
			root, err := authority(round)
			if err != nil {
				return err
			}
			_, err = write(ctx, w.global, fmt.Sprintf("type: MeshTrust\nmesh: default\nname: partner\nspec: {trustDomain: partner.example, caBundles: [{type: Pem, pem: {value: %q}}]}", root))
			return err
		}},
	}
}

// authority is a new root in PEM.
func authority(serial int) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(int64(serial + 1)), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// pause is how long nothing must come until a change counts as over.
const pause = 400 * time.Millisecond

// measure makes a world and changes it.
func measure(ctx context.Context, o options, dir string, n int, note func(row)) (err error) {
	w, err := newWorld(ctx, o, dir, n)
	if err != nil {
		return err
	}
	defer w.close()
	defer func() { err = w.explain(err) }()
	begin, err := w.memory(ctx)
	if err != nil {
		return err
	}
	start := time.Now()
	if err := w.populate(ctx); err != nil {
		return err
	}
	note(row{What: "all proxies new", Proxies: n, Figures: []figure{
		{"enrolled, certified and configured after", (time.Since(start) - time.Second).Seconds(), "s"},
		{"clusters of a proxy", float64(len(w.fleet.Proxy(0).Held(0))), ""},
		{"sent", float64(w.fleet.Bytes() >> 20), "MiB"},
	}})
	if w.ceiling, err = newCeiling(ctx, n); err != nil {
		return err
	}
	w.ends = append(w.ends, w.ceiling.close)
	for _, c := range w.changes() {
		if !o.only.MatchString(c.what) {
			continue
		}
		r, err := w.rounds(ctx, c)
		if err != nil {
			return fmt.Errorf("%s: %w", c.what, err)
		}
		note(r)
	}
	for _, s := range []struct {
		what string
		run  func(context.Context, string) (row, error)
	}{
		{"10 changes a second", w.stream},
		{"rolling deployment", w.rolling},
		{"memory and idle", func(ctx context.Context, what string) (row, error) { return w.idle(ctx, what, begin) }},
		{"zone killed and restarted", w.restart},
		{"fresh zone", w.fresh},
	} {
		if !o.only.MatchString(s.what) {
			continue
		}
		r, err := s.run(ctx, s.what)
		if err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
		note(r)
	}
	return nil
}

// rounds measures one kind of change, and the ceiling after each round.
func (w *world) rounds(ctx context.Context, c change) (row, error) {
	if c.reaches == nil {
		c.reaches = func(int) bool { return true }
	}
	reached := 0
	for i := range w.n {
		if c.reaches(i) {
			reached++
		}
	}
	r := row{What: c.what, Proxies: w.n, Reached: reached, Rounds: w.o.rounds}
	if c.undo != nil { // so that there is something to do
		if err := w.prepare(ctx, c); err != nil {
			return r, err
		}
	}
	var ours, theirs, whole tally
	var ceilingCPU time.Duration
	spent := map[string]float64{}
	for round := range w.o.rounds + 1 {
		s, err := w.round(ctx, c, round)
		if err != nil {
			return r, err
		}
		messages := 1
		if reached > 0 && s.messages > 0 {
			messages = max(1, int(s.messages)/reached)
		}
		size := int(s.bytes) / max(1, reached*messages)
		before, err := cpu(w.ceiling.cmd.Process.Pid)
		if err != nil {
			return r, err
		}
		took, err := w.ceiling.push(ctx, reached, messages, size)
		if err != nil {
			return r, err
		}
		after, err := cpu(w.ceiling.cmd.Process.Pid)
		if err != nil {
			return r, err
		}
		if round == 0 {
			continue // it finds cold caches, and the object may be new
		}
		ours.add(s.took)
		theirs.add(took)
		whole.add([]time.Duration{s.whole})
		ceilingCPU += after - before
		r.Bytes += s.bytes / int64(w.o.rounds)
		r.Messages += float64(s.messages) / float64(w.o.rounds)
		for _, x := range s.cpu {
			spent[x.Process] += x.Amount / float64(w.o.rounds)
		}
		r.Memory = s.memory
	}
	for _, p := range w.planes() {
		r.CPU = append(r.CPU, share{p.name, spent[p.name]})
	}
	l := ours.spread()
	r.Latency, r.Whole = &l, whole.spread().Last
	if !c.trust {
		r.Ceiling = &ceiled{theirs.spread(), ms(ceilingCPU) / float64(w.o.rounds)}
	}
	return r, nil
}

// prepare brings about what the first round needs, as if one had been undone.
func (w *world) prepare(ctx context.Context, c change) error {
	switch c.what {
	case "endpoint made unready", "endpoint removed":
		if err := c.undo(ctx, 0); err != nil {
			return err
		}
		return w.quiet(ctx, "what is changed first is with all", pause, func(int) bool { return true })
	}
	return nil
}

// A sample is one round.
type sample struct {
	took            []time.Duration
	whole           time.Duration // from sending the write to the last
	bytes, messages int64
	cpu, memory     []share
}

func (w *world) round(ctx context.Context, c change, round int) (s sample, err error) {
	spent, err := w.costing()
	if err != nil {
		return s, err
	}
	bytes, messages := w.fleet.Bytes(), w.fleet.Responses()
	begin := time.Now()
	if err := c.write(ctx, round); err != nil {
		return s, err
	}
	at := time.Now()
	when := func(i int) time.Time {
		if c.trust {
			return w.agents[i].Trusted()
		}
		return w.fleet.Proxy(i).Settled()
	}
	err = w.quiet(ctx, "all proxies have acknowledged", pause, func(i int) bool { return !c.reaches(i) || when(i).After(begin) })
	if err != nil {
		return s, err
	}
	for i := range w.n {
		if c.reaches(i) {
			s.took = append(s.took, max(0, when(i).Sub(at)))
			s.whole = max(s.whole, when(i).Sub(begin))
		}
	}
	s.bytes, s.messages = w.fleet.Bytes()-bytes, w.fleet.Responses()-messages
	if s.cpu, s.memory, err = spent.end(1); err != nil {
		return s, err
	}
	if c.undo != nil {
		if err := c.undo(ctx, round); err != nil {
			return s, err
		}
		err = w.quiet(ctx, "the change is undone", pause, func(int) bool { return true })
	}
	return s, err
}
