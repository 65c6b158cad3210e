package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/causeway-mesh/causeway/api/client"
	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/api/mesh"
)

// connectTimeout reads the one field of a cluster that tells the changes of a stream apart, in milliseconds.
func connectTimeout(cluster []byte) int {
	seconds, nanos := uint64(0), uint64(0)
	for b := cluster; len(b) > 0; {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return 0
		}
		size := protowire.ConsumeFieldValue(num, typ, b[n:])
		if size < 0 {
			return 0
		}
		if value := b[n : n+size]; num == 4 && typ == protowire.BytesType {
			d, _ := protowire.ConsumeBytes(value)
			for len(d) > 0 {
				num, _, n := protowire.ConsumeTag(d)
				if n < 0 {
					return 0
				}
				v, m := protowire.ConsumeVarint(d[n:])
				if m < 0 {
					return 0
				}
				if d = d[n+m:]; num == 1 {
					seconds = v
				} else {
					nanos = v
				}
			}
		}
		b = b[n+size:]
	}
	return int(seconds*1000 + nanos/1e6)
}

// stream changes a timeout of the whole mesh ten times a second and measures each of them at each proxy. A proxy that goes from one state
// to a later one has those between, too.
func (w *world) stream(ctx context.Context, what string) (row, error) {
	const perSecond, base = 10, 3000
	changes := w.o.seconds * perSecond
	reached := make([][]time.Time, w.n) // by proxy and change
	pending, upTo := make([]int, w.n), make([]int, w.n)
	for i := range reached {
		reached[i] = make([]time.Time, changes)
	}
	var watched string
	for name := range w.fleet.Proxy(0).Held(envoy.Cluster) {
		if strings.HasPrefix(name, "kri_msvc_") && (watched == "" || name < watched) {
			watched = name
		}
	}
	var complete atomic.Int64
	var mu sync.Mutex // proxies have goroutines of their own, but only a lock tells the reader below that they have written
	took := func(i int, t envoy.Type, name string, body []byte) {
		if t == envoy.Cluster && name == watched {
			mu.Lock()
			defer mu.Unlock()
			pending[i] = max(pending[i], connectTimeout(body)-base+1)
		}
	}
	settled := func(i int) {
		now := time.Now()
		mu.Lock()
		defer mu.Unlock()
		for ; upTo[i] < min(pending[i], changes); upTo[i]++ {
			reached[i][upTo[i]] = now
			if upTo[i] == changes-1 {
				complete.Add(1)
			}
		}
	}
	w.took.Store(&took)
	w.settled.Store(&settled)
	defer w.took.Store(nil)
	defer w.settled.Store(nil)
	spent, err := w.costing()
	if err != nil {
		return row{}, err
	}
	bytes, messages := w.fleet.Bytes(), w.fleet.Responses()
	at := make([]time.Time, changes)
	tick := time.NewTicker(time.Second / perSecond)
	defer tick.Stop()
	begin := time.Now()
	for k := range changes {
		_, err := write(ctx, w.global, fmt.Sprintf("type: MeshTimeout\nmesh: default\nname: all\nspec: {to: [{targetRef: {kind: Mesh}, default: {connectionTimeout: %dms}}]}", base+k))
		if err != nil {
			return row{}, err
		}
		at[k] = time.Now()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return row{}, ctx.Err()
		}
	}
	wrote := time.Since(begin)
	if err := until(ctx, "all proxies have the last change", func() (any, bool) { return complete.Load(), complete.Load() == int64(w.n) }); err != nil {
		return row{}, err
	}
	r := row{What: what, Proxies: w.n, Reached: w.n, Rounds: changes}
	if r.CPU, r.Memory, err = spent.end(changes); err != nil {
		return r, err
	}
	r.Bytes = (w.fleet.Bytes() - bytes) / int64(changes)
	r.Messages = float64(w.fleet.Responses()-messages) / float64(changes)
	var ours, theirs tally
	mu.Lock()
	for k := range changes {
		var round []time.Duration
		for i := range w.n {
			round = append(round, max(0, reached[i][k].Sub(at[k])))
		}
		ours.add(round)
	}
	mu.Unlock()
	l := ours.spread()
	r.Latency = &l
	perProxy := max(1, int(r.Messages+0.5)/w.n)
	before, err := cpu(w.ceiling.cmd.Process.Pid)
	if err != nil {
		return r, err
	}
	const pushes = 30
	for range pushes {
		round, err := w.ceiling.push(ctx, w.n, perProxy, int(r.Bytes)/w.n/perProxy)
		if err != nil {
			return r, err
		}
		theirs.add(round)
	}
	after, err := cpu(w.ceiling.cmd.Process.Pid)
	if err != nil {
		return r, err
	}
	r.Ceiling = &ceiled{theirs.spread(), ms(after-before) / pushes}
	r.Figures = []figure{{"changes written in", wrote.Seconds(), "s"}}
	return r, nil
}

// rolling replaces the endpoint of every proxy by one of another address within a time.
func (w *world) rolling(ctx context.Context, what string) (row, error) {
	spent, err := w.costing()
	if err != nil {
		return row{}, err
	}
	bytes, messages, begin := w.fleet.Bytes(), w.fleet.Responses(), time.Now()
	var written atomic.Int64 // when the last write was sent, for its answer may come later than the proxies'
	var writers errgroup.Group
	writers.SetLimit(8)
	tick := time.NewTicker(time.Duration(w.o.rolling) * time.Second / time.Duration(w.n))
	defer tick.Stop()
	for i := range w.n {
		writers.Go(func() error {
			if _, err := write(ctx, w.east, dataplane(fmt.Sprintf("next-%d", i), workload(i, w.o.services), 30_000+i, "")); err != nil {
				return err
			}
			if i < w.o.services { // the first of each service have no predecessor
				return nil
			}
			written.Store(time.Now().UnixNano())
			return remove(ctx, w.east, mesh.TypeDataplane, fmt.Sprintf("next-%d", i-w.o.services))
		})
		select {
		case <-tick.C:
		case <-ctx.Done():
			return row{}, errors.Join(ctx.Err(), writers.Wait())
		}
	}
	if err := writers.Wait(); err != nil {
		return row{}, err
	}
	last := time.Unix(0, written.Load())
	wrote := time.Since(begin)
	if err := w.quiet(ctx, "all proxies have acknowledged", pause, func(i int) bool { return w.fleet.Proxy(i).Settled().After(last) }); err != nil {
		return row{}, err
	}
	var later time.Duration
	for i := range w.n {
		later = max(later, w.fleet.Proxy(i).Settled().Sub(last))
	}
	r := row{What: what, Proxies: w.n, Reached: w.n}
	cpus, peaks, err := spent.end(1)
	r.CPU, r.Memory = cpus, peaks
	r.Figures = []figure{
		{"endpoints replaced", float64(w.n), ""},
		{"in", wrote.Seconds(), "s"},
		{"from the last write to the last proxy", ms(later), "ms"},
		{"sent", float64(w.fleet.Bytes()-bytes) / (1 << 20), "MiB"},
		{"messages", float64(w.fleet.Responses() - messages), ""},
	}
	for _, c := range cpus {
		r.Figures = append(r.Figures, figure{c.Process + " CPU", c.Amount / 1000, "s"})
	}
	return r, err
}

// A footprint is the memory of zone east with nothing to collect.
type footprint struct{ resident, inUse float64 }

func (w *world) memory(ctx context.Context) (f footprint, err error) {
	if err := w.east.collect(ctx); err != nil {
		return f, err
	}
	rss, _, err := memory(w.east.pid())
	if err != nil {
		return f, err
	}
	f.resident = float64(rss)
	for _, name := range []string{"go_memstats_heap_alloc_bytes", "go_memstats_stack_inuse_bytes"} {
		v, err := w.east.gauge(ctx, name)
		if err != nil {
			return f, err
		}
		f.inUse += v
	}
	return f, nil
}

// idle measures what connected proxies hold, and what they cost while nothing happens.
func (w *world) idle(ctx context.Context, what string, begin footprint) (row, error) {
	now, err := w.memory(ctx)
	if err != nil {
		return row{}, err
	}
	const long = 20 * time.Second
	began := map[*plane]time.Duration{}
	for _, p := range w.planes() {
		if began[p], err = cpu(p.pid()); err != nil {
			return row{}, err
		}
	}
	select {
	case <-time.After(long):
	case <-ctx.Done():
		return row{}, ctx.Err()
	}
	n := float64(w.n)
	r := row{What: what, Proxies: w.n, Figures: []figure{
		{"heap and stacks per proxy", (now.inUse - begin.inUse) / n / 1024, "KiB"},
		{"resident per proxy", (now.resident - begin.resident) / n / 1024, "KiB"},
		{"zone resident", now.resident / (1 << 20), "MiB"},
	}}
	for _, p := range w.planes() {
		at, err := cpu(p.pid())
		if err != nil {
			return r, err
		}
		r.Figures = append(r.Figures, figure{p.name + " idle", 100 * (at - began[p]).Seconds() / long.Seconds(), "% of a core"})
	}
	audits, err := w.east.gauge(ctx, "causeway_push_audits_total")
	if err != nil {
		return r, err
	}
	differences, err := w.east.gauge(ctx, "causeway_push_audit_differences_total")
	if err != nil {
		return r, err
	}
	r.Figures = append(r.Figures, figure{"audits", audits, ""}, figure{"audit differences", differences, ""})
	return r, nil
}

// restart kills the zone's control plane with all proxies waiting, and starts it again.
func (w *world) restart(ctx context.Context, what string) (row, error) {
	w.east.kill()
	if err := until(ctx, "no proxy has a stream", func() (any, bool) { return w.fleet.Streams(), w.fleet.Streams() == 0 }); err != nil {
		return row{}, err
	}
	had := make([]int, w.n)
	asked := 0
	for i, a := range w.agents {
		had[i] = w.fleet.Proxy(i).Responses()
		_, _, certificates := a.Asked()
		asked += certificates
	}
	ownBefore, err := cpu(os.Getpid())
	if err != nil {
		return row{}, err
	}
	resources, bytes, begin := w.fleet.Resources(), w.fleet.Bytes(), time.Now()
	if err := w.east.start(ctx); err != nil {
		return row{}, err
	}
	answers := time.Since(begin)
	// An answer about clusters and one about listeners, both empty when the proxy has everything.
	if err := w.quiet(ctx, "all proxies are greeted", time.Second, func(i int) bool { return w.fleet.Proxy(i).Responses() >= had[i]+2 }); err != nil {
		return row{}, err
	}
	var last time.Duration
	again := -asked
	for i, a := range w.agents {
		last = max(last, w.fleet.Proxy(i).Settled().Sub(begin))
		_, _, certificates := a.Asked()
		again += certificates
	}
	spent, err := cpu(w.east.pid())
	if err != nil {
		return row{}, err
	}
	own, err := cpu(os.Getpid())
	if err != nil {
		return row{}, err
	}
	return row{What: what, Proxies: w.n, Figures: []figure{
		{"API answers after", ms(answers), "ms"},
		{"all proxies configured after", ms(last), "ms"},
		{"resources sent again", float64(w.fleet.Resources() - resources), ""},
		{"sent", float64(w.fleet.Bytes()-bytes) / 1024, "KiB"},
		{"certificates issued again", float64(again), ""},
		{"zone CPU", spent.Seconds(), "s"},
		{"CPU of the proxies, which share the machine", (own - ownBefore).Seconds(), "s"},
	}}, nil
}

// fresh measures from the start of a new zone until it has everything that global has.
func (w *world) fresh(ctx context.Context, what string) (row, error) {
	if err := fill(ctx, w.global, "nobody", 0, w.o.objects); err != nil {
		return row{}, err
	}
	if err := until(ctx, "the zones that are there have it", func() (any, bool) { return count(ctx, w.east, w.o.objects) }); err != nil {
		return row{}, err
	}
	begin := time.Now()
	z, err := w.join(ctx, "fresh")
	if err != nil {
		return row{}, err
	}
	defer z.kill()
	linked := time.Now()
	if err := until(ctx, "the new zone has everything", func() (any, bool) { return count(ctx, z, w.o.objects) }); err != nil {
		return row{}, err
	}
	spent, err := cpu(z.pid())
	return row{What: what, Proxies: w.n, Figures: []figure{
		{"objects", float64(w.o.objects), ""},
		{"from its start", ms(time.Since(begin)), "ms"},
		{"from having its first objects", ms(time.Since(linked)), "ms"},
		{"its CPU", spent.Seconds(), "s"},
	}}, err
}

// fill writes policies that select nobody.
func fill(ctx context.Context, p *plane, prefix string, first, n int) error {
	for first < n {
		var docs []json.RawMessage
		for ; first < n && len(docs) < 500; first++ {
			docs = append(docs, policy(fmt.Sprintf("%s-%d", prefix, first), first))
		}
		if _, err := p.Batch(ctx, docs, meshName, client.Precondition{}); err != nil {
			return err
		}
	}
	return nil
}

func policy(name string, i int) []byte {
	return fmt.Appendf(nil, `{"type":"MeshTimeout","mesh":"default","name":%q,"spec":{"targetRef":{"kind":"Dataplane","labels":{"nobody":"n"}},"to":[{"targetRef":{"kind":"Mesh"},"default":{"connectionTimeout":"%dms"}}]}}`, name, 1000+i)
}

// count says whether a control plane has at least n timeouts.
func count(ctx context.Context, p *plane, n int) (any, bool) {
	resp, err := p.Do(ctx, client.Request{Method: http.MethodGet, Path: "/meshes/default/meshtimeouts", Query: url.Values{"size": {"1"}}})
	var list struct{ Total int }
	if err == nil {
		err = json.Unmarshal(resp.Body, &list)
	}
	return fmt.Sprint(list.Total, err), err == nil && list.Total >= n
}

// apart runs what needs no proxies.
func apart(ctx context.Context, o options, dir string, note func(row)) error {
	stores := map[string][]string{"embedded": {"--store-type", "embedded"}}
	if o.postgres != "" {
		stores["PostgreSQL"] = []string{"--store-type", "postgres", "--store-postgres-dsn", o.postgres}
	}
	for name, args := range stores {
		if !o.only.MatchString("REST on " + name) {
			continue
		}
		if err := rest(ctx, o, filepath.Join(dir, "rest-"+name), name, args, note); err != nil {
			return fmt.Errorf("REST on %s: %w", name, err)
		}
	}
	return nil
}
