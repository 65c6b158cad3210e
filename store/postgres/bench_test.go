package postgres

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/internal/ledger"
	"github.com/causeway-mesh/causeway/store/storetest"
	"github.com/causeway-mesh/causeway/test/pg"
)

func BenchmarkCommit(b *testing.B) {
	storetest.BenchmarkCommit(b, func(t testing.TB, _ int) []store.Store {
		return []store.Store{instance(t, Config{DSN: pg.Database(t)}, defaults())}
	})
}

// BenchmarkPgx runs the statements of a commit in plain loops, to compare with: "writers" have a connection and a transaction
// for each row, "rows" is one connection that puts as many rows into a transaction as a full group of so many writers has,
// "batch" one that puts so many rows into one batch.
func BenchmarkPgx(b *testing.B) {
	for _, n := range storetest.Writers {
		b.Run(fmt.Sprintf("writers=%d", n), func(b *testing.B) {
			s := instance(b, Config{DSN: pg.Database(b), MaxConns: n}, defaults())
			storetest.Spread(b, n, func(i int64) error { return loop(s, i, 1, 1) })
		})
		b.Run(fmt.Sprintf("rows=%d", n), func(b *testing.B) {
			s := instance(b, Config{DSN: pg.Database(b)}, defaults())
			for i := 0; i < b.N; i += n {
				if err := loop(s, int64(i), n, n); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
		})
	}
	b.Run("batch=500", func(b *testing.B) {
		s := instance(b, Config{DSN: pg.Database(b)}, defaults())
		for i := range b.N {
			if err := loop(s, int64(i)*500, 500, 1); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(500*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
	})
}

// loop is one transaction with the statements of a commit of n rows in so many batches, and none of its decisions.
func loop(s *Store, first int64, n, batches int) error {
	ctx := context.Background()
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	now := time.Now()
	var keys []store.Key
	var rows table
	var ids []store.BatchID
	for i := range n {
		o := store.Object{Key: storetest.Key(fmt.Sprint(first + int64(i))), UID: "u", Version: 1, Data: storetest.BenchData, Created: now, Modified: now}
		rows.add(o)
		rows.seq, rows.deleted = append(rows.seq, 0), append(rows.deleted, false)
		keys = append(keys, o.Key)
	}
	for range batches {
		ids = append(ids, storetest.ID())
	}
	var head ledger.Head
	var at time.Time
	q := &pgx.Batch{}
	q.Queue("BEGIN")
	q.Queue(takeOrder, batches).QueryRow(func(row pgx.Row) error { return scanHead(row, &head, &at) })
	q.Queue(byKeys, keysOf(keys)...)
	q.Queue(batchesByID, idsOf(ids))
	if err := conn.SendBatch(ctx, q).Close(); err != nil {
		return err
	}
	revisions, sizes := make([]uint64, batches), make([]uint64, batches)
	text, chains := make([]string, batches), make([][]byte, batches)
	for i := range batches {
		revisions[i], chains[i] = head.Revision+uint64(i)+1, head.Chain[:]
	}
	for i := range n {
		rows.revision[i], rows.seq[i] = revisions[i%batches], i/batches
	}
	q = &pgx.Batch{}
	q.Queue(insertBatches, revisions, idsOf(ids), chains, text, text, sizes, now)
	q.Queue(insertHistory, append(rows.args(), rows.seq, rows.deleted)...)
	q.Queue(upsertObjects, rows.args()...)
	q.Queue("UPDATE meta SET revision = $1, chain = $2", head.Revision+uint64(batches), head.Chain[:])
	q.Queue("SELECT pg_notify($1, $2), set_config('statement_timeout', '0', true)", channel, "0")
	q.Queue("COMMIT")
	return conn.SendBatch(ctx, q).Close()
}
