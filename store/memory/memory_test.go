package memory_test

import (
	"testing"

	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/memory"
	"github.com/causeway-mesh/causeway/store/storetest"
)

func TestContract(t *testing.T) {
	storetest.Run(t, func(t testing.TB, instances int) []store.Store {
		s := memory.New()
		t.Cleanup(func() { s.Close() })
		stores := make([]store.Store, instances)
		for i := range stores {
			stores[i] = s
		}
		return stores
	})
}
