package probe

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func start(t *testing.T) *Prober {
	t.Helper()
	p := New(slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); p.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return p
}

func until(t *testing.T, p *Prober, what string, ok func([]Result) bool) {
	t.Helper()
	timeout := time.After(10 * time.Second)
	for !ok(p.Results()) {
		select {
		case <-p.Changed():
		case <-timeout:
			t.Fatalf("waited in vain until %s: %+v", what, p.Results())
		}
	}
}

func target(t *testing.T, section string, a net.Addr) Target {
	t.Helper()
	tcp := a.(*net.TCPAddr)
	return Target{Section: section, Address: "127.0.0.1", Port: uint32(tcp.Port), Interval: MinInterval, Timeout: time.Second, UnhealthyThreshold: 2, HealthyThreshold: 1}
}

func TestTCP(t *testing.T) {
	p := start(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr()
	p.Set([]Target{target(t, "http", addr)})
	until(t, p, "it is ready", func(r []Result) bool { return len(r) == 1 && r[0].Ready })
	l.Close()
	until(t, p, "it is not ready", func(r []Result) bool { return !r[0].Ready && strings.Contains(r[0].Reason, "refused") })
	l, err = net.Listen("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	until(t, p, "it is ready again", func(r []Result) bool { return r[0].Ready && r[0].Reason == "" })
}

func TestHTTP(t *testing.T) {
	var code atomic.Int64
	code.Store(200)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/ok" {
			w.WriteHeader(404)
			return
		}
		w.Header().Set("Location", "http://127.0.0.1:1/")
		w.WriteHeader(int(code.Load()))
	}))
	defer s.Close()
	p := start(t)
	ok, missing := target(t, "ok", s.Listener.Addr()), target(t, "missing", s.Listener.Addr())
	ok.HTTPPath, missing.HTTPPath = "/ok", "missing"
	p.Set([]Target{ok, missing})
	until(t, p, "one is ready", func(r []Result) bool {
		return !r[0].Ready && strings.Contains(r[0].Reason, "/missing answers 404") && r[1].Ready
	})
	code.Store(302)
	code.Store(503)
	until(t, p, "none is ready", func(r []Result) bool { return !r[1].Ready && strings.Contains(r[1].Reason, "503") })
	code.Store(302) // an answer, not to be followed
	until(t, p, "it is ready again", func(r []Result) bool { return r[1].Ready })
}

func TestTargetsAreReplaced(t *testing.T) {
	p := start(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, b := target(t, "a", l.Addr()), target(t, "b", l.Addr())
	p.Set([]Target{a})
	until(t, p, "a is ready", func(r []Result) bool { return len(r) == 1 && r[0].Ready })
	p.Set([]Target{a, b})
	if r := p.Results(); len(r) != 2 || !r[0].Ready {
		t.Errorf("an unchanged target lost its verdict: %+v", r)
	}
	until(t, p, "b is ready", func(r []Result) bool { return r[1].Ready })
	p.Set(nil)
	if r := p.Results(); len(r) != 0 {
		t.Errorf("results of no targets: %+v", r)
	}
}

func TestVerdict(t *testing.T) {
	for name, c := range map[string]struct {
		healthy, unhealthy uint32
		outcomes, news     string
	}{
		"defaults":                 {0, 0, "++-+", "+.-+"},
		"three failures":           {1, 3, "+--+---", "+.....-"},
		"two successes":            {2, 1, "+++-++", ".+.-.+"},
		"a failure interrupts":     {3, 1, "++-+++", "..-..+"},
		"the first reason is told": {1, 3, "----+", "-.-.+"},
	} {
		t.Run(name, func(t *testing.T) {
			var v verdict
			var got strings.Builder
			for _, o := range c.outcomes {
				switch news := v.count(o == '+', Target{HealthyThreshold: c.healthy, UnhealthyThreshold: c.unhealthy}); {
				case !news:
					got.WriteByte('.')
				case v.ready:
					got.WriteByte('+')
				default:
					got.WriteByte('-')
				}
			}
			if got.String() != c.news {
				t.Errorf("%s gives %s, want %s", c.outcomes, got.String(), c.news)
			}
		})
	}
}
