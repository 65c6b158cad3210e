// Package embedded is the store of one process in one SQLite file: the default where no PostgreSQL is wanted.
// It does not share the file: a second process is refused, and readers and the writer of this one take turns on a
// single connection. A control plane therefore reads from its own memory and uses the file to write and to start.
package embedded

import (
	"context"
	"database/sql"
	"database/sql/driver"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/internal/ledger"
)

var _ store.Store = (*Store)(nil)

//go:embed schema.sql
var schema string

const (
	schemaVersion = 1
	// applicationID marks a SQLite file as ours, so that a file of another program is never written to.
	applicationID = 0x43577931
)

// A Config says where the store is.
type Config struct {
	Path   string // the file; "-wal" and ".lock" are kept beside it
	Holder string // how a second process is told who holds the file; the program's name when empty
	Log    *slog.Logger
}

// A Store is one SQLite file.
type Store struct {
	log   *slog.Logger
	path  string
	db    *sql.DB
	claim *os.File
	queue *ledger.Queue
	bell  ledger.Bell

	writer sync.WaitGroup
	once   sync.Once
	closed chan struct{}
	err    error // of Close
}

// Open claims, checks and if need be creates the file.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Path == "" {
		return nil, errors.New("open the embedded store: no file is named")
	}
	if cfg.Holder == "" {
		cfg.Holder = filepath.Base(os.Args[0])
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(filepath.Dir(cfg.Path), 0o700); err != nil {
		return nil, fmt.Errorf("open the embedded store: %w", err)
	}
	claim, err := lock(cfg.Path, cfg.Holder)
	if err != nil {
		return nil, fmt.Errorf("open the embedded store: %w", err)
	}
	s := &Store{log: cfg.Log, path: cfg.Path, claim: claim, db: connect(cfg), queue: ledger.NewQueue(), closed: make(chan struct{})}
	if err := s.prepare(ctx); err != nil {
		s.db.Close()
		claim.Close()
		return nil, fmt.Errorf("open %s: %w", cfg.Path, err)
	}
	s.writer.Go(func() { s.queue.Serve(s.commit) })
	return s, nil
}

// connect gives the file one connection for ever: in exclusive mode there can be no second.
func connect(cfg Config) *sql.DB {
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: cfg.Path}).EscapedPath(), RawQuery: "_txlock=immediate"}
	db := sql.OpenDB(connector{dsn: u.String()})
	db.SetMaxOpenConns(1)
	db.SetMaxIdleConns(1)
	db.SetConnMaxLifetime(0)
	db.SetConnMaxIdleTime(0)
	return db
}

// A connector opens a connection with our pragmas in the order that SQLite needs them: a file that enters WAL mode while
// locked exclusively keeps its index in memory.
type connector struct {
	dsn string
}

// Connect implements driver.Connector.
func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Driver().Open(c.dsn)
	if err != nil {
		return nil, err
	}
	pragmas := []string{
		"PRAGMA locking_mode = EXCLUSIVE",
		"PRAGMA journal_mode = WAL",
		"PRAGMA synchronous = FULL",
		"PRAGMA journal_size_limit = 67108864",
	}
	for _, p := range pragmas {
		if _, err := conn.(driver.ExecerContext).ExecContext(ctx, p, nil); err != nil {
			conn.Close()
			return nil, fmt.Errorf("%s: %w", p, err)
		}
	}
	return conn, nil
}

// Driver implements driver.Connector.
func (c connector) Driver() driver.Driver { return &sqlite.Driver{} }

// prepare refuses damaged, foreign and newer files and creates the tables in an empty one.
func (s *Store) prepare(ctx context.Context) error {
	var verdict string
	if err := s.db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&verdict); err != nil {
		return s.damaged(err)
	}
	if verdict != "ok" {
		return s.damaged(errors.New(verdict))
	}
	var app, version, tables int
	row := s.db.QueryRowContext(ctx, "SELECT (SELECT application_id FROM pragma_application_id), (SELECT user_version FROM pragma_user_version), (SELECT count(*) FROM sqlite_schema)")
	if err := row.Scan(&app, &version, &tables); err != nil {
		return unavailable("read the schema version", err)
	}
	switch {
	case tables == 0:
		return s.create(ctx)
	case app != applicationID:
		return errors.New("it is a SQLite file of another program; name another file")
	case version > schemaVersion:
		return fmt.Errorf("its schema is %d, this version knows %d; use the newer version again: %w", version, schemaVersion, store.ErrSchema)
	}
	return nil
}

func (s *Store) damaged(err error) error {
	if code(err) == sqlite3.SQLITE_NOTADB {
		return fmt.Errorf("it is no SQLite file; name another file: %w", err)
	}
	return fmt.Errorf("the file is damaged; restore it from a backup and raise the epoch: %w", err)
}

func (s *Store) create(ctx context.Context) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return unavailable("create the tables", err)
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, schema+fmt.Sprintf("PRAGMA application_id = %d; PRAGMA user_version = %d;", applicationID, schemaVersion)); err != nil {
		return unavailable("create the tables", err)
	}
	l := ledger.NewLineage()
	var zero store.Chain
	if _, err := tx.ExecContext(ctx, "INSERT INTO meta VALUES (1, ?, ?, 0, ?, 0, ?)", l.ID, l.Epoch, zero[:], zero[:]); err != nil {
		return unavailable("create the tables", err)
	}
	if err := tx.Commit(); err != nil {
		return unavailable("create the tables", err)
	}
	s.log.Info("created the embedded store", "path", s.path, "lineage", l.String())
	return nil
}

// Close finishes the group being written, refuses the rest, ends every Follow and gives up the file.
func (s *Store) Close() error {
	s.once.Do(func() {
		close(s.closed)
		s.queue.Close()
		s.writer.Wait()
		s.err = errors.Join(s.give(), s.claim.Close())
	})
	return s.err
}

// lastReader bounds how long Close waits for a reader that does not end.
const lastReader = 10 * time.Second

// give closes the one connection once its last user is done: the pool alone would leave it, and the lock on the file, to that one.
func (s *Store) give() error {
	ctx, cancel := context.WithTimeout(context.Background(), lastReader)
	defer cancel()
	conn, err := s.db.Conn(ctx)
	closed := s.db.Close()
	if err != nil {
		return closed
	}
	return errors.Join(closed, conn.Close())
}

// shut says that the store was closed.
func (s *Store) shut() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

// fault is the answer for an error of the database in a call of the contract.
func (s *Store) fault(ctx context.Context, doing string, err error) error {
	switch {
	case s.shut():
		return ledger.Closed(doing)
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", doing, context.Cause(ctx))
	}
	return unavailable(doing, err)
}

// unavailable says that nothing was written and, for what an operator can mend, how.
func unavailable(doing string, err error) error {
	hint := ""
	switch code(err) & 0xff {
	case sqlite3.SQLITE_FULL:
		hint = "the disk is full, free some space: "
	case sqlite3.SQLITE_READONLY:
		hint = "the file is read-only: "
	case sqlite3.SQLITE_CORRUPT:
		hint = "the file is damaged, restore it from a backup: "
	}
	return fmt.Errorf("%s: %s%w: %w", doing, hint, err, store.ErrUnavailable)
}

// code is SQLite's result code, 0 for other errors.
func code(err error) int {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code()
	}
	return 0
}
