package xds

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/causeway-mesh/causeway/api/envoy"
)

func TestDebtsAreHandedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDebts()
		open := func() *stream {
			return &stream{session: settled(t, nil, 1, chain("a", "1")...).Session, ended: make(chan struct{})}
		}
		begin := func(node string, st *stream) *Debt { return d.begin(context.Background(), node, st) }
		first := open()
		if begin("n", first) != nil {
			t.Error("a first stream inherits")
		}
		time.AfterFunc(handover/2, func() { d.end("n", first) }) // after the client has come back
		second := open()
		if got := begin("n", second); got == nil || got.past[envoy.Cluster] == nil {
			t.Errorf("the second stream inherits %v", got)
		}
		third := open()
		if begin("n", third) != nil {
			t.Error("a stream that goes on has left a debt")
		}
		d.end("n", second)
		d.end("n", third)
		if begin("n", open()) == nil {
			t.Error("the debt of the newest stream is lost")
		}

		gone := open()
		begin("gone", gone)
		d.end("gone", gone)
		time.Sleep(2 * debtLife)
		last := open()
		begin("last", last)
		d.end("last", last)
		if len(d.owed) != 1 {
			t.Errorf("%d debts are kept, want that of the last one", len(d.owed))
		}
	})
}
