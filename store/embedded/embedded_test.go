package embedded

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/storetest"
)

func open(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(context.Background(), Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func TestContract(t *testing.T) {
	storetest.Run(t, func(t testing.TB, instances int) []store.Store {
		s := open(t, filepath.Join(t.TempDir(), "store.db"))
		stores := make([]store.Store, instances)
		for i := range stores {
			stores[i] = s
		}
		return stores
	})
}

func BenchmarkCommit(b *testing.B) {
	storetest.BenchmarkCommit(b, func(t testing.TB, _ int) []store.Store {
		return []store.Store{open(t, filepath.Join(t.TempDir(), "store.db"))}
	})
}
