package postgres

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/internal/ledger"
)

//go:embed migrations/*.sql
var files embed.FS

// migrationLock is the advisory lock that lets one instance migrate; nothing else takes advisory locks.
const migrationLock = 0x636175736577

type migration struct {
	version int
	sql     string
}

// migrations lists the embedded files by the number that starts their names, which must run from 1 without a gap.
func migrations() ([]migration, error) {
	names, err := fs.Glob(files, "migrations/*.sql")
	if err != nil {
		return nil, err
	}
	var list []migration
	for i, name := range names {
		number, _, _ := strings.Cut(strings.TrimPrefix(name, "migrations/"), "_")
		version, err := strconv.Atoi(number)
		if err != nil || version != i+1 {
			return nil, fmt.Errorf("migration %s should have number %d", name, i+1)
		}
		text, err := files.ReadFile(name)
		if err != nil {
			return nil, err
		}
		list = append(list, migration{version, string(text)})
	}
	return list, nil
}

// migrate brings the schema to this version, and refuses a newer one.
func (s *Store) migrate(ctx context.Context) error {
	list, err := migrations()
	if err != nil {
		return err
	}
	known := len(list)
	have, err := schemaVersion(ctx, s.pool)
	if err != nil || have == known {
		return err
	}
	if have > known {
		return fmt.Errorf("the database has schema %d, this version knows %d; use the newer version again: %w", have, known, store.ErrSchema)
	}
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		// Waiting for another instance and rewriting tables may take long.
		if _, err := tx.Exec(ctx, "SELECT set_config('statement_timeout', '0', true), pg_advisory_xact_lock($1)", migrationLock); err != nil {
			return err
		}
		have, err := schemaVersion(ctx, tx)
		if err != nil || have >= known {
			return err
		}
		for _, m := range list[have:] {
			if _, err := tx.Exec(ctx, m.sql); err != nil {
				return fmt.Errorf("migration %d: %w", m.version, err)
			}
		}
		if have == 0 {
			if err := seed(ctx, tx); err != nil {
				return err
			}
		}
		_, err = tx.Exec(ctx, "UPDATE schema_version SET version = $1", known)
		s.log.Info("migrated the database", "from", have, "to", known)
		return err
	})
	if err != nil {
		return unavailable("bring the database schema up to date", err)
	}
	return nil
}

type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func schemaVersion(ctx context.Context, q querier) (version int, err error) {
	var exists bool
	// The catalog itself is asked: to_regclass may answer from what the session remembers, before another migrated.
	err = q.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_class WHERE relname = 'schema_version' AND pg_table_is_visible(oid))").Scan(&exists)
	if err == nil && exists {
		err = q.QueryRow(ctx, "SELECT version FROM schema_version").Scan(&version)
	}
	if err != nil {
		err = unavailable("read the schema version", err)
	}
	return version, err
}

// seed gives an empty database its lineage.
func seed(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, "CREATE TABLE schema_version (version integer NOT NULL); INSERT INTO schema_version VALUES (0)"); err != nil {
		return err
	}
	l := ledger.NewLineage()
	var zero store.Chain
	_, err := tx.Exec(ctx, "INSERT INTO meta VALUES (1, $1, $2, 0, $3, 0, $3)", l.ID, l.Epoch, zero[:])
	return err
}
