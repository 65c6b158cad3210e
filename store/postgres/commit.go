package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

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

// commit answers one group. No caller's context reaches the transaction: they share it.
func (s *Store) commit(group []*ledger.Pending) {
	start := time.Now()
	verdicts, err := s.decide(group)
	if refusal, ok := errors.AsType[*pgconn.PgError](err); ok && refusesData(refusal.Code) {
		if len(group) > 1 { // one of them is to blame: alone, it harms only itself
			for _, p := range group {
				s.commit([]*ledger.Pending{p})
			}
			return
		}
		err = fmt.Errorf("commit: %w: %w", store.ErrInvalid, refusal)
	}
	s.metrics.seconds.Observe(time.Since(start).Seconds())
	s.metrics.group.Observe(float64(len(group)))
	var newest uint64
	for i, p := range group {
		if err != nil {
			p.Answer(store.Committed{}, err)
			continue
		}
		if verdicts[i].err == nil {
			newest = max(newest, verdicts[i].c.Position.Revision)
		}
		p.Answer(verdicts[i].c, verdicts[i].err)
	}
	s.news.reached(newest)
	if err == nil && s.enough(newest) >= s.upper {
		if err := s.ahead(s.closed); err != nil {
			s.log.Warn("no partition made ahead, the next commit tries again", "err", err)
		}
	}
}

// refusesData says that a statement failed because of the values in it.
func refusesData(code string) bool {
	return len(code) == 5 && (code[:2] == "22" || code[:2] == "23" || code[:2] == "54")
}

// decide runs the transaction of a group until its outcome is known. After a lost connection it runs it again: under the
// order lock, which the lost transaction holds until it is over, batches that it did commit are recognised by their ids.
func (s *Store) decide(group []*ledger.Pending) ([]verdict, error) {
	ctx, cancel := context.WithTimeout(context.Background(), s.limits.patience)
	defer cancel()
	doubt := false
	for attempt := 0; ; attempt++ {
		verdicts, maybe, err := s.attempt(ctx, group)
		if err == nil {
			return verdicts, nil
		}
		if maybe && !doubt {
			doubt = true
			s.metrics.doubts.Inc()
		}
		if lost(err) {
			s.single.Reset()
		}
		if again := doubt || lost(err) && attempt == 0 || s.partitionMissing(ctx, err) && attempt == 0; !again {
			return nil, unavailable("commit", err)
		}
		if !s.pause(ctx, attempt) {
			if doubt {
				return nil, fmt.Errorf("commit: %w: %w", err, store.ErrUnknownOutcome)
			}
			return nil, unavailable("commit", err)
		}
	}
}

// partitionMissing makes the partition that a failed insert lacked.
func (s *Store) partitionMissing(ctx context.Context, err error) bool {
	refusal, ok := errors.AsType[*pgconn.PgError](err)
	return ok && refusal.Code == "23514" && s.ahead(ctx) == nil
}

// pause waits a little longer with each attempt; false means that there is no time for another.
func (s *Store) pause(ctx context.Context, attempt int) bool {
	wait := time.NewTimer(min(20*time.Millisecond<<min(attempt, 10), time.Second) * time.Duration(min(attempt, 1)))
	defer wait.Stop()
	select {
	case <-wait.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	case <-s.closed.Done():
		return false
	}
}

// attempt runs the transaction of a group once. Maybe says that it could have been committed in spite of the error.
func (s *Store) attempt(ctx context.Context, group []*ledger.Pending) (verdicts []verdict, maybe bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.limits.statement+time.Second)
	defer cancel()
	conn, err := s.single.Acquire(ctx)
	if err != nil {
		return nil, false, err
	}
	defer conn.Release() // a connection with an open transaction is closed by that
	head, at, state, err := begin(ctx, conn, len(group), ledger.NeedsOf(group))
	if err != nil {
		return nil, false, rollback(ctx, conn, err)
	}
	g := ledger.NewGroup(state, head.Position, at)
	verdicts = make([]verdict, len(group))
	for i, p := range group {
		verdicts[i].c, verdicts[i].err = g.Apply(p.Batch)
	}
	if len(g.Commits()) == 0 {
		_ = rollback(ctx, conn, nil) // nothing failed
		return verdicts, false, nil
	}
	if err := s.finish(ctx, conn, g); err != nil {
		return nil, lost(err), rollback(ctx, conn, err)
	}
	s.news.committed(head.Position, g.Commits())
	return verdicts, false, nil
}

// rollback ends a failed transaction when the connection still lives, and gives back why it failed.
func rollback(ctx context.Context, conn *pgxpool.Conn, err error) error {
	if err == nil || !lost(err) {
		_, _ = conn.Exec(ctx, "ROLLBACK") // if this fails, releasing the connection closes it
	}
	return err
}

const (
	objectColumns = "o.class, o.type, o.mesh, o.name, o.uid, o.version, o.revision, o.labels, o.data, o.created, o.modified, o.owner_class, o.owner_type, o.owner_mesh, o.owner_name, o.secret"
	headColumns   = "lineage, epoch, revision, chain, compacted, compacted_chain"
	keyArrays     = "unnest($1::smallint[], $2::text[], $3::text[], $4::text[]) AS k (class, type, mesh, name)"
	sameKey       = "o.class = k.class AND o.type = k.type AND o.mesh = k.mesh AND o.name = k.name"
	ownedBy       = "o.owner_class = k.class AND o.owner_type = k.type AND o.owner_mesh = k.mesh AND o.owner_name = k.name"

	takeOrder = "UPDATE meta SET revision = revision + $1 RETURNING lineage, epoch, revision - $1, chain, compacted, compacted_chain, clock_timestamp()"
	byKeys    = "SELECT " + objectColumns + " FROM " + keyArrays + " JOIN objects o ON " + sameKey
	byOwners  = `WITH RECURSIVE owned (class, type, mesh, name) AS (
		SELECT o.class, o.type, o.mesh, o.name FROM ` + keyArrays + ` JOIN objects o ON ` + ownedBy + `
		UNION SELECT o.class, o.type, o.mesh, o.name FROM owned k JOIN objects o ON ` + ownedBy + `)
		SELECT ` + objectColumns + ` FROM owned k JOIN objects o ON ` + sameKey
	// A lease that is read for a write can not change hands before the write is committed.
	leasesByName = "SELECT name, holder, counter FROM leases WHERE name = ANY($1) FOR SHARE"
	batchesByID  = "SELECT revision FROM batches WHERE id = ANY($1)"
)

// begin opens the transaction, takes the order lock as its first write and reads what the group needs, in one round trip.
func begin(ctx context.Context, conn *pgxpool.Conn, size int, needs ledger.Needs) (head ledger.Head, at time.Time, state *ledger.Loaded, err error) {
	state = ledger.NewLoaded()
	var repeated []uint64
	q := &pgx.Batch{}
	q.Queue("BEGIN")
	q.Queue(takeOrder, size).QueryRow(func(row pgx.Row) error { return scanHead(row, &head, &at) })
	keys := keysOf(needs.Keys)
	addObjects := func(rows pgx.Rows) error {
		return eachObject(rows, func(o store.Object) error { state.AddObject(o); return nil })
	}
	q.Queue(byKeys, keys...).Query(addObjects)
	if needs.Cascade {
		q.Queue(byOwners, keys...).Query(addObjects)
	}
	if len(needs.Leases) > 0 {
		q.Queue(leasesByName, needs.Leases).Query(func(rows pgx.Rows) error {
			fences, err := pgx.CollectRows(rows, pgx.RowToStructByPos[store.Fence])
			for _, f := range fences {
				state.AddLease(f)
			}
			return err
		})
	}
	q.Queue(batchesByID, idsOf(needs.IDs)).Query(func(rows pgx.Rows) (err error) {
		repeated, err = pgx.CollectRows(rows, pgx.RowTo[uint64])
		return err
	})
	if err = conn.SendBatch(ctx, q).Close(); err != nil {
		return head, at, nil, err
	}
	for _, revision := range repeated {
		batches, err := readBatches(ctx, conn, head, revision, revision)
		if err != nil {
			return head, at, nil, err
		}
		state.AddBatch(batches[0])
	}
	return head, at, state, nil
}

// finish writes the outcome of the group and commits, in one round trip.
func (s *Store) finish(ctx context.Context, conn *pgxpool.Conn, g *ledger.Group) error {
	q := &pgx.Batch{}
	write(q, g)
	head := g.Head()
	q.Queue("UPDATE meta SET revision = $1, chain = $2", head.Revision, head.Chain[:])
	if !s.limits.silent {
		// Waiting for a synchronous standby is part of COMMIT. A timeout would end the wait and report success.
		q.Queue("SELECT pg_notify($1, $2), set_config('statement_timeout', '0', true)", channel, strconv.FormatUint(head.Revision, 10))
	}
	var done pgconn.CommandTag
	q.Queue("COMMIT").Exec(func(tag pgconn.CommandTag) error { done = tag; return nil })
	if err := conn.SendBatch(ctx, q).Close(); err != nil {
		return err
	}
	if done.String() != "COMMIT" {
		return &pgconn.PgError{SeverityUnlocalized: "ERROR", Code: "40000", Message: "the database answered COMMIT with " + done.String()}
	}
	return nil
}

const (
	insertBatches = `INSERT INTO batches (revision, id, chain, author, reason, size, at)
		SELECT *, $7::timestamptz FROM unnest($1::bigint[], $2::bytea[], $3::bytea[], $4::text[], $5::text[], $6::bigint[])`
	// The arrays $1 to $14 are those of a table.
	arrays = `unnest($1::smallint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::text[], $9::bytea[],
		$10::timestamptz[], $11::timestamptz[], $12::smallint[], $13::text[], $14::text[], $15::text[], $16::boolean[]`
	columns = "class, type, mesh, name, uid, version, revision, labels, data, created, modified, owner_class, owner_type, owner_mesh, owner_name, secret"
	values  = "class, type, mesh, name, uid, version, revision, labels::jsonb, data, created, modified, owner_class, owner_type, owner_mesh, owner_name, secret"

	insertHistory = "INSERT INTO history (" + columns + ", seq, deleted) SELECT " + values + ", seq, deleted FROM " + arrays + ", $17::integer[], $18::boolean[]) AS t (" + columns + ", seq, deleted)"
	upsertObjects = "INSERT INTO objects (" + columns + ") SELECT " + values + " FROM " + arrays + ") AS t (" + columns + `)
		ON CONFLICT (class, type, mesh, name) DO UPDATE SET uid = excluded.uid, version = excluded.version, revision = excluded.revision,
		labels = excluded.labels, data = excluded.data, created = excluded.created, modified = excluded.modified, owner_class = excluded.owner_class,
		owner_type = excluded.owner_type, owner_mesh = excluded.owner_mesh, owner_name = excluded.owner_name, secret = excluded.secret`
	deleteObjects = "DELETE FROM objects o USING " + keyArrays + " WHERE " + sameKey
	shredHistory  = `UPDATE history o SET data = NULL FROM unnest($1::smallint[], $2::text[], $3::text[], $4::text[], $5::text[]) AS k (class, type, mesh, name, uid)
		WHERE ` + sameKey + " AND o.uid = k.uid AND o.data IS NOT NULL"
)

// write queues the statements for what the group changed.
func write(q *pgx.Batch, g *ledger.Group) {
	var changes, puts table
	var deleted, shredded []store.Key
	var uids []string
	var b struct {
		revisions, sizes []uint64
		ids, chains      [][]byte
		authors, reasons []string
	}
	commits := g.Commits()
	for _, c := range commits {
		size := 0
		for i, ch := range c.Changes {
			changes.add(ch.Object)
			changes.seq, changes.deleted = append(changes.seq, i), append(changes.deleted, ch.Deleted)
			size += len(ch.Object.Data)
			if ch.Deleted && ch.Object.Secret {
				shredded, uids = append(shredded, ch.Object.Key), append(uids, ch.Object.UID)
			}
		}
		b.revisions, b.sizes = append(b.revisions, c.Position.Revision), append(b.sizes, uint64(size))
		b.ids, b.chains = append(b.ids, c.ID[:]), append(b.chains, c.Position.Chain[:])
		b.authors, b.reasons = append(b.authors, c.Author), append(b.reasons, c.Reason)
	}
	for k, o := range g.Changed() {
		if o == nil {
			deleted = append(deleted, k)
		} else {
			puts.add(*o)
		}
	}
	q.Queue(insertBatches, b.revisions, b.ids, b.chains, b.authors, b.reasons, b.sizes, commits[0].At)
	if len(changes.class) > 0 {
		q.Queue(insertHistory, append(changes.args(), changes.seq, changes.deleted)...)
	}
	if len(puts.class) > 0 {
		q.Queue(upsertObjects, puts.args()...)
	}
	if len(deleted) > 0 {
		q.Queue(deleteObjects, keysOf(deleted)...)
	}
	if len(shredded) > 0 {
		q.Queue(shredHistory, append(keysOf(shredded), uids)...)
	}
}

// A table is objects by column.
type table struct {
	class                        []int16
	typ, mesh, name, uid, labels []string
	version, revision            []uint64
	data                         [][]byte
	created, modified            []*time.Time
	ownerClass                   []*int16
	ownerType, ownerMesh, owner  []*string
	secret, deleted              []bool
	seq                          []int
}

func (t *table) add(o store.Object) {
	t.class = append(t.class, int16(o.Class))
	t.typ, t.mesh, t.name = append(t.typ, o.Type), append(t.mesh, o.Mesh), append(t.name, o.Name)
	t.uid, t.version, t.revision = append(t.uid, o.UID), append(t.version, o.Version), append(t.revision, o.Revision)
	t.labels, t.data, t.secret = append(t.labels, encodeLabels(o.Labels)), append(t.data, o.Data), append(t.secret, o.Secret)
	var created, modified *time.Time
	if !o.Created.IsZero() { // deletions have no times
		created, modified = &o.Created, &o.Modified
	}
	t.created, t.modified = append(t.created, created), append(t.modified, modified)
	var class *int16
	var typ, mesh, name *string
	if k := o.Owner; k != nil {
		c := int16(k.Class)
		class, typ, mesh, name = &c, &k.Type, &k.Mesh, &k.Name
	}
	t.ownerClass, t.ownerType = append(t.ownerClass, class), append(t.ownerType, typ)
	t.ownerMesh, t.owner = append(t.ownerMesh, mesh), append(t.owner, name)
}

func (t *table) args() []any {
	return []any{t.class, t.typ, t.mesh, t.name, t.uid, t.version, t.revision, t.labels, t.data, t.created, t.modified, t.ownerClass, t.ownerType, t.ownerMesh, t.owner, t.secret}
}

func encodeLabels(labels map[string]string) string {
	if len(labels) == 0 {
		return "{}"
	}
	text, err := json.Marshal(labels)
	if err != nil {
		panic(err) // a map of strings always encodes
	}
	return string(text)
}

// keysOf is keys by column.
func keysOf(keys []store.Key) []any {
	var t table
	for _, k := range keys {
		t.class, t.typ, t.mesh, t.name = append(t.class, int16(k.Class)), append(t.typ, k.Type), append(t.mesh, k.Mesh), append(t.name, k.Name)
	}
	return []any{t.class, t.typ, t.mesh, t.name}
}

func idsOf(ids []store.BatchID) [][]byte {
	list := make([][]byte, len(ids))
	for i := range ids {
		list[i] = ids[i][:]
	}
	return list
}
