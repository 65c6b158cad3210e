package zones

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// A wire is a TCP proxy between a zone and global that can fail as networks do.
type wire struct {
	listener net.Listener
	target   string
	done     sync.WaitGroup

	mu    sync.Mutex
	pairs map[*pair]bool
	down  bool          // new connections are refused
	gate  chan struct{} // closed when the zones read again; nil while they read

	// Sent counts the bytes from global to the zone; CutAfter, while above zero, is at how many of them everything breaks off once.
	sent, cutAfter atomic.Int64
	cuts           atomic.Int64
}

// A pair is one connection and its continuation.
type pair struct {
	zone, global net.Conn
	swallow      atomic.Bool // nothing is handed on any more, and nobody is told
}

func (p *pair) close() { _ = errors.Join(p.zone.Close(), p.global.Close()) }

func newWire(t testing.TB, target string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{listener: l, target: target, pairs: map[*pair]bool{}}
	w.done.Go(w.accept)
	t.Cleanup(func() {
		_ = l.Close()
		w.stall(false)
		w.cut()
		w.done.Wait()
	})
	return w
}

func (w *wire) address() string { return w.listener.Addr().String() }

func (w *wire) accept() {
	for {
		c, err := w.listener.Accept()
		if err != nil {
			return
		}
		w.mu.Lock()
		down := w.down
		w.mu.Unlock()
		g, err := net.Dial("tcp", w.target)
		if err != nil || down {
			_ = c.Close()
			if err == nil {
				_ = g.Close()
			}
			continue
		}
		_ = g.(*net.TCPConn).SetReadBuffer(256 << 10) // so that global soon feels that nobody reads
		p := &pair{zone: c, global: g}
		w.mu.Lock()
		w.pairs[p] = true
		w.mu.Unlock()
		w.done.Go(func() { w.copy(p, p.global, p.zone, false) })
		w.done.Go(func() { w.copy(p, p.zone, p.global, true) })
	}
}

// copy hands on what comes until either end is gone.
func (w *wire) copy(p *pair, to io.Writer, from io.Reader, toZone bool) {
	defer func() {
		p.close()
		w.mu.Lock()
		delete(w.pairs, p)
		w.mu.Unlock()
	}()
	buf := make([]byte, 4<<10)
	for {
		if toZone {
			w.wait()
		}
		n, err := from.Read(buf)
		if toZone {
			w.wait() // what came while it stalled is held back, too
		}
		if n > 0 && !p.swallow.Load() {
			if toZone && w.over(int64(n)) {
				return
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// over counts what went to the zone, and says when it is time to break off.
func (w *wire) over(n int64) bool {
	sent, at := w.sent.Add(n), w.cutAfter.Load()
	if at == 0 || sent < at || !w.cutAfter.CompareAndSwap(at, 0) {
		return false
	}
	w.cuts.Add(1)
	return true
}

// stall leaves what comes from global unread, so that the window of TCP closes, or reads on.
func (w *wire) stall(stalled bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if stalled && w.gate == nil {
		w.gate = make(chan struct{})
	} else if !stalled && w.gate != nil {
		close(w.gate)
		w.gate = nil
	}
}

func (w *wire) wait() {
	w.mu.Lock()
	gate := w.gate
	w.mu.Unlock()
	if gate != nil {
		<-gate
	}
}

// cut breaks every connection.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for p := range w.pairs {
		p.close()
	}
}

// swallow makes every connection that there is half open: both ends believe in it, and nothing arrives.
func (w *wire) swallow() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for p := range w.pairs {
		p.swallow.Store(true)
	}
}

// take takes the network away, or gives it back.
func (w *wire) take(down bool) {
	w.mu.Lock()
	w.down = down
	w.mu.Unlock()
	if down {
		w.cut()
	}
}
