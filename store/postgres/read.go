package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/internal/ledger"
)

// reader is a connection, a transaction or the pool.
type reader interface {
	querier
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// view runs reads in one transaction, which sees one position.
func (s *Store) view(ctx context.Context, fn func(tx pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, fn)
}

// scanHead reads headColumns and what else is selected behind them.
func scanHead(row pgx.Row, h *ledger.Head, more ...any) error {
	var chain, base []byte
	err := row.Scan(append([]any{&h.Lineage.ID, &h.Lineage.Epoch, &h.Revision, &chain, &h.Compacted, &base}, more...)...)
	if err != nil {
		return err
	}
	if h.Chain, err = toChain(chain); err == nil {
		h.Base, err = toChain(base)
	}
	return err
}

func toChain(b []byte) (store.Chain, error) {
	if len(b) != len(store.Chain{}) {
		return store.Chain{}, fmt.Errorf("a stored chain has %d bytes", len(b))
	}
	return store.Chain(b), nil
}

func readHead(ctx context.Context, tx querier) (h ledger.Head, err error) {
	err = scanHead(tx.QueryRow(ctx, "SELECT "+headColumns+" FROM meta"), &h)
	return h, err
}

// Position is the newest position.
func (s *Store) Position(ctx context.Context) (store.Position, error) {
	var head ledger.Head
	err := s.do(ctx, "position", func(ctx context.Context) (err error) {
		head, err = readHead(ctx, s.pool)
		return err
	})
	return head.Position, err
}

// Snapshot streams all objects from one transaction, while writers go on. It locks nothing, so it may take its time.
func (s *Store) Snapshot(ctx context.Context, fn func(store.Object) error) (store.Position, error) {
	var head ledger.Head
	var given bool
	var refused error
	read := func(ctx context.Context) error {
		return s.view(ctx, func(tx pgx.Tx) (err error) {
			if _, err := tx.Exec(ctx, "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = '60s'"); err != nil {
				return err
			}
			if head, err = readHead(ctx, tx); err != nil {
				return err
			}
			rows, err := tx.Query(ctx, "SELECT "+objectColumns+" FROM objects o ORDER BY class, type, mesh, name")
			if err != nil {
				return err
			}
			return eachObject(rows, func(o store.Object) error {
				given = true
				refused = fn(o)
				return refused
			})
		})
	}
	err := s.do(ctx, "snapshot", func(ctx context.Context) error {
		if given {
			return fmt.Errorf("interrupted: %w", store.ErrUnavailable)
		}
		return read(ctx)
	})
	switch {
	case refused != nil:
		return store.Position{}, refused
	case err != nil:
		return store.Position{}, err
	}
	return head.Position, nil
}

// scan reads the columns of an object and what else is selected behind them.
func scan(rows pgx.Rows, o *store.Object, more ...any) error {
	var created, modified *time.Time
	var class *int16
	var owner [3]*string
	err := rows.Scan(append([]any{
		&o.Class, &o.Type, &o.Mesh, &o.Name, &o.UID, &o.Version, &o.Revision, &o.Labels, &o.Data,
		&created, &modified, &class, &owner[0], &owner[1], &owner[2], &o.Secret,
	}, more...)...)
	if err != nil {
		return err
	}
	if len(o.Labels) == 0 {
		o.Labels = nil
	}
	if len(o.Data) == 0 {
		o.Data = nil
	}
	if created != nil {
		o.Created, o.Modified = created.UTC(), modified.UTC()
	}
	if class != nil {
		o.Owner = &store.Key{Class: store.Class(*class), Type: *owner[0], Mesh: *owner[1], Name: *owner[2]}
	}
	return nil
}

func eachObject(rows pgx.Rows, fn func(store.Object) error) error {
	defer rows.Close()
	for rows.Next() {
		var o store.Object
		if err := scan(rows, &o); err != nil {
			return err
		}
		if err := fn(o); err != nil {
			return err
		}
	}
	return rows.Err()
}

const (
	batchColumns  = "b.revision, b.chain, b.id, b.author, b.reason, b.at, b.size"
	changeColumns = objectColumns + ", o.deleted"
)

// A header is a batch without its changes.
type header struct {
	store.Committed
	size uint64
}

func readHeaders(rows pgx.Rows, head ledger.Head) ([]header, error) {
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (header, error) {
		h := header{Committed: store.Committed{Position: store.Position{Lineage: head.Lineage}}}
		var chain, id []byte
		if err := row.Scan(&h.Position.Revision, &chain, &id, &h.Author, &h.Reason, &h.At, &h.size); err != nil {
			return h, err
		}
		h.At = h.At.UTC()
		if len(id) != len(h.ID) {
			return h, fmt.Errorf("the stored batch id of revision %d has %d bytes", h.Position.Revision, len(id))
		}
		h.ID = store.BatchID(id)
		var err error
		h.Position.Chain, err = toChain(chain)
		return h, err
	})
}

// eachChange reads changeColumns.
func eachChange(rows pgx.Rows, fn func(store.Change)) error {
	defer rows.Close()
	for rows.Next() {
		var ch store.Change
		if err := scan(rows, &ch.Object, &ch.Deleted); err != nil {
			return err
		}
		fn(ch)
	}
	return rows.Err()
}

// readBatches reads a range of revisions, in order.
func readBatches(ctx context.Context, tx reader, head ledger.Head, first, last uint64) ([]store.Committed, error) {
	rows, err := tx.Query(ctx, "SELECT "+batchColumns+" FROM batches b WHERE revision BETWEEN $1 AND $2 ORDER BY revision", first, last)
	if err != nil {
		return nil, err
	}
	headers, err := readHeaders(rows, head)
	if err != nil {
		return nil, err
	}
	return fill(ctx, tx, headers)
}

// fill reads the changes of consecutive batches.
func fill(ctx context.Context, tx reader, headers []header) ([]store.Committed, error) {
	if len(headers) == 0 {
		return nil, nil
	}
	batches := make([]store.Committed, len(headers))
	for i, h := range headers {
		batches[i] = h.Committed
	}
	first, last := batches[0].Position.Revision, batches[len(batches)-1].Position.Revision
	rows, err := tx.Query(ctx, "SELECT "+changeColumns+" FROM history o WHERE revision BETWEEN $1 AND $2 ORDER BY revision, seq", first, last)
	if err != nil {
		return nil, err
	}
	return batches, eachChange(rows, func(ch store.Change) {
		c := &batches[ch.Object.Revision-first]
		c.Changes = append(c.Changes, ch)
	})
}

// History reads the retained batches of one object.
func (s *Store) History(ctx context.Context, k store.Key, limit int) (found []store.Committed, err error) {
	var most *int
	if limit > 0 {
		most = &limit
	}
	err = s.do(ctx, "history", func(ctx context.Context) error {
		return s.view(ctx, func(tx pgx.Tx) error {
			head, err := readHead(ctx, tx)
			if err != nil {
				return err
			}
			const newest = " FROM history o JOIN batches b USING (revision) WHERE o.class = $1 AND o.type = $2 AND o.mesh = $3 AND o.name = $4 AND o.revision > $5 ORDER BY o.revision DESC LIMIT $6"
			args := []any{int16(k.Class), k.Type, k.Mesh, k.Name, head.Compacted, most}
			rows, err := tx.Query(ctx, "SELECT "+batchColumns+newest, args...)
			if err != nil {
				return err
			}
			headers, err := readHeaders(rows, head)
			if err != nil {
				return err
			}
			if rows, err = tx.Query(ctx, "SELECT "+changeColumns+newest, args...); err != nil {
				return err
			}
			found = nil
			return eachChange(rows, func(ch store.Change) {
				c := headers[len(found)].Committed
				c.Changes = []store.Change{ch}
				found = append(found, c)
			})
		})
	})
	return found, err
}
