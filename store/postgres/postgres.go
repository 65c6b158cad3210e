// Package postgres is the store on PostgreSQL, for any number of instances on one database. Rows are the truth:
// notifications only wake readers, and nothing is decided from memory. It runs no database and changes no settings of one.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/internal/ledger"
)

var _ store.Store = (*Store)(nil)

// A Config says which database and how much of it.
type Config struct {
	DSN        string                // a URL or key=value pairs, as libpq reads them
	MaxConns   int                   // connections for reads, beside one that writes and one that listens; 8 when 0
	Registerer prometheus.Registerer // of the metrics; none when nil
	Log        *slog.Logger
}

// A tuning is what only tests change.
type tuning struct {
	statement time.Duration // the server ends longer statements and longer pauses inside transactions
	guard     time.Duration // of silence before the guard query
	patience  time.Duration // to find out the outcome of a commit
	partition uint64        // revisions in one partition of history
	silent    bool          // commit without NOTIFY
}

func defaults() tuning {
	return tuning{statement: 5 * time.Second, guard: 5 * time.Second, patience: 15 * time.Second, partition: 500_000}
}

// A Store is one instance on a database.
type Store struct {
	log     *slog.Logger
	limits  tuning
	metrics *metrics
	pool    *pgxpool.Pool // for all but the writer
	single  *pgxpool.Pool // one connection for the writer, whom no reader may starve
	queue   *ledger.Queue
	news    news
	upper   uint64 // first revision without a partition; the writer's alone after Open

	tasks  sync.WaitGroup
	once   sync.Once
	closed context.Context // ends with Close
	end    context.CancelFunc
}

// Open connects to the database, brings its schema up to date and starts the writer and the listener.
func Open(ctx context.Context, cfg Config) (*Store, error) { return open(ctx, cfg, defaults()) }

func open(ctx context.Context, cfg Config, limits tuning) (*Store, error) {
	pc, err := parse(cfg.DSN, limits)
	if err != nil {
		return nil, err
	}
	pc.MaxConns = 8
	if cfg.MaxConns > 0 {
		pc.MaxConns = int32(min(cfg.MaxConns, 10_000))
	}
	pc.AfterConnect = durable
	s := &Store{log: cfg.Log, limits: limits, queue: ledger.NewQueue()}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.metrics, err = newMetrics(cfg.Registerer); err != nil {
		return nil, err
	}
	if s.pool, err = pgxpool.NewWithConfig(ctx, pc); err != nil {
		return nil, unavailable("connect to PostgreSQL", err)
	}
	one := pc.Copy()
	one.MaxConns = 1
	if s.single, err = pgxpool.NewWithConfig(ctx, one); err != nil {
		s.pool.Close()
		return nil, unavailable("connect to PostgreSQL", err)
	}
	s.closed, s.end = context.WithCancel(context.Background())
	if err := s.prepare(ctx); err != nil {
		s.end()
		s.pool.Close()
		s.single.Close()
		return nil, err
	}
	s.tasks.Go(func() { s.queue.Serve(s.commit) })
	s.tasks.Go(func() { s.listen(s.closed, pc.ConnConfig.Copy()) })
	return s, nil
}

// durable undoes a default of the database under which acknowledged commits could be lost.
func durable(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'")
	return err
}

func (s *Store) prepare(ctx context.Context) error {
	var encoding string
	var version int
	if err := s.pool.QueryRow(ctx, "SELECT current_setting('server_encoding'), current_setting('server_version_num')::int").Scan(&encoding, &version); err != nil {
		return unavailable("connect to PostgreSQL", err)
	}
	if encoding != "UTF8" {
		return fmt.Errorf("the database has the encoding %s: create one with ENCODING 'UTF8'", encoding)
	}
	if version < 130000 {
		return fmt.Errorf("PostgreSQL %d is too old: 13 or newer is needed", version/10000)
	}
	if err := s.migrate(ctx); err != nil {
		return err
	}
	return s.ahead(ctx)
}

// Close finishes the group being written, refuses the rest, ends every Follow and closes the connections.
func (s *Store) Close() error {
	s.once.Do(func() {
		s.end()
		s.queue.Close()
		s.tasks.Wait()
		s.pool.Close()
		s.single.Close()
	})
	return nil
}

// do runs a step of the contract that may be repeated: a connection that died in the pool is replaced once.
func (s *Store) do(ctx context.Context, doing string, fn func(context.Context) error) error {
	if s.closed.Err() != nil {
		return ledger.Closed(doing)
	}
	run, cancel := s.until(ctx)
	defer cancel()
	err := fn(run)
	if err != nil && lost(err) && run.Err() == nil {
		s.pool.Reset()
		err = fn(run)
	}
	return s.fault(ctx, doing, err)
}

// until is a context that also ends with the store.
func (s *Store) until(ctx context.Context) (context.Context, func()) {
	run, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.closed, cancel)
	return run, func() { stop(); cancel() }
}

// just is do for a step that must not happen twice.
func (s *Store) just(ctx context.Context, doing string, fn func(context.Context) error) error {
	if s.closed.Err() != nil {
		return ledger.Closed(doing)
	}
	run, cancel := s.until(ctx)
	defer cancel()
	return s.fault(ctx, doing, fn(run))
}

// fault is the answer of the contract for an error of the database; answers of our own pass.
func (s *Store) fault(ctx context.Context, doing string, err error) error {
	for _, own := range []error{store.ErrForked, store.ErrCompacted, store.ErrFenced, store.ErrUnavailable} {
		if errors.Is(err, own) {
			return fmt.Errorf("%s: %w", doing, err)
		}
	}
	switch {
	case err == nil:
		return nil
	case s.closed.Err() != nil:
		return ledger.Closed(doing)
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", doing, context.Cause(ctx))
	}
	return unavailable(doing, err)
}

// lost says that an error ended the connection, so that nobody knows what the server still did.
func lost(err error) bool {
	refusal, ok := errors.AsType[*pgconn.PgError](err)
	return !ok || refusal.SeverityUnlocalized == "FATAL" || refusal.SeverityUnlocalized == "PANIC"
}

// hints are what an operator can do, by SQLSTATE.
var hints = map[string]string{
	"28P01": "check the password",
	"28000": "check user, database and pg_hba.conf",
	"3D000": "create the database or name another",
	"42501": "grant the user the right to create and write tables in this database",
	"42P07": "a table of this name exists already: use a database of its own",
	"53100": "free some space on the disk of the database",
	"53300": "raise max_connections or lower the number of connections per instance",
	"25006": "the server is a standby or read-only: name the primary",
	"57014": "the database is overloaded or another instance is stalled",
	"55P03": "another session locks the tables",
}

// unavailable says what the database could not do, with advice where there is some.
func unavailable(doing string, err error) error {
	if refusal, ok := errors.AsType[*pgconn.PgError](err); ok && hints[refusal.Code] != "" {
		return fmt.Errorf("%s (%s): %w: %w", doing, hints[refusal.Code], err, store.ErrUnavailable)
	}
	return fmt.Errorf("%s: %w: %w", doing, err, store.ErrUnavailable)
}
