package storetest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/causeway-mesh/causeway/store"
)

// Writers are the numbers of concurrent writers that stores are measured with.
var Writers = []int{1, 8, 64}

// BenchData is a resource of about 1 KB.
var BenchData = []byte(`{"spec":"` + strings.Repeat("a", 1000) + `"}`)

// BenchmarkCommit measures batches of one object of 1 KB, created by some writers at once.
func BenchmarkCommit(b *testing.B, open Open) {
	for _, writers := range Writers {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			s := open(b, 1)[0]
			Spread(b, writers, func(i int64) error {
				_, err := s.Commit(context.Background(), Batch(store.Op{Object: store.Object{Key: Key(fmt.Sprint(i)), Data: BenchData}}))
				return err
			})
		})
	}
}

// Spread runs the b.N operations of a benchmark on some goroutines and reports how many there are in a second.
func Spread(b *testing.B, goroutines int, run func(i int64) error) {
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range goroutines {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				if err := run(i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
}
