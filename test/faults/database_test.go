package faults_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store/backend"
	"github.com/causeway-mesh/causeway/test/pg"
)

// pair runs two instances of one zone on one database.
func pair(t *testing.T, dsn string) (a, b *zone) {
	t.Helper()
	dirs := [2]string{t.TempDir(), t.TempDir()}
	first := settings(t, dirs[0], backend.Postgres)
	first.Store.Postgres.DSN = dsn
	a = start(t, first)
	keys, err := os.ReadFile(filepath.Join(dirs[0], "sealing.keys"))
	if err != nil {
		t.Fatal(err)
	}
	second := settings(t, dirs[1], backend.Postgres)
	second.Store.Postgres.DSN, second.Store.Keys = dsn, string(keys)
	b = start(t, second)
	b.token = a.token // the first administrator is that of the store
	return a, b
}

const web = `{"type":"Dataplane","mesh":"default","name":"web","labels":{"kuma.io/workload":"web"},
"networking":{"address":"127.0.0.9","outboundBlock":"127.9.0.0/16","inbound":[{"port":8080,"name":"main","protocol":"http"}]}}`

// A writer makes changes one after the other, each until it is acknowledged: a counter and a new object together.
type writer struct {
	name    string
	zone    *api
	acked   atomic.Int64
	refused atomic.Int64
}

// step makes the n-th change. However often it is repeated, it must be done once.
func (w *writer) step(ctx context.Context, n int) error {
	body := fmt.Sprintf("[%s,%s]", timeout(w.name, n), timeout(fmt.Sprintf("%s-%d", w.name, n), n))
	pace := time.NewTicker(10 * time.Millisecond) // a client that does not care for Retry-After
	defer pace.Stop()
	for ; ; <-pace.C {
		res, err := w.zone.try(ctx, "POST", "/batch", body, "Idempotency-Key", fmt.Sprintf("%s/%d", w.name, n))
		switch {
		case err != nil:
			return err
		case res.status == http.StatusServiceUnavailable:
			w.refused.Add(1)
			if res.header.Get("Retry-After") == "" {
				return fmt.Errorf("%s: no Retry-After", res)
			}
			continue
		case res.status != http.StatusOK:
			return fmt.Errorf("change %d of %s: %s", n, w.name, res)
		}
		var out struct {
			Items []struct {
				Name, ETag string
			}
		}
		if err := json.Unmarshal([]byte(res.body), &out); err != nil {
			return err
		}
		if len(out.Items) != 2 || versionOf(out.Items[0].ETag) != n || versionOf(out.Items[1].ETag) != 1 {
			return fmt.Errorf("change %d of %s was not done exactly once: %s", n, w.name, res)
		}
		w.acked.Store(int64(n))
		return nil
	}
}

// A fleet is writers that run until they are told to stop.
type fleet struct {
	writers []*writer
	stop    chan struct{}
	failed  chan error
	running sync.WaitGroup
}

func launch(ctx context.Context, writers ...*writer) *fleet {
	f := &fleet{writers: writers, stop: make(chan struct{}), failed: make(chan error, len(writers))}
	for _, w := range writers {
		f.running.Go(func() {
			for n := 1; ; n++ {
				if err := w.step(ctx, n); err != nil {
					f.failed <- err
					return
				}
				select {
				case <-f.stop:
					return
				default:
				}
			}
		})
	}
	return f
}

// each waits until something happened to every writer so many times more.
func (f *fleet) each(t *testing.T, what string, of func(*writer) *atomic.Int64, least int64) {
	t.Helper()
	begin := time.Now()
	var from []int64
	for _, w := range f.writers {
		from = append(from, of(w).Load())
	}
	until(t, what, func() (any, bool) {
		select {
		case err := <-f.failed:
			t.Fatal(err)
		default:
		}
		more, ok := make([]int64, len(from)), true
		for i, w := range f.writers {
			more[i] = of(w).Load() - from[i]
			ok = ok && more[i] >= least
		}
		return more, ok
	})
	t.Logf("%s: after %s", what, time.Since(begin).Round(time.Millisecond))
}

func acked(w *writer) *atomic.Int64   { return &w.acked }
func refused(w *writer) *atomic.Int64 { return &w.refused }

func TestDatabaseAway(t *testing.T) {
	server := pg.Start(t)
	a, b := pair(t, server.Database(t))
	a.must(t, "PUT", "/meshes/default/dataplanes/web", web)
	a.must(t, "PUT", timeouts+"before", timeout("before", 7))
	until(t, "the other instance shows what was written", func() (any, bool) {
		s, err := b.read(t.Context(), "before")
		return fmt.Sprint(s, err), err == nil && s.n == 7
	})
	var before int
	until(t, "both instances compute with the service that is generated", func() (any, bool) {
		before = clusters(t, a)
		return before, before >= 2 && clusters(t, b) == before // its own inbound and the service
	})
	away := func() {
		t.Helper()
		for _, z := range []*zone{a, b} {
			servesFromMemory(t, z)
			if now := clusters(t, z); now != before {
				t.Errorf("the proxy gets %d clusters, it had %d", now, before)
			}
		}
	}

	server.Stop(t)
	away()
	refusesWrites(t, a)
	refusesWrites(t, b)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	f := launch(ctx, &writer{name: "w0", zone: a.api}, &writer{name: "w1", zone: a.api}, &writer{name: "w2", zone: b.api})
	t.Cleanup(func() { cancel(); f.running.Wait() })
	f.each(t, "writers are refused", refused, 2)
	server.Restart(t)
	f.each(t, "writers get on when it is back", acked, 5)
	for range 3 { // at any moment of their commits
		server.Stop(t)
		away()
		server.Restart(t)
		f.each(t, "writers get on after it was taken from them", acked, 3)
	}
	close(f.stop)
	f.running.Wait()

	for _, z := range []*zone{a, b} {
		until(t, "an instance shows everything that was acknowledged", func() (any, bool) {
			missing := lost(t, z, f.writers)
			return missing, len(missing) == 0
		})
	}
	for _, w := range f.writers {
		s, err := a.read(t.Context(), w.name)
		if n := int(w.acked.Load()); err != nil || s != (stored{n, n}) {
			t.Errorf("%s: stored %+v (%v), want version and value %d", w.name, s, err, n)
		}
		t.Logf("%s: %d changes, %d refusals", w.name, w.acked.Load(), w.refused.Load())
	}
}

// lost lists what writers were told is stored and a zone does not show, and what it shows beyond that.
func lost(t *testing.T, z *zone, writers []*writer) []string {
	t.Helper()
	var out []string
	have := z.numbers(t)
	want := 0
	for _, w := range writers {
		n := int(w.acked.Load())
		want += n + 1
		if have[w.name] != n {
			out = append(out, fmt.Sprintf("%s is %d, not %d", w.name, have[w.name], n))
		}
		for i := 1; i <= n; i++ {
			if name := fmt.Sprintf("%s-%d", w.name, i); have[name] != i {
				out = append(out, fmt.Sprintf("%s is %d", name, have[name]))
			}
		}
	}
	delete(have, "before")
	if len(have) != want {
		out = append(out, fmt.Sprintf("%d objects, not %d", len(have), want))
	}
	return out
}

func servesFromMemory(t *testing.T, z *zone) {
	t.Helper()
	if s, err := z.read(t.Context(), "before"); err != nil || s.n != 7 {
		t.Errorf("GET: %+v %v", s, err)
	}
	if have := z.numbers(t); have["before"] != 7 {
		t.Errorf("the list lacks what was written: %v", have)
	}
	if res := z.call(t, "GET", "/meshes/default/dataplanes/web", ""); !res.ok() {
		t.Errorf("GET Dataplane: %s", res)
	}
	if res := z.call(t, "POST", "/tokens/dataplane", `{"mesh":"default","name":"web"}`); !res.ok() {
		t.Errorf("a token, which needs no store: %s", res)
	}
	if code, body := z.probe(t, "/ready"); code != http.StatusOK {
		t.Errorf("/ready: %d %s", code, body)
	}
	if code, body := z.probe(t, "/healthy"); code != http.StatusOK {
		t.Errorf("/healthy: %d %s", code, body)
	}
}

func refusesWrites(t *testing.T, z *zone) {
	t.Helper()
	for what, res := range map[string]answer{
		"create": z.call(t, "PUT", timeouts+"away", timeout("away", 1)),
		"update": z.call(t, "PUT", timeouts+"before", timeout("before", 8)),
		"delete": z.call(t, "DELETE", timeouts+"before", ""),
		"batch":  z.call(t, "POST", "/batch", "["+timeout("away", 1)+"]"),
		"mesh":   z.call(t, "PUT", "/meshes/away", `{"type":"Mesh","name":"away"}`),
	} {
		r := res.refusal(t)
		if res.status != http.StatusServiceUnavailable || res.header.Get("Retry-After") == "" ||
			!strings.Contains(r.Detail, "store") || !strings.Contains(r.Detail, "Repeat the request") {
			t.Errorf("%s: %s (Retry-After %q), want 503 that says what is wrong and what to do", what, res, res.header.Get("Retry-After"))
		}
	}
}

// clusters counts what the proxy "web" gets.
func clusters(t *testing.T, z *zone) int {
	t.Helper()
	n := 0
	until(t, "the proxy has a configuration", func() (any, bool) {
		table, problems, err := z.Engine().Inspect(t.Context(), resource.Key{Type: mesh.TypeDataplane, Mesh: "default", Name: "web"})
		if err != nil || table == nil || len(problems) > 0 {
			return fmt.Sprint(problems, err), false
		}
		n = 0
		for _, part := range []*envoy.Part{table.Shared, table.Own} {
			if part != nil {
				n += len(part.Of(envoy.Cluster))
			}
		}
		return n, n > 0
	})
	return n
}

func TestTwoInstancesOneWinnerPerVersion(t *testing.T) {
	a, b := pair(t, pg.Database(t))
	const rounds, perZone = 10, 3
	tag := a.must(t, "PUT", timeouts+"contested", timeout("contested", 1)).header.Get("ETag")
	for round := 1; round <= rounds; round++ {
		until(t, "the other instance shows the write", func() (any, bool) {
			s, err := b.read(t.Context(), "contested")
			return fmt.Sprint(s, err), err == nil && s.version == round
		})
		type try struct {
			n   int
			res answer
			err error
		}
		tries := make(chan try, 2*perZone)
		begin := make(chan struct{})
		for i := range 2 * perZone {
			z := []*zone{a, b}[i%2]
			go func() {
				<-begin
				n := 100*round + i
				res, err := z.try(t.Context(), "PUT", timeouts+"contested", timeout("contested", n), "If-Match", tag)
				tries <- try{n, res, err}
			}()
		}
		close(begin)
		won := 0
		for range 2 * perZone {
			switch got := <-tries; {
			case got.err != nil:
				t.Fatal(got.err)
			case got.res.ok():
				if won != 0 {
					t.Fatalf("round %d: %d and %d both replaced version %d", round, won, got.n, round)
				}
				won, tag = got.n, got.res.header.Get("ETag")
				if v := got.res.version(); v != round+1 {
					t.Errorf("round %d: the winner made version %d", round, v)
				}
			case got.res.status != http.StatusPreconditionFailed:
				t.Errorf("round %d: %s, want 412", round, got.res)
			}
		}
		if s, err := a.read(t.Context(), "contested"); won == 0 || err == nil && s.version == round+1 && s.n != won {
			t.Fatalf("round %d: winner %d, stored %+v (%v)", round, won, s, err)
		}
		until(t, "the first instance shows the winner", func() (any, bool) {
			s, err := a.read(t.Context(), "contested")
			return fmt.Sprint(s, err), err == nil && s == stored{round + 1, won}
		})
	}
}
