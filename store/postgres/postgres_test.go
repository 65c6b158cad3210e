package postgres

import (
	"context"
	"testing"

	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/storetest"
	"github.com/causeway-mesh/causeway/test/pg"
)

// instance opens one more instance on a database, with limits of the test.
func instance(t testing.TB, cfg Config, limits tuning) *Store {
	t.Helper()
	s, err := open(context.Background(), cfg, limits)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestContract(t *testing.T) {
	storetest.Run(t, func(t testing.TB, instances int) []store.Store {
		dsn := pg.Database(t)
		stores := make([]store.Store, instances)
		for i := range stores {
			stores[i] = instance(t, Config{DSN: dsn}, defaults())
		}
		return stores
	})
}
