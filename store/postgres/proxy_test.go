package postgres

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
)

// A proxy stands between a store and its server and understands as much of the protocol as it needs to break at the worst
// moment: after the server has committed and before the store hears of it.
type proxy struct {
	listener net.Listener
	socket   string
	tasks    sync.WaitGroup

	mu     sync.Mutex
	judge  func(tag string) fate // asked for each command that the server completed
	frozen chan struct{}         // closed by thaw
	conns  map[net.Conn]bool
}

type fate int

const (
	pass   fate = iota
	cut         // end the connection instead
	freeze      // end nothing, say nothing, on any connection until thaw
)

// newProxy serves a DSN of its own for the database of another.
func newProxy(t testing.TB, dsn string) (*proxy, string) {
	t.Helper()
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, socket: cfg.Host + "/.s.PGSQL." + strconv.Itoa(int(cfg.Port)), conns: make(map[net.Conn]bool)}
	p.tasks.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.thaw()
		p.mu.Lock()
		for c := range p.conns {
			c.Close()
		}
		p.mu.Unlock()
		p.tasks.Wait()
	})
	u := url.URL{Scheme: "postgres", User: url.User(cfg.User), Host: l.Addr().String(), Path: "/" + cfg.Database, RawQuery: "sslmode=disable"}
	return p, u.String()
}

// judged decides from now on by a function; nil lets all pass.
func (p *proxy) judged(by func(tag string) fate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.judge = by
}

func (p *proxy) thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.frozen != nil {
		close(p.frozen)
		p.frozen = nil
	}
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("unix", p.socket)
		if err != nil {
			client.Close()
			continue
		}
		p.mu.Lock()
		p.conns[client], p.conns[server] = true, true
		p.mu.Unlock()
		done := func() {
			client.Close()
			server.Close()
			p.mu.Lock()
			delete(p.conns, client)
			delete(p.conns, server)
			p.mu.Unlock()
		}
		p.tasks.Go(func() { defer done(); io.Copy(server, client) })
		p.tasks.Go(func() { defer done(); p.replies(client, server) })
	}
}

// replies forwards message by message; each is a type, a length that counts itself, and a body.
func (p *proxy) replies(client, server net.Conn) {
	from := bufio.NewReader(server)
	for {
		var head [5]byte
		if _, err := io.ReadFull(from, head[:]); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(head[1:])-4)
		if _, err := io.ReadFull(from, body); err != nil {
			return
		}
		if head[0] == 'C' && p.sentence(strings.TrimRight(string(body), "\x00")) == cut {
			return
		}
		p.mu.Lock()
		frozen := p.frozen
		p.mu.Unlock()
		if frozen != nil {
			<-frozen
		}
		if _, err := client.Write(append(head[:], body...)); err != nil {
			return
		}
	}
}

func (p *proxy) sentence(tag string) fate {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.judge == nil {
		return pass
	}
	f := p.judge(tag)
	if f == freeze && p.frozen == nil {
		p.frozen = make(chan struct{})
	}
	return f
}
