// Package backend opens the store that a control plane is configured to use, sealing keys included.
// It is wiring: it implements no store and interprets no object.
package backend

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/embedded"
	"github.com/causeway-mesh/causeway/store/memory"
	"github.com/causeway-mesh/causeway/store/postgres"
	"github.com/causeway-mesh/causeway/store/seal"
)

// The kinds of stores.
const (
	Embedded = "embedded"
	Postgres = "postgres"
	Memory   = "memory"
)

// Config chooses a store.
type Config struct {
	Type     string         `json:"type" doc:"embedded (one file, the default), postgres, or memory (nothing survives a restart)"`
	Path     string         `json:"path" doc:"file of the embedded store; default store.db in the work directory"`
	Postgres PostgresConfig `json:"postgres"`
	Keys     string         `json:"keys" doc:"the keys that seal secrets, one ID:BASE64 per line, newest last" secret:"true"`
}

// PostgresConfig is where PostgreSQL is.
type PostgresConfig struct {
	DSN            string `json:"dsn" doc:"URL or key=value pairs as libpq reads them" secret:"true"`
	MaxConnections int    `json:"maxConnections" doc:"connections in the pool, beside the one that listens"`
}

// Default is an embedded store.
func Default() Config {
	return Config{Type: Embedded, Postgres: PostgresConfig{MaxConnections: 8}}
}

// Validate reports contradicting settings.
func (c Config) Validate(at resource.Path) resource.Problems {
	var ps resource.Problems
	switch c.Type {
	case Embedded, Memory:
		if c.Postgres.DSN != "" {
			ps.Add(at.Field("postgres").Field("dsn"), "is set but type is %s; set type to postgres or remove it", c.Type)
		}
	case Postgres:
		if c.Postgres.DSN == "" {
			ps.Add(at.Field("postgres").Field("dsn"), "must be set with type postgres")
		}
	default:
		msg := "must be embedded, postgres or memory, not " + resource.Quote(c.Type)
		if near := resource.Nearest(c.Type, []string{Embedded, Postgres, Memory}); near != "" {
			msg += "; did you mean " + near + "?"
		}
		ps.Add(at.Field("type"), "%s", msg)
	}
	if c.Postgres.MaxConnections < 1 {
		ps.Add(at.Field("postgres").Field("maxConnections"), "must be at least 1")
	}
	return ps
}

// Open opens the store. Dir is where files are kept.
func Open(ctx context.Context, c Config, dir, holder string, log *slog.Logger, reg prometheus.Registerer) (store.Store, error) {
	switch c.Type {
	case Memory:
		return memory.New(), nil
	case Postgres:
		s, err := postgres.Open(ctx, postgres.Config{DSN: c.Postgres.DSN, MaxConns: c.Postgres.MaxConnections, Registerer: reg, Log: log})
		if err != nil {
			err = fmt.Errorf("store.postgres.dsn: check that the database runs and that this host may connect to it: %w", err)
		}
		return opened(s, err)
	}
	path := c.Path
	if path == "" {
		path = filepath.Join(dir, "store.db")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("open embedded store: %w", err)
	}
	return opened(embedded.Open(ctx, embedded.Config{Path: path, Holder: holder, Log: log}))
}

// opened keeps a nil pointer from becoming a store that is not nil.
func opened[S store.Store](s S, err error) (store.Store, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Sealer reads the sealing keys from the configuration, or from a file in dir that is made when absent.
func Sealer(c Config, dir string, log *slog.Logger) (*seal.Sealer, error) {
	if strings.TrimSpace(c.Keys) != "" {
		keys, err := seal.Parse(c.Keys)
		if err != nil {
			return nil, fmt.Errorf("store.keys: %w", err)
		}
		return seal.New(keys...)
	}
	path := filepath.Join(dir, "sealing.keys")
	keys, created, err := seal.LoadFile(path)
	if err != nil {
		return nil, fmt.Errorf("sealing keys: %w", err)
	}
	if created {
		log.Warn("a key that seals secrets was made; keep a copy apart from the store: without it secrets cannot be read", "file", path)
	}
	return seal.New(keys...)
}
