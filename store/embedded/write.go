package embedded

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/internal/ledger"
)

// Commit queues the batch for the writer, who puts all that wait into one transaction.
func (s *Store) Commit(ctx context.Context, b store.Batch) (store.Committed, error) {
	return s.queue.Commit(ctx, b)
}

type verdict struct {
	c   store.Committed
	err error
}

// commit writes one group. No caller's context reaches the transaction: they share it.
func (s *Store) commit(group []*ledger.Pending) {
	verdicts, err := s.transact(group)
	for i, p := range group {
		switch {
		case err != nil:
			p.Answer(store.Committed{}, err)
		default:
			p.Answer(verdicts[i].c, verdicts[i].err)
		}
	}
	if err == nil {
		s.bell.Ring()
	}
}

func (s *Store) transact(group []*ledger.Pending) ([]verdict, error) {
	tx, err := s.db.Begin()
	if err != nil {
		return nil, unavailable("commit: begin", err)
	}
	defer tx.Rollback()
	head, err := readHead(tx)
	if err != nil {
		return nil, unavailable("commit", err)
	}
	state, err := load(tx, head, ledger.NeedsOf(group))
	if err != nil {
		return nil, unavailable("commit: read what is changed", err)
	}
	g := ledger.NewGroup(state, head.Position, time.Now())
	verdicts := make([]verdict, len(group))
	for i, p := range group {
		verdicts[i].c, verdicts[i].err = g.Apply(p.Batch)
	}
	if len(g.Commits()) == 0 {
		return verdicts, nil
	}
	if err := write(tx, g); err != nil {
		return nil, unavailable("commit: write", err)
	}
	if err := tx.Commit(); err != nil {
		if code(err)&0xff == sqlite3.SQLITE_IOERR {
			// The frames may have reached the disk: a restart could find them.
			return nil, fmt.Errorf("commit: %w: %w", err, store.ErrUnknownOutcome)
		}
		return nil, unavailable("commit", err)
	}
	return verdicts, nil
}

const objectColumns = "class, type, mesh, name, uid, version, revision, labels, data, created, modified, owner_class, owner_type, owner_mesh, owner_name, secret"

// load reads what the group needs to know.
func load(tx *sql.Tx, head ledger.Head, needs ledger.Needs) (*ledger.Loaded, error) {
	state := ledger.NewLoaded()
	one, err := tx.Prepare("SELECT " + objectColumns + " FROM objects WHERE class = ? AND type = ? AND mesh = ? AND name = ?")
	if err != nil {
		return nil, err
	}
	defer one.Close()
	owned, err := tx.Prepare("SELECT " + objectColumns + " FROM objects WHERE owner_class = ? AND owner_type = ? AND owner_mesh = ? AND owner_name = ?")
	if err != nil {
		return nil, err
	}
	defer owned.Close()
	add := func(q *sql.Stmt, k store.Key) (found []store.Key, err error) {
		objects, err := readObjects(q.Query(k.Class, k.Type, k.Mesh, k.Name))
		for _, o := range objects {
			if _, known := state.Object(o.Key); !known {
				state.AddObject(o)
				found = append(found, o.Key)
			}
		}
		return found, err
	}
	for _, k := range needs.Keys {
		if _, err := add(one, k); err != nil {
			return nil, err
		}
	}
	for queue := needs.Keys; needs.Cascade && len(queue) > 0; queue = queue[1:] {
		found, err := add(owned, queue[0])
		if err != nil {
			return nil, err
		}
		queue = append(queue[:len(queue):len(queue)], found...)
	}
	for _, name := range needs.Leases {
		f := store.Fence{Name: name}
		err := tx.QueryRow("SELECT holder, counter FROM leases WHERE name = ?", name).Scan(&f.Holder, &f.Counter)
		if err == nil {
			state.AddLease(f)
		} else if !errors.Is(err, sql.ErrNoRows) {
			return nil, err
		}
	}
	return state, loadBatches(tx, head, needs.IDs, state)
}

// loadBatches finds the batches that were committed before.
func loadBatches(tx *sql.Tx, head ledger.Head, ids []store.BatchID, state *ledger.Loaded) error {
	find, err := tx.Prepare("SELECT revision FROM batches WHERE id = ?")
	if err != nil {
		return err
	}
	defer find.Close()
	for _, id := range ids {
		var revision uint64
		err := find.QueryRow(id[:]).Scan(&revision)
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err != nil {
			return err
		}
		batches, err := readBatches(tx, head, revision, revision)
		if err != nil {
			return err
		}
		state.AddBatch(batches[0])
	}
	return nil
}

// write makes the outcome of the group durable with the transaction.
func write(tx *sql.Tx, g *ledger.Group) error {
	for _, step := range []func(*sql.Tx, *ledger.Group) error{writeBatches, writeObjects, shred} {
		if err := step(tx, g); err != nil {
			return err
		}
	}
	head := g.Head()
	_, err := tx.Exec("UPDATE meta SET revision = ?, chain = ?", head.Revision, head.Chain[:])
	return err
}

func writeBatches(tx *sql.Tx, g *ledger.Group) error {
	batch, err := tx.Prepare("INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?)")
	if err != nil {
		return err
	}
	defer batch.Close()
	change, err := tx.Prepare("INSERT INTO history (revision, seq, deleted, class, type, mesh, name, uid, version, labels, data, created, modified, owner_class, owner_type, owner_mesh, owner_name, secret) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
	if err != nil {
		return err
	}
	defer change.Close()
	for _, c := range g.Commits() {
		size := 0
		for i, ch := range c.Changes {
			o := ch.Object
			size += len(o.Data)
			args := append([]any{c.Position.Revision, i, ch.Deleted, o.Class, o.Type, o.Mesh, o.Name, o.UID, o.Version}, contentOf(o)...)
			if _, err := change.Exec(args...); err != nil {
				return err
			}
		}
		if _, err := batch.Exec(c.Position.Revision, c.ID[:], c.Position.Chain[:], c.Author, c.Reason, c.At.UnixMicro(), size); err != nil {
			return err
		}
	}
	return nil
}

func writeObjects(tx *sql.Tx, g *ledger.Group) error {
	put, err := tx.Prepare("INSERT OR REPLACE INTO objects (" + objectColumns + ") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
	if err != nil {
		return err
	}
	defer put.Close()
	for k, o := range g.Changed() {
		if o == nil {
			_, err = tx.Exec("DELETE FROM objects WHERE class = ? AND type = ? AND mesh = ? AND name = ?", k.Class, k.Type, k.Mesh, k.Name)
		} else {
			_, err = put.Exec(append([]any{k.Class, k.Type, k.Mesh, k.Name, o.UID, o.Version, o.Revision}, contentOf(*o)...)...)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// shred drops the data of deleted secrets from history, those of this group included.
func shred(tx *sql.Tx, g *ledger.Group) error {
	for _, c := range g.Commits() {
		for _, ch := range c.Changes {
			if !ch.Deleted || !ch.Object.Secret {
				continue
			}
			k := ch.Object.Key
			if _, err := tx.Exec("UPDATE history SET data = NULL WHERE class = ? AND type = ? AND mesh = ? AND name = ? AND uid = ?", k.Class, k.Type, k.Mesh, k.Name, ch.Object.UID); err != nil {
				return err
			}
		}
	}
	return nil
}

// contentOf is the columns from labels to secret.
func contentOf(o store.Object) []any {
	labels := "{}"
	if len(o.Labels) > 0 {
		text, err := json.Marshal(o.Labels)
		if err != nil {
			panic(err) // a map of strings always encodes
		}
		labels = string(text)
	}
	args := []any{labels, o.Data, micro(o.Created), micro(o.Modified), nil, nil, nil, nil, o.Secret}
	if k := o.Owner; k != nil {
		args[4], args[5], args[6], args[7] = k.Class, k.Type, k.Mesh, k.Name
	}
	return args
}

// micro keeps the zero time, which deletions have, as 0.
func micro(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// Compact deletes the oldest history in steps, so that writers get their turn between them.
func (s *Store) Compact(ctx context.Context, upTo uint64) error {
	if err := s.update(ctx, "compact", func(tx *sql.Tx) error {
		head, err := readHead(tx)
		upTo = min(upTo, head.Revision)
		if err != nil || upTo <= head.Compacted {
			return err
		}
		_, err = tx.Exec("UPDATE meta SET compacted = ?1, compacted_chain = (SELECT chain FROM batches WHERE revision = ?1)", upTo)
		return err
	}); err != nil {
		return err
	}
	const step = 1000
	for more := true; more; {
		if err := s.update(ctx, "compact", func(tx *sql.Tx) error {
			var first sql.Null[uint64]
			err := tx.QueryRow("SELECT min(revision) FROM batches WHERE revision <= (SELECT compacted FROM meta)").Scan(&first)
			if more = first.Valid; err != nil || !more {
				return err
			}
			last := first.V + step
			for _, q := range []string{
				"DELETE FROM history WHERE revision < ?1 AND revision <= (SELECT compacted FROM meta)",
				"DELETE FROM batches WHERE revision < ?1 AND revision <= (SELECT compacted FROM meta)",
			} {
				if _, err := tx.Exec(q, last); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// update runs a short transaction beside the writer.
func (s *Store) update(ctx context.Context, doing string, fn func(*sql.Tx) error) error {
	if s.shut() {
		return ledger.Closed(doing)
	}
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return s.fault(ctx, doing, err)
	}
	defer tx.Rollback()
	if err := fn(tx); err != nil {
		return s.fault(ctx, doing, err)
	}
	if err := tx.Commit(); err != nil {
		return s.fault(ctx, doing, err)
	}
	return nil
}

// Observe keeps the last observation of each key.
func (s *Store) Observe(ctx context.Context, obs ...store.Observation) error {
	obs, err := ledger.Latest(obs)
	if err != nil {
		return err
	}
	return s.update(ctx, "observe", func(tx *sql.Tx) error {
		for _, o := range obs {
			q, args := "DELETE FROM observations WHERE key = ?", []any{o.Key}
			if len(o.Data) > 0 {
				if o.At.IsZero() {
					o.At = time.Now()
				}
				q, args = "INSERT OR REPLACE INTO observations VALUES (?, ?, ?)", []any{o.Key, o.Data, o.At.UnixMicro()}
			}
			if _, err := tx.Exec(q, args...); err != nil {
				return err
			}
		}
		return nil
	})
}

// Acquire takes or extends a lease by the clock of this machine, which is that of the file.
func (s *Store) Acquire(ctx context.Context, name, holder string, ttl time.Duration) (store.Fence, error) {
	if err := ledger.CheckLease(name, holder, ttl); err != nil {
		return store.Fence{}, err
	}
	f := store.Fence{Name: name, Holder: holder}
	var other string
	err := s.update(ctx, fmt.Sprintf("acquire lease %q", name), func(tx *sql.Tx) error {
		now := time.Now()
		row := tx.QueryRow(`INSERT INTO leases VALUES (?1, ?2, 1, ?3)
			ON CONFLICT (name) DO UPDATE SET holder = ?2, expires = ?3, counter = counter + (holder <> ?2)
			WHERE holder IN ('', ?2) OR expires <= ?4 RETURNING counter`, name, holder, now.Add(ttl).UnixMicro(), now.UnixMicro())
		err := row.Scan(&f.Counter)
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		return tx.QueryRow("SELECT holder FROM leases WHERE name = ?", name).Scan(&other)
	})
	if err == nil && other != "" {
		err = fmt.Errorf("acquire lease %q: %s has it: %w", name, other, store.ErrFenced)
	}
	if err != nil {
		return store.Fence{}, err
	}
	return f, nil
}

// Release gives a lease up; its counter stays, so that the fence is worthless from now on.
func (s *Store) Release(ctx context.Context, f store.Fence) error {
	var n int64
	err := s.update(ctx, fmt.Sprintf("release lease %q", f.Name), func(tx *sql.Tx) error {
		r, err := tx.Exec("UPDATE leases SET holder = '', expires = 0 WHERE name = ? AND holder = ? AND counter = ? AND holder <> ''", f.Name, f.Holder, f.Counter)
		if err != nil {
			return err
		}
		n, err = r.RowsAffected()
		return err
	})
	if err == nil && n == 0 {
		err = fmt.Errorf("release lease %q of %s: %w", f.Name, f.Holder, store.ErrFenced)
	}
	return err
}

// RaiseEpoch starts a new epoch and ends every Follow.
func (s *Store) RaiseEpoch(ctx context.Context) (store.Lineage, error) {
	var l store.Lineage
	err := s.update(ctx, "raise the epoch", func(tx *sql.Tx) error {
		return tx.QueryRow("UPDATE meta SET epoch = epoch + 1 RETURNING lineage, epoch").Scan(&l.ID, &l.Epoch)
	})
	if err != nil {
		return store.Lineage{}, err
	}
	s.bell.Ring()
	return l, nil
}
