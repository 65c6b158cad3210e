package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/internal/ledger"
)

// Observe keeps the last observation of each key, without revision or notification.
func (s *Store) Observe(ctx context.Context, obs ...store.Observation) error {
	obs, err := ledger.Latest(obs)
	if err != nil || len(obs) == 0 {
		return err
	}
	var deleted, keys []string
	var data [][]byte
	var at []*time.Time
	for _, o := range obs {
		if len(o.Data) == 0 {
			deleted = append(deleted, o.Key)
			continue
		}
		var when *time.Time
		if !o.At.IsZero() {
			when = &o.At
		}
		keys, data, at = append(keys, o.Key), append(data, o.Data), append(at, when)
	}
	return s.do(ctx, "observe", func(ctx context.Context) error {
		q := &pgx.Batch{}
		// In key order, so that two instances never wait for each other in a circle.
		q.Queue("SELECT FROM observations WHERE key = ANY($1) OR key = ANY($2) ORDER BY key FOR UPDATE", deleted, keys)
		q.Queue("DELETE FROM observations WHERE key = ANY($1)", deleted)
		q.Queue(`INSERT INTO observations (key, data, at) SELECT k, d, coalesce(a, clock_timestamp())
			FROM unnest($1::text[], $2::bytea[], $3::timestamptz[]) AS t (k, d, a) ORDER BY k COLLATE "C"
			ON CONFLICT (key) DO UPDATE SET data = excluded.data, at = excluded.at`, keys, data, at)
		return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error { return tx.SendBatch(ctx, q).Close() })
	})
}

// Observations lists by prefix, in key order.
func (s *Store) Observations(ctx context.Context, prefix string) (found []store.Observation, err error) {
	err = s.do(ctx, "observations", func(ctx context.Context) error {
		rows, err := s.pool.Query(ctx, "SELECT key, data, at FROM observations WHERE key >= $1 AND starts_with(key, $1) ORDER BY key", prefix)
		if err != nil {
			return err
		}
		found, err = pgx.CollectRows(rows, pgx.RowToStructByPos[store.Observation])
		return err
	})
	for i := range found {
		found[i].At = found[i].At.UTC()
	}
	return found, err
}

// Acquire takes or extends a lease by the clock of the database.
func (s *Store) Acquire(ctx context.Context, name, holder string, ttl time.Duration) (store.Fence, error) {
	if err := ledger.CheckLease(name, holder, ttl); err != nil {
		return store.Fence{}, err
	}
	f := store.Fence{Name: name, Holder: holder}
	err := s.do(ctx, "acquire lease "+name, func(ctx context.Context) error {
		err := s.pool.QueryRow(ctx, `INSERT INTO leases AS l (name, holder, counter, expires) VALUES ($1, $2, 1, clock_timestamp() + $3::interval)
			ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires = clock_timestamp() + $3::interval, counter = l.counter + (l.holder <> excluded.holder)::int
			WHERE l.holder IN ('', excluded.holder) OR l.expires <= clock_timestamp() RETURNING counter`, name, holder, ttl).Scan(&f.Counter)
		if !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		var other string
		if err := s.pool.QueryRow(ctx, "SELECT holder FROM leases WHERE name = $1", name).Scan(&other); err != nil {
			return err
		}
		return fmt.Errorf("%s has it: %w", other, store.ErrFenced)
	})
	if err != nil {
		return store.Fence{}, err
	}
	return f, nil
}

// Release gives a lease up; its counter stays, so that the fence is worthless from now on.
func (s *Store) Release(ctx context.Context, f store.Fence) error {
	return s.just(ctx, "release lease "+f.Name, func(ctx context.Context) error {
		tag, err := s.pool.Exec(ctx, "UPDATE leases SET holder = '', expires = clock_timestamp() WHERE name = $1 AND holder = $2 AND counter = $3 AND holder <> ''", f.Name, f.Holder, f.Counter)
		if err == nil && tag.RowsAffected() == 0 {
			err = fmt.Errorf("%s has it no more: %w", f.Holder, store.ErrFenced)
		}
		return err
	})
}

// RaiseEpoch starts a new epoch and ends every Follow of every instance.
func (s *Store) RaiseEpoch(ctx context.Context) (store.Lineage, error) {
	var l store.Lineage
	err := s.just(ctx, "raise the epoch", func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
			if err := tx.QueryRow(ctx, "UPDATE meta SET epoch = epoch + 1 RETURNING lineage, epoch").Scan(&l.ID, &l.Epoch); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, "SELECT pg_notify($1, $2)", channel, epochNews)
			return err
		})
	})
	if err != nil {
		return store.Lineage{}, err
	}
	revision, _ := s.news.latest()
	s.news.look(revision)
	return l, nil
}
