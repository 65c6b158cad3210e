package postgres

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/causeway-mesh/causeway/store/internal/ledger"
)

// A partition holds the history of revisions from (included) to (excluded); its name says so.
type partition struct{ from, to uint64 }

func (p partition) table() string { return fmt.Sprintf("history_%d_%d", p.from, p.to) }

// partitions lists those that exist, oldest first.
func partitions(ctx context.Context, tx pgx.Tx) ([]partition, error) {
	rows, err := tx.Query(ctx, "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'history'::regclass")
	if err != nil {
		return nil, err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	var list []partition
	for _, name := range names {
		from, to, _ := strings.Cut(strings.TrimPrefix(name, "history_"), "_")
		a, err1 := strconv.ParseUint(from, 10, 64)
		b, err2 := strconv.ParseUint(to, 10, 64)
		if err1 != nil || err2 != nil {
			return nil, fmt.Errorf("the table %s is not named as a partition of history", name)
		}
		list = append(list, partition{a, b})
	}
	slices.SortFunc(list, func(a, b partition) int { return int(int64(a.from) - int64(b.from)) })
	return list, err
}

// ahead makes partitions until history can grow by half of one and a full group. The order lock keeps instances apart.
func (s *Store) ahead(ctx context.Context) error {
	err := pgx.BeginFunc(ctx, s.single, func(tx pgx.Tx) error {
		var revision uint64
		if err := tx.QueryRow(ctx, "SELECT revision FROM meta FOR UPDATE").Scan(&revision); err != nil {
			return err
		}
		list, err := partitions(ctx, tx)
		if err != nil {
			return err
		}
		upper := uint64(0)
		if len(list) > 0 {
			upper = list[len(list)-1].to
		}
		for upper <= s.enough(revision) {
			p := partition{upper, upper + s.limits.partition}
			// Attaching takes a weaker lock than creating in place: readers go on.
			q := fmt.Sprintf("SET LOCAL lock_timeout = '1s'; CREATE TABLE %[1]s (LIKE history INCLUDING ALL); ALTER TABLE history ATTACH PARTITION %[1]s FOR VALUES FROM (%[2]d) TO (%[3]d)", p.table(), p.from, p.to)
			if _, err := tx.Exec(ctx, q); err != nil {
				return err
			}
			upper = p.to
		}
		s.upper = upper
		return nil
	})
	if err != nil {
		return unavailable("make room for history", err)
	}
	return nil
}

// enough is the revision up to which there should be partitions when the store is at another.
func (s *Store) enough(revision uint64) uint64 {
	return revision + s.limits.partition/2 + ledger.MaxGroup
}

// Compact moves the beginning of history, then drops the partitions and deletes the rows before it. When it ends half way,
// history is compacted all the same and the next call clears the rest.
func (s *Store) Compact(ctx context.Context, upTo uint64) error {
	return s.do(ctx, "compact", func(ctx context.Context) error {
		var compacted uint64
		if _, err := s.pool.Exec(ctx, `UPDATE meta SET compacted = b.revision, compacted_chain = b.chain FROM batches b
			WHERE b.revision = LEAST($1, (SELECT revision FROM meta)) AND meta.compacted < b.revision`, upTo); err != nil {
			return err
		}
		if err := s.pool.QueryRow(ctx, "SELECT compacted FROM meta").Scan(&compacted); err != nil {
			return err
		}
		if err := s.drop(ctx, compacted); err != nil {
			return err
		}
		return s.sweep(ctx, compacted)
	})
}

// drop removes the partitions that lie before the beginning as a whole.
func (s *Store) drop(ctx context.Context, compacted uint64) error {
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		// A writer would queue behind a drop that waits: better to try again another day.
		if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '1s'"); err != nil {
			return err
		}
		list, err := partitions(ctx, tx)
		if err != nil {
			return err
		}
		for _, p := range list[:max(0, len(list)-1)] {
			if p.to > compacted+1 {
				break
			}
			if _, err := tx.Exec(ctx, "DROP TABLE "+p.table()); err != nil {
				return err
			}
		}
		return nil
	})
}

// sweep deletes the rows before the beginning in steps.
func (s *Store) sweep(ctx context.Context, compacted uint64) error {
	const step = 5000
	for {
		var first *uint64
		if err := s.pool.QueryRow(ctx, "SELECT min(revision) FROM batches WHERE revision <= $1", compacted).Scan(&first); err != nil || first == nil {
			return err
		}
		last := min(*first+step, compacted)
		if err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "DELETE FROM history WHERE revision <= $1", last); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, "DELETE FROM batches WHERE revision <= $1", last)
			return err
		}); err != nil {
			return err
		}
	}
}
