package load

import (
	"context"
	"fmt"
	"net"
	"sync"
)

// receiveBuffer is what the kernel holds for a socket behind a valve: little, so that its server soon feels that nobody reads.
const receiveBuffer = 4 << 10

// A Valve is a way to connect whose sockets can be left unread, as those of a process that hangs:
// the window that TCP offers falls to zero, and the server cannot even write frames.
type Valve struct {
	mu   sync.Mutex
	open chan struct{} // closed while reading is allowed
	read int
}

// NewValve makes an open valve.
func NewValve() *Valve {
	v := &Valve{open: make(chan struct{})}
	close(v.open)
	return v
}

// Dial connects to an address.
func (v *Valve) Dial(ctx context.Context, address string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if err := c.(*net.TCPConn).SetReadBuffer(receiveBuffer); err != nil {
		return nil, fmt.Errorf("bound the receive buffer: %w", err)
	}
	return &tap{Conn: c, valve: v, closed: make(chan struct{})}, nil
}

// Stall leaves the sockets unread until Resume.
func (v *Valve) Stall() {
	v.mu.Lock()
	defer v.mu.Unlock()
	select {
	case <-v.open:
		v.open = make(chan struct{})
	default:
	}
}

// Resume ends Stall.
func (v *Valve) Resume() {
	v.mu.Lock()
	defer v.mu.Unlock()
	select {
	case <-v.open:
	default:
		close(v.open)
	}
}

// Read is the number of bytes that came through.
func (v *Valve) Read() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.read
}

// A tap is a socket behind a valve.
type tap struct {
	net.Conn
	valve  *Valve
	once   sync.Once
	closed chan struct{}
}

// Read implements net.Conn. What comes while the valve closes is held back too.
func (t *tap) Read(b []byte) (int, error) {
	if err := t.wait(); err != nil {
		return 0, err
	}
	n, err := t.Conn.Read(b)
	if gone := t.wait(); gone != nil {
		return 0, gone
	}
	t.valve.mu.Lock()
	t.valve.read += n
	t.valve.mu.Unlock()
	return n, err
}

func (t *tap) wait() error {
	t.valve.mu.Lock()
	open := t.valve.open
	t.valve.mu.Unlock()
	select {
	case <-open:
		return nil
	case <-t.closed:
		return net.ErrClosed
	}
}

// Close implements net.Conn.
func (t *tap) Close() error {
	t.once.Do(func() { close(t.closed) })
	return t.Conn.Close()
}
