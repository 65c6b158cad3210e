package embedded

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/internal/ledger"
)

// What one read of Follow takes at most; a single larger batch is still taken.
const (
	pageBatches = 256
	pageBytes   = 8 << 20
)

// reader is a connection or a transaction.
type reader interface {
	Query(query string, args ...any) (*sql.Rows, error)
	QueryRow(query string, args ...any) *sql.Row
}

// view runs reads in one transaction, which sees one position.
func (s *Store) view(ctx context.Context, doing string, fn func(tx reader) error) error {
	if s.shut() {
		return ledger.Closed(doing)
	}
	tx, err := s.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return s.fault(ctx, doing, err)
	}
	defer tx.Rollback()
	err = fn(tx)
	if err == nil || errors.Is(err, store.ErrForked) || errors.Is(err, store.ErrCompacted) {
		return err
	}
	return s.fault(ctx, doing, err)
}

func readHead(tx reader) (ledger.Head, error) {
	var h ledger.Head
	row := tx.QueryRow("SELECT lineage, epoch, revision, chain, compacted, compacted_chain FROM meta")
	err := row.Scan(&h.Lineage.ID, &h.Lineage.Epoch, &h.Revision, chain{&h.Chain}, &h.Compacted, chain{&h.Base})
	return h, err
}

// chain scans the bytes of a chain.
type chain struct{ to *store.Chain }

// Scan implements sql.Scanner.
func (c chain) Scan(v any) error {
	b, ok := v.([]byte)
	if !ok || len(b) != len(c.to) {
		return fmt.Errorf("a stored chain has %d bytes", len(b))
	}
	copy(c.to[:], b)
	return nil
}

// Position is the newest position.
func (s *Store) Position(ctx context.Context) (store.Position, error) {
	var head ledger.Head
	err := s.view(ctx, "position", func(tx reader) (err error) {
		head, err = readHead(tx)
		return err
	})
	return head.Position, err
}

// Snapshot reads everything before it calls fn, so that fn does not hold up the writer.
func (s *Store) Snapshot(ctx context.Context, fn func(store.Object) error) (store.Position, error) {
	var head ledger.Head
	var objects []store.Object
	err := s.view(ctx, "snapshot", func(tx reader) (err error) {
		if head, err = readHead(tx); err != nil {
			return err
		}
		objects, err = readObjects(tx.Query("SELECT " + objectColumns + " FROM objects ORDER BY class, type, mesh, name"))
		return err
	})
	if err != nil {
		return store.Position{}, err
	}
	for i, o := range objects {
		objects[i] = store.Object{}
		if err := context.Cause(ctx); err != nil {
			return store.Position{}, fmt.Errorf("snapshot: %w", err)
		}
		if err := fn(o); err != nil {
			return store.Position{}, err
		}
	}
	return head.Position, nil
}

func readObjects(rows *sql.Rows, err error) ([]store.Object, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var objects []store.Object
	for rows.Next() {
		var r row
		if err := rows.Scan(r.columns(&r.Class, &r.Type, &r.Mesh, &r.Name, &r.UID, &r.Version, &r.Revision)...); err != nil {
			return nil, err
		}
		o, err := r.object()
		if err != nil {
			return nil, err
		}
		objects = append(objects, o)
	}
	return objects, rows.Err()
}

// A row is an object as its columns are.
type row struct {
	store.Object
	labels            string
	created, modified int64
	class             sql.Null[store.Class]
	owner             [3]sql.NullString
}

// columns are the targets for the leading columns and those from labels to secret.
func (r *row) columns(leading ...any) []any {
	return append(leading, &r.labels, &r.Data, &r.created, &r.modified, &r.class, &r.owner[0], &r.owner[1], &r.owner[2], &r.Secret)
}

func (r *row) object() (store.Object, error) {
	o := r.Object
	if r.labels != "{}" {
		if err := json.Unmarshal([]byte(r.labels), &o.Labels); err != nil {
			return o, fmt.Errorf("labels of %s: %w", o.Key, err)
		}
	}
	if len(o.Data) == 0 {
		o.Data = nil
	}
	if r.created != 0 {
		o.Created, o.Modified = time.UnixMicro(r.created).UTC(), time.UnixMicro(r.modified).UTC()
	}
	if r.class.Valid {
		o.Owner = &store.Key{Class: r.class.V, Type: r.owner[0].String, Mesh: r.owner[1].String, Name: r.owner[2].String}
	}
	return o, nil
}

// Follow reads rows after the position; the writer's bell only says that there may be more.
func (s *Store) Follow(ctx context.Context, after store.Position, fn func(store.Committed) error) error {
	for {
		if err := context.Cause(ctx); err != nil {
			return fmt.Errorf("follow: %w", err)
		}
		more := s.bell.Wait()
		page, at, err := s.page(ctx, after)
		if err != nil {
			return err
		}
		after = at
		for _, c := range page {
			if err := context.Cause(ctx); err != nil {
				return fmt.Errorf("follow: %w", err)
			}
			if err := fn(c); err != nil {
				return err
			}
			after = c.Position
		}
		if len(page) > 0 {
			continue
		}
		select {
		case <-more:
		case <-s.closed:
			return ledger.Closed("follow")
		case <-ctx.Done():
		}
	}
}

// page is what follows a position, and the position in terms of this lineage.
func (s *Store) page(ctx context.Context, after store.Position) (page []store.Committed, at store.Position, err error) {
	err = s.view(ctx, "follow", func(tx reader) error {
		head, err := readHead(tx)
		if err != nil {
			return err
		}
		var stored store.Chain
		if after.Revision > head.Compacted && after.Revision < head.Revision {
			if err := tx.QueryRow("SELECT chain FROM batches WHERE revision = ?", after.Revision).Scan(chain{&stored}); err != nil {
				return err
			}
		}
		if at, err = head.Admit(after, stored); err != nil {
			return fmt.Errorf("follow: %w", err)
		}
		if at.Revision == head.Revision {
			return nil
		}
		var last uint64
		if err := tx.QueryRow(`SELECT max(revision) FROM (SELECT revision, sum(size) OVER (ORDER BY revision) AS total
			FROM (SELECT revision, size FROM batches WHERE revision > ?1 ORDER BY revision LIMIT ?2)) WHERE revision = ?1 + 1 OR total <= ?3`,
			at.Revision, pageBatches, pageBytes).Scan(&last); err != nil {
			return err
		}
		page, err = readBatches(tx, head, at.Revision+1, last)
		return err
	})
	return page, at, err
}

// readBatches reads a range of revisions, in order.
func readBatches(tx reader, head ledger.Head, first, last uint64) ([]store.Committed, error) {
	rows, err := tx.Query("SELECT revision, chain, id, author, reason, at FROM batches WHERE revision BETWEEN ? AND ? ORDER BY revision", first, last)
	if err != nil {
		return nil, err
	}
	batches, err := scanBatches(rows, head)
	if err != nil {
		return nil, err
	}
	rows, err = tx.Query("SELECT revision, deleted, class, type, mesh, name, uid, version, labels, data, created, modified, owner_class, owner_type, owner_mesh, owner_name, secret FROM history WHERE revision BETWEEN ? AND ? ORDER BY revision, seq", first, last)
	if err != nil {
		return nil, err
	}
	changes, err := scanChanges(rows)
	for _, ch := range changes {
		c := &batches[ch.Object.Revision-first]
		c.Changes = append(c.Changes, ch)
	}
	return batches, err
}

func scanBatches(rows *sql.Rows, head ledger.Head) ([]store.Committed, error) {
	defer rows.Close()
	var batches []store.Committed
	for rows.Next() {
		c := store.Committed{Position: store.Position{Lineage: head.Lineage}}
		var id []byte
		var at int64
		if err := rows.Scan(&c.Position.Revision, chain{&c.Position.Chain}, &id, &c.Author, &c.Reason, &at); err != nil {
			return nil, err
		}
		c.ID, c.At = store.BatchID(id), time.UnixMicro(at).UTC()
		batches = append(batches, c)
	}
	return batches, rows.Err()
}

func scanChanges(rows *sql.Rows) ([]store.Change, error) {
	defer rows.Close()
	var changes []store.Change
	for rows.Next() {
		var r row
		var deleted bool
		if err := rows.Scan(r.columns(&r.Revision, &deleted, &r.Class, &r.Type, &r.Mesh, &r.Name, &r.UID, &r.Version)...); err != nil {
			return nil, err
		}
		o, err := r.object()
		if err != nil {
			return nil, err
		}
		changes = append(changes, store.Change{Object: o, Deleted: deleted})
	}
	return changes, rows.Err()
}

// History reads the retained batches of one object.
func (s *Store) History(ctx context.Context, k store.Key, limit int) (found []store.Committed, err error) {
	if limit <= 0 {
		limit = -1
	}
	err = s.view(ctx, "history", func(tx reader) error {
		head, err := readHead(tx)
		if err != nil {
			return err
		}
		const newest = " FROM history h JOIN batches b USING (revision) WHERE h.class = ? AND h.type = ? AND h.mesh = ? AND h.name = ? AND h.revision > ? ORDER BY h.revision DESC LIMIT ?"
		args := []any{k.Class, k.Type, k.Mesh, k.Name, head.Compacted, limit}
		rows, err := tx.Query("SELECT b.revision, b.chain, b.id, b.author, b.reason, b.at"+newest, args...)
		if err != nil {
			return err
		}
		if found, err = scanBatches(rows, head); err != nil {
			return err
		}
		rows, err = tx.Query("SELECT h.revision, h.deleted, h.class, h.type, h.mesh, h.name, h.uid, h.version, h.labels, h.data, h.created, h.modified, h.owner_class, h.owner_type, h.owner_mesh, h.owner_name, h.secret"+newest, args...)
		if err != nil {
			return err
		}
		changes, err := scanChanges(rows)
		for i, ch := range changes {
			found[i].Changes = []store.Change{ch}
		}
		return err
	})
	return found, err
}

// Observations lists by prefix, in key order.
func (s *Store) Observations(ctx context.Context, prefix string) (found []store.Observation, err error) {
	err = s.view(ctx, "observations", func(tx reader) error {
		// No UTF-8 text sorts after the byte 0xff, so this bound ends the prefix.
		rows, err := tx.Query("SELECT key, data, at FROM observations WHERE key >= ?1 AND key < CAST(CAST(?1 AS BLOB) || x'ff' AS TEXT) ORDER BY key", prefix)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var o store.Observation
			var at int64
			if err := rows.Scan(&o.Key, &o.Data, &at); err != nil {
				return err
			}
			o.At = time.UnixMicro(at).UTC()
			found = append(found, o)
		}
		return rows.Err()
	})
	return found, err
}
