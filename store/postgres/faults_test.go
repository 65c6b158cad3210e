package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/storetest"
	"github.com/causeway-mesh/causeway/test/pg"
)

func patient(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// until waits for a named condition.
func until(t testing.TB, what string, met func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(2 * time.Minute)
	for !met() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("never happened: %s", what)
		}
	}
}

// counted is the value of a counter of a registry.
func counted(t testing.TB, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// told is what the writers heard.
type told struct {
	mu       sync.Mutex
	yes      map[store.BatchID]store.Committed
	no       map[store.BatchID]error
	unknown  int
	progress atomic.Int64
}

// write commits batches from some writers, each creating an object and counting a shared one, until stop is closed.
func (w *told) write(t *testing.T, s *Store, writers int, stop <-chan struct{}) *sync.WaitGroup {
	w.yes, w.no = make(map[store.BatchID]store.Committed), make(map[store.BatchID]error)
	ctx, cancel := context.WithCancel(patient(t))
	var wg sync.WaitGroup
	t.Cleanup(func() { // a failed test does not stop them
		cancel()
		wg.Wait()
	})
	for i := range writers {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				b := storetest.Batch(storetest.Put(fmt.Sprintf("w%d-%d", i, n), "x", store.ExpectAbsent), storetest.Put("count", "", store.ExpectAny))
				c, err := s.Commit(ctx, b)
				w.mu.Lock()
				switch {
				case ctx.Err() != nil:
					w.mu.Unlock()
					return
				case err == nil:
					w.yes[b.ID] = c
				case errors.Is(err, store.ErrUnknownOutcome):
					w.unknown++
				case errors.Is(err, store.ErrUnavailable):
					w.no[b.ID] = err
				default:
					t.Errorf("commit: %v", err)
				}
				w.mu.Unlock()
				w.progress.Add(1)
			}
		})
	}
	return &wg
}

// check reads the history and compares it with what the writers were told.
func (w *told) check(t *testing.T, s *Store) {
	t.Helper()
	objects, at := storetest.Objects(t, s)
	history := storetest.Follow(t, s, store.Position{}).Until(t, int(at.Revision))
	storetest.Consecutive(t, store.Position{}, history)
	stored := make(map[store.BatchID]store.Committed)
	for _, c := range history {
		stored[c.ID] = c
		if err := w.no[c.ID]; err != nil {
			t.Fatalf("revision %d was refused with %v and is there", c.Position.Revision, err)
		}
	}
	for id, c := range w.yes {
		if got, ok := stored[id]; !ok || got.Position != c.Position {
			t.Fatalf("the acknowledged batch at %s is lost", c.Position)
		}
	}
	if extra := len(history) - len(w.yes); extra < 0 || extra > w.unknown {
		t.Fatalf("%d batches for %d acknowledged and %d unknown ones", len(history), len(w.yes), w.unknown)
	}
	if got := objects[storetest.Key("count")].Version; got != at.Revision {
		t.Fatalf("the shared object was written %d times by %d batches", got, at.Revision)
	}
	t.Logf("%d acknowledged, %d refused, %d unknown", len(w.yes), len(w.no), w.unknown)
}

// TestReplyOfCommitLost cuts the connection after the server has committed and before it can say so, 200 times.
// The outcome is always found out: every batch is acknowledged and there once.
func TestReplyOfCommitLost(t *testing.T) {
	dsn := pg.Database(t)
	p, through := newProxy(t, dsn)
	reg := prometheus.NewRegistry()
	s := instance(t, Config{DSN: through, Registerer: reg}, defaults())
	witness := instance(t, Config{DSN: dsn}, defaults())
	const rounds = 200
	var cuts, commits atomic.Int64
	p.judged(func(tag string) fate {
		if tag == "COMMIT" && commits.Add(1)%3 != 0 && cuts.Load() < rounds {
			cuts.Add(1)
			return cut
		}
		return pass
	})
	var w told
	stop := make(chan struct{})
	writers := w.write(t, s, 4, stop)
	until(t, "200 cuts", func() bool { return cuts.Load() == rounds })
	close(stop)
	writers.Wait()
	if len(w.no)+w.unknown > 0 {
		t.Errorf("%d batches were refused and %d are unknown: each could be found out", len(w.no), w.unknown)
	}
	if doubts := counted(t, reg, "causeway_store_commit_doubts_total"); doubts < rounds/4 {
		t.Errorf("%v doubts were counted", doubts)
	}
	w.check(t, witness)
}

// TestBackendsKilled ends all server processes of the store at any moment, 200 times.
func TestBackendsKilled(t *testing.T) {
	dsn := pg.Database(t)
	s := instance(t, Config{DSN: dsn}, defaults())
	f := storetest.Follow(t, s, store.Position{})
	killer, err := pgx.Connect(patient(t), dsn+"&application_name=killer")
	if err != nil {
		t.Fatal(err)
	}
	defer killer.Close(context.Background())
	var w told
	stop := make(chan struct{})
	writers := w.write(t, s, 4, stop)
	for range 200 {
		before := w.progress.Load()
		until(t, "some commits between two kills", func() bool { return w.progress.Load() > before+2 })
		if _, err := killer.Exec(patient(t), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'causeway'"); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	writers.Wait()
	w.check(t, s)
	// The follower lived through it all and missed nothing.
	got := f.Until(t, int(storetest.Position(t, s).Revision))
	storetest.Consecutive(t, store.Position{}, got)
}

// TestServerHangsInCommit gives up on an outcome only when there is no time left; the same batch may then be repeated.
func TestServerHangsInCommit(t *testing.T) {
	p, through := newProxy(t, pg.Database(t))
	limits := defaults()
	limits.statement, limits.patience = 100*time.Millisecond, 400*time.Millisecond
	s := instance(t, Config{DSN: through}, limits)
	p.judged(func(tag string) fate {
		if tag == "COMMIT" {
			return freeze
		}
		return pass
	})
	b := storetest.Batch(storetest.Put("a", "", store.ExpectAbsent))
	if _, err := s.Commit(patient(t), b); !errors.Is(err, store.ErrUnknownOutcome) {
		t.Fatalf("commit: got %v, want an unknown outcome", err)
	}
	p.judged(nil)
	p.thaw()
	c, err := s.Commit(patient(t), b)
	if err != nil || c.Position.Revision != 1 || c.Changes[0].Object.Version != 1 {
		t.Fatalf("repeated: %+v, %v", c, err)
	}
}

func TestServerStopsAndStarts(t *testing.T) {
	server := pg.Start(t)
	s := instance(t, Config{DSN: server.Database(t)}, defaults())
	storetest.Commit(t, s, storetest.Put("before", "", 0))
	f := storetest.Follow(t, s, store.Position{})
	f.Until(t, 1)
	for round := range 2 {
		server.Stop(t)
		for what, err := range map[string]error{
			"commit":   func() error { _, err := s.Commit(patient(t), storetest.Batch(storetest.Put("x", "", 0))); return err }(),
			"position": func() error { _, err := s.Position(patient(t)); return err }(),
			"observe":  s.Observe(patient(t), store.Observation{Key: "k", Data: []byte("v")}),
			"acquire":  func() error { _, err := s.Acquire(patient(t), "l", "h", time.Minute); return err }(),
		} {
			if !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("%s while the server is stopped: got %v, want unavailable", what, err)
			}
		}
		server.Restart(t)
		storetest.Commit(t, s, storetest.Put(fmt.Sprint("after ", round), "", 0))
		got := f.Until(t, 2+round)
		storetest.Consecutive(t, store.Position{}, got)
	}
	objects, _ := storetest.Objects(t, s)
	if len(objects) != 3 {
		t.Fatalf("%d objects, want 3: a refused write was applied", len(objects))
	}
}

// TestNotificationLost proves both ways out: a write that nobody announces is found by the guard query, which counts it, and
// what happens while the listening connection is away is read when it is back, which is no fault.
func TestNotificationLost(t *testing.T) {
	dsn := pg.Database(t)
	limits := defaults()
	limits.guard = 100 * time.Millisecond
	reg := prometheus.NewRegistry()
	reader := instance(t, Config{DSN: dsn, Registerer: reg}, limits)
	const metric = "causeway_store_missed_notifications_total"
	missed := func() float64 { return counted(t, reg, metric) }
	f := storetest.Follow(t, reader, store.Position{})
	loud := instance(t, Config{DSN: dsn}, limits)
	storetest.Commit(t, loud, storetest.Put("announced", "", 0))
	f.Until(t, 1)
	if missed() != 0 {
		t.Fatal("an announced change was counted as missed")
	}

	silent := limits
	silent.silent = true
	quiet := instance(t, Config{DSN: dsn}, silent)
	storetest.Commit(t, quiet, storetest.Put("unannounced", "", 0))
	f.Until(t, 2)
	if missed() != 1 {
		t.Fatalf("%v missed notifications were counted, want 1", missed())
	}
	limits.guard = time.Hour
	alone := prometheus.NewRegistry()
	lonely := instance(t, Config{DSN: dsn, Registerer: alone}, limits)
	g := storetest.Follow(t, lonely, store.Position{})
	g.Until(t, 2)
	admin, err := pgx.Connect(patient(t), dsn+"&application_name=killer")
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.Background())
	// Nobody hears of it, as if the connection were away already: after a cut the listener could be back before the write.
	storetest.Commit(t, quiet, storetest.Put("while away", "", 0))
	if _, err := admin.Exec(patient(t), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'SELECT lineage%' AND application_name = 'causeway'"); err != nil {
		t.Fatal(err)
	}
	g.Until(t, 3)
	if n := counted(t, alone, metric); n != 0 {
		t.Fatalf("%v missed notifications were counted after a reconnect, want 0", n)
	}
}

// TestStalledInstance leaves a transaction open that holds the order lock; the server ends it and others go on.
func TestStalledInstance(t *testing.T) {
	dsn := pg.Database(t)
	limits := defaults()
	limits.statement = 400 * time.Millisecond
	stalled := instance(t, Config{DSN: dsn}, limits)
	conn, err := stalled.pool.Acquire(patient(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	for _, q := range []string{"BEGIN", "UPDATE meta SET revision = revision + 1"} {
		if _, err := conn.Exec(patient(t), q); err != nil {
			t.Fatal(err)
		}
	}
	other := instance(t, Config{DSN: dsn}, defaults())
	start := time.Now()
	c := storetest.Commit(t, other, storetest.Put("a", "", 0))
	if c.Position.Revision != 1 {
		t.Fatalf("revision %d: the stalled instance left a gap", c.Position.Revision)
	}
	if waited := time.Since(start); waited > 4*time.Second {
		t.Fatalf("the stalled instance held the order lock for %s", waited)
	}
	if _, err := conn.Exec(patient(t), "COMMIT"); err == nil {
		t.Fatal("the stalled transaction could still commit")
	}
}

// TestRestoredDatabase puts an older copy of the database under a running instance.
func TestRestoredDatabase(t *testing.T) {
	server := pg.Start(t)
	dsn := server.Database(t)
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	replace := func(to, from string) {
		t.Helper()
		server.Exec(t, "DROP DATABASE IF EXISTS "+to+" WITH (FORCE)",
			"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '"+from+"'", "CREATE DATABASE "+to+" TEMPLATE "+from)
	}
	first := instance(t, Config{DSN: dsn}, defaults())
	storetest.Commit(t, first, storetest.Put("old", "", 0))
	first.Close()
	replace("backup", cfg.Database)

	s := instance(t, Config{DSN: dsn}, defaults())
	storetest.Commit(t, s, storetest.Put("lost 1", "", 0))
	lost := storetest.Commit(t, s, storetest.Put("lost 2", "", 0))
	f := storetest.Follow(t, s, store.Position{})
	f.Until(t, 3)
	replace(cfg.Database, "backup")
	if err := f.End(t); !errors.Is(err, store.ErrForked) {
		t.Fatalf("a follower ahead of the restored database: got %v, want forked", err)
	}
	// The restored database reaches the same revision again, with other content.
	storetest.Commit(t, s, storetest.Put("new 1", "", 0))
	storetest.Commit(t, s, storetest.Put("new 2", "", 0))
	again := storetest.Commit(t, s, storetest.Put("new 3", "", 0))
	if again.Position.Revision <= lost.Position.Revision {
		t.Fatalf("revision %d does not pass %d", again.Position.Revision, lost.Position.Revision)
	}
	if err := s.Follow(patient(t), lost.Position, func(store.Committed) error { return nil }); !errors.Is(err, store.ErrForked) {
		t.Fatalf("a position of the lost history: got %v, want forked", err)
	}
	// Discarding and reading a snapshot is the way on.
	objects, at := storetest.Objects(t, s)
	if len(objects) != 4 || at != again.Position {
		t.Fatalf("%d objects at %s", len(objects), at)
	}
	storetest.Follow(t, s, at)
}

func TestSchemaOfTheFuture(t *testing.T) {
	dsn := pg.Database(t)
	s := instance(t, Config{DSN: dsn}, defaults())
	if _, err := s.pool.Exec(patient(t), "UPDATE schema_version SET version = version + 1"); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(patient(t), Config{DSN: dsn}); !errors.Is(err, store.ErrSchema) {
		t.Fatalf("got %v, want a refusal of the schema", err)
	}
}

func TestInstancesStartTogether(t *testing.T) {
	dsn := pg.Database(t)
	lineages := make(chan store.Lineage, 4)
	var wg sync.WaitGroup
	for range cap(lineages) {
		wg.Go(func() {
			s, err := Open(patient(t), Config{DSN: dsn})
			if err != nil {
				t.Errorf("open: %v", err)
				return
			}
			defer s.Close()
			lineages <- storetest.Position(t, s).Lineage
		})
	}
	wg.Wait()
	close(lineages)
	first := <-lineages
	for l := range lineages {
		if l != first {
			t.Fatalf("instances created the lineages %s and %s", first, l)
		}
	}
}

func TestForeignDatabase(t *testing.T) {
	dsn := pg.Database(t)
	conn, err := pgx.Connect(patient(t), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(patient(t), "CREATE TABLE objects (mine text)"); err != nil {
		t.Fatal(err)
	}
	_, err = Open(patient(t), Config{DSN: dsn})
	if err == nil || !strings.Contains(err.Error(), "use a database of its own") {
		t.Fatalf("got %v", err)
	}
}

// TestPartitions writes over many partitions with two instances, then compacts: whole partitions go, and the rest of one.
func TestPartitions(t *testing.T) {
	dsn := pg.Database(t)
	limits := defaults()
	limits.partition = 50
	stores := []*Store{instance(t, Config{DSN: dsn}, limits), instance(t, Config{DSN: dsn}, limits)}
	for i := range 700 {
		storetest.Commit(t, stores[i/350], storetest.Put(fmt.Sprint(i%5), "", store.ExpectAny))
	}
	all := storetest.Follow(t, stores[0], store.Position{}).Until(t, 700)
	storetest.Consecutive(t, store.Position{}, all)
	tables := func() []partition {
		tx, err := stores[0].pool.Begin(patient(t))
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback(context.Background())
		list, err := partitions(patient(t), tx)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	if list := tables(); list[0].from != 0 || list[len(list)-1].to < 700+25 {
		t.Fatalf("partitions %v do not run ahead of revision 700", list)
	}
	if err := stores[1].Compact(patient(t), 620); err != nil {
		t.Fatal(err)
	}
	if list := tables(); list[0].from != 600 {
		t.Fatalf("the first partition after compaction is %v, want it from 600", list[0])
	}
	var rows int
	if err := stores[0].pool.QueryRow(patient(t), "SELECT (SELECT count(*) FROM history) + (SELECT count(*) FROM batches)").Scan(&rows); err != nil || rows != 160 {
		t.Fatalf("%d rows of history are left, want 160 (%v)", rows, err)
	}
	got := storetest.Follow(t, stores[0], all[619].Position).Until(t, 80)
	storetest.Consecutive(t, all[619].Position, got)
	// Even without a partition ahead a commit finds its way.
	if _, err := stores[0].pool.Exec(patient(t), "DO $$ DECLARE t regclass; BEGIN FOR t IN SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'history'::regclass AND substring(inhrelid::regclass::text FROM 'history_([0-9]+)')::int >= 700 LOOP EXECUTE 'DROP TABLE ' || t; END LOOP; END $$"); err != nil {
		t.Fatal(err)
	}
	if c := storetest.Commit(t, stores[0], storetest.Put("a", "", 0)); c.Position.Revision != 701 {
		t.Fatalf("revision %d", c.Position.Revision)
	}
}

// TestOnePoisonedBatch lets the database refuse the values of one batch among many that are queued together.
func TestOnePoisonedBatch(t *testing.T) {
	s := instance(t, Config{DSN: pg.Database(t)}, defaults())
	if _, err := s.pool.Exec(patient(t), "ALTER TABLE objects ADD CHECK (name <> 'poison')"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			name := fmt.Sprint(i)
			if i == 20 {
				name = "poison"
			}
			_, err := s.Commit(patient(t), storetest.Batch(storetest.Put(name, "", 0)))
			if errors.Is(err, store.ErrInvalid) != (name == "poison") || err != nil && name != "poison" {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	wg.Wait()
	if p := storetest.Position(t, s); p.Revision != 39 {
		t.Fatalf("revision %d, want 39", p.Revision)
	}
}

// TestCommitIsDurable: a database whose default is to acknowledge before writing is not believed.
func TestCommitIsDurable(t *testing.T) {
	server := pg.Start(t)
	server.Exec(t, "ALTER SYSTEM SET synchronous_commit = off", "SELECT pg_reload_conf()")
	s := instance(t, Config{DSN: server.Database(t)}, defaults())
	var mode string
	if err := s.pool.QueryRow(patient(t), "SHOW synchronous_commit").Scan(&mode); err != nil || mode != "on" {
		t.Fatalf("synchronous_commit is %q, %v", mode, err)
	}
}

// TestReadersDoNotStarveTheWriter commits while every connection for reads is taken, and closes the store under a reader.
func TestReadersDoNotStarveTheWriter(t *testing.T) {
	s := instance(t, Config{DSN: pg.Database(t), MaxConns: 1}, defaults())
	storetest.Commit(t, s, storetest.Put("a", "", 0))
	storetest.Commit(t, s, storetest.Put("b", "", 0))
	seen := 0
	closed := make(chan error, 1)
	_, err := s.Snapshot(patient(t), func(store.Object) error {
		if seen++; seen == 1 {
			storetest.Commit(t, s, storetest.Put("c", "", 0))
			go func() { closed <- s.Close() }()
			<-s.closed.Done()
		}
		return nil
	})
	if err != nil && !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("a snapshot over a close: %v", err)
	}
	select {
	case err := <-closed:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the store does not close")
	}
}
