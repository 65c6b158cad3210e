package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/internal/ledger"
)

const (
	channel = "causeway"
	// epochNews is the payload when the lineage changed; otherwise it is a revision.
	epochNews = "epoch"
	// grace is how long a notification may come after the change that it announces is visible.
	grace = 250 * time.Millisecond

	// What one read of Follow takes at most; a single larger batch is still taken.
	pageBatches = 256
	pageBytes   = 8 << 20

	// What of its own commits an instance keeps for its followers at most; a single larger batch is still kept.
	freshBatches = 64
	freshBytes   = 1 << 20
)

// news is what the followers of this instance are told: that there are revisions, or that they must look for themselves.
// What the instance has committed itself they need not read back.
type news struct {
	bell     ledger.Bell
	mu       sync.Mutex
	revision uint64
	looks    uint64
	origin   store.Position    // before fresh
	fresh    []store.Committed // consecutive; shared with nobody
	bytes    []int             // of each
}

// committed takes batches of this instance that are durable, and the position before them.
func (n *news) committed(before store.Position, batches []store.Committed) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if last := len(n.fresh) - 1; last < 0 || n.fresh[last].Position != before {
		n.origin, n.fresh, n.bytes = before, nil, nil
	}
	for _, c := range batches {
		size := 0
		for _, ch := range c.Changes {
			size += len(ch.Object.Data)
		}
		n.fresh, n.bytes = append(n.fresh, ledger.CloneCommitted(c)), append(n.bytes, size)
	}
	total := 0
	for _, size := range n.bytes {
		total += size
	}
	old := 0
	for ; len(n.fresh)-old > 1 && (len(n.fresh)-old > freshBatches || total > freshBytes); old++ {
		total -= n.bytes[old]
		n.origin = n.fresh[old].Position
	}
	n.fresh, n.bytes = slices.Delete(n.fresh, 0, old), slices.Delete(n.bytes, 0, old)
}

// after are the batches behind a position, none when they are not at hand.
func (n *news) after(p store.Position) (page []store.Committed) {
	n.mu.Lock()
	defer n.mu.Unlock()
	known := n.origin == p
	for _, c := range n.fresh {
		if known {
			page = append(page, ledger.CloneCommitted(c))
		}
		known = known || c.Position == p
	}
	return page
}

// reached announces a revision.
func (n *news) reached(revision uint64) {
	n.mu.Lock()
	risen := revision > n.revision
	n.revision = max(n.revision, revision)
	n.mu.Unlock()
	if risen {
		n.bell.Ring()
	}
}

// look makes every follower read, and takes a revision as known.
func (n *news) look(revision uint64) {
	n.mu.Lock()
	n.revision = revision
	n.looks++
	n.mu.Unlock()
	n.bell.Ring()
}

func (n *news) latest() (revision, looks uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.revision, n.looks
}

// listen keeps one connection waiting for notifications until the store is closed.
func (s *Store) listen(ctx context.Context, cfg *pgx.ConnConfig) {
	const shortest, longest = 50 * time.Millisecond, 2 * time.Second
	for wait := shortest; ; wait = min(2*wait, longest) {
		connected, err := s.hear(ctx, cfg)
		if ctx.Err() != nil {
			return
		}
		if connected {
			wait = shortest
			s.metrics.reconnects.Inc()
		}
		s.log.Warn("the connection for notifications was lost", "err", err, "retry", wait)
		retry := time.NewTimer(wait/2 + rand.N(wait))
		select {
		case <-retry.C:
		case <-ctx.Done():
			retry.Stop()
			return
		}
	}
}

// hear listens on one connection until it ends.
func (s *Store) hear(ctx context.Context, cfg *pgx.ConnConfig) (connected bool, err error) {
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return false, err
	}
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		conn.Close(last)
	}()
	if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
		return false, err
	}
	var backend uint32
	if err := conn.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&backend); err != nil {
		return false, err
	}
	if backend != conn.PgConn().PID() {
		s.log.Warn("PostgreSQL is reached through a pooler; notifications get lost if it pools transactions: connect to the primary directly")
	}
	known, err := readHead(ctx, conn)
	if err != nil {
		return false, err
	}
	s.news.look(known.Revision) // whatever came while nobody listened
	for {
		n, err := s.wait(ctx, conn, s.limits.guard)
		switch {
		case err != nil:
			return true, err
		case n != nil:
			s.take(n)
			continue
		}
		if known, err = s.guard(ctx, conn, known); err != nil {
			return true, err
		}
	}
}

// wait gives the next notification, or nil after the time.
func (s *Store) wait(ctx context.Context, conn *pgx.Conn, most time.Duration) (*pgconn.Notification, error) {
	quiet, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	n, err := conn.WaitForNotification(quiet)
	if err != nil && ctx.Err() == nil && quiet.Err() != nil && !conn.IsClosed() {
		return nil, nil
	}
	return n, err
}

func (s *Store) take(n *pgconn.Notification) {
	if revision, err := strconv.ParseUint(n.Payload, 10, 64); err == nil {
		s.news.reached(revision)
		return
	}
	revision, _ := s.news.latest()
	s.news.look(revision)
}

// guard asks the database after a time of silence. What it finds should have been announced, unless the announcement is
// just on its way.
func (s *Store) guard(ctx context.Context, conn *pgx.Conn, known ledger.Head) (ledger.Head, error) {
	limited, cancel := context.WithTimeout(ctx, s.limits.statement)
	defer cancel()
	_, looks := s.news.latest()
	found, err := readHead(limited, conn)
	if err != nil {
		return known, err
	}
	missing := func() bool {
		revision, now := s.news.latest()
		return found.Revision != revision || found.Lineage != known.Lineage && now == looks
	}
	for late := time.Now().Add(grace); missing(); {
		n, err := s.wait(ctx, conn, max(time.Until(late), time.Millisecond))
		if err != nil {
			return known, err
		}
		if n != nil {
			s.take(n)
			if revision, _ := s.news.latest(); revision > found.Revision {
				break // it went on meanwhile, as announced
			}
			continue
		}
		if time.Now().Before(late) {
			continue
		}
		s.metrics.missed.Inc()
		s.log.Warn("a change was not announced; the guard query found it", "revision", found.Revision)
		s.news.look(found.Revision)
		break
	}
	return found, nil
}

// Follow hands on what this instance has committed right behind the position, and otherwise reads rows after it, whenever there is
// news. A lost connection only delays it.
func (s *Store) Follow(ctx context.Context, after store.Position, fn func(store.Committed) error) error {
	var looked uint64
	failures := 0
	for first := true; ; first = false {
		more := s.news.bell.Wait()
		revision, looks := s.news.latest()
		look := first || failures > 0 || looks != looked
		if fresh := s.news.after(after); !look && len(fresh) > 0 {
			var err error
			if after, err = s.hand(ctx, after, fresh, fn); err != nil {
				return err
			}
			continue
		}
		if look || revision > after.Revision {
			page, head, at, err := s.pageOnce(ctx, after)
			switch {
			case err == nil:
				failures, looked = 0, looks
			case errors.Is(err, store.ErrUnavailable) && s.ended(ctx, nil) == nil:
				failures++
				s.log.Warn("following is interrupted and will go on", "after", after.String(), "err", err)
			default:
				return s.ended(ctx, err)
			}
			if err == nil {
				if after, err = s.hand(ctx, at, page, fn); err != nil {
					return err
				}
				if after.Revision < head.Revision {
					continue
				}
			}
		}
		if err := s.await(ctx, more, failures); err != nil {
			return err
		}
	}
}

// await waits for news, or after failures for a growing time.
func (s *Store) await(ctx context.Context, more <-chan struct{}, failures int) error {
	var retry <-chan time.Time
	if failures > 0 {
		timer := time.NewTimer(min(50*time.Millisecond<<min(failures, 10), 2*time.Second))
		defer timer.Stop()
		retry = timer.C
	}
	select {
	case <-more:
	case <-retry:
	case <-ctx.Done():
	case <-s.closed.Done():
	}
	return s.ended(ctx, nil)
}

// ended is why Follow is over, if it is.
func (s *Store) ended(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("follow: %w", context.Cause(ctx))
	case s.closed.Err() != nil:
		return ledger.Closed("follow")
	}
	return err
}

// hand gives batches to the follower and says where it is then.
func (s *Store) hand(ctx context.Context, at store.Position, page []store.Committed, fn func(store.Committed) error) (store.Position, error) {
	for _, c := range page {
		if err := s.ended(ctx, nil); err != nil {
			return at, err
		}
		if err := fn(c); err != nil {
			return at, err
		}
		at = c.Position
	}
	return at, nil
}

// pageOnce is page on a connection that works, if there is one.
func (s *Store) pageOnce(ctx context.Context, after store.Position) (page []store.Committed, head ledger.Head, at store.Position, err error) {
	err = s.do(ctx, "follow", func(ctx context.Context) (err error) {
		page, head, at, err = s.page(ctx, after)
		return err
	})
	return page, head, at, err
}

// page is what follows a position, the head of that moment and the position in terms of its lineage.
func (s *Store) page(ctx context.Context, after store.Position) (page []store.Committed, head ledger.Head, at store.Position, err error) {
	err = s.view(ctx, func(tx pgx.Tx) error {
		var headers []header
		var stored []byte
		q := &pgx.Batch{}
		q.Queue("SELECT " + headColumns + " FROM meta").QueryRow(func(row pgx.Row) error { return scanHead(row, &head) })
		q.Queue("SELECT chain FROM batches WHERE revision = $1", after.Revision).Query(func(rows pgx.Rows) error {
			chains, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
			if len(chains) > 0 {
				stored = chains[0]
			}
			return err
		})
		q.Queue("SELECT "+batchColumns+" FROM batches b WHERE revision > $1 ORDER BY revision LIMIT $2", after.Revision, pageBatches).Query(func(rows pgx.Rows) (err error) {
			headers, err = readHeaders(rows, head)
			return err
		})
		err := tx.SendBatch(ctx, q).Close()
		if err != nil {
			return err
		}
		var chain store.Chain
		copy(chain[:], stored)
		if at, err = head.Admit(after, chain); err != nil {
			return err
		}
		page, err = fill(ctx, tx, prefix(headers))
		return err
	})
	return page, head, at, err
}

// prefix is as many batches as fit a page, one at least.
func prefix(headers []header) []header {
	var total uint64
	for i, h := range headers {
		if total += h.size; i > 0 && total > pageBytes {
			return headers[:i]
		}
	}
	return headers
}
