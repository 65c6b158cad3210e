package agent

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/causeway-mesh/causeway/dataplane/relay"
)

// claimPort is the port on which a socket marks a block as taken: above the ports that the kernel gives out by itself.
const claimPort = 61270

// blocks are the parts of the loopback network that agents share out among each other.
type blocks struct {
	dir  string // where agents of one runtime directory write who they are
	port int    // of the sockets that mark what is taken
}

func newBlocks(runtimeDir string) blocks {
	return blocks{dir: filepath.Join(runtimeDir, "blocks"), port: claimPort}
}

// A block is a part of the loopback network that belongs to this proxy as long as its socket is open. Two agents may have different
// runtime directories, users and views of the file system: what they share is the network, so that is where the claim is.
// The kernel drops it when the process dies.
type block struct {
	prefix string
	socket net.Listener // nobody accepts from it
	name   *os.File     // says who holds the block, locked as long as that is true
}

// claim takes a free 127.X.0.0/16. The search begins at a place that depends on the name, so that a proxy gets the
// same block again when it can. A wanted block is taken or the claim fails.
func (bs blocks) claim(s self) (*block, error) {
	if err := relay.PrivateDir(bs.dir); err != nil {
		return nil, err
	}
	if s.block != "" {
		x, err := blockNumber(s.block)
		if err != nil {
			return nil, err
		}
		b, err := bs.try(x, s)
		if err != nil {
			return nil, err
		}
		if b == nil {
			return nil, fmt.Errorf("outbound block %s is taken by %s; give each Dataplane of a host its own networking.outboundBlock, or leave it out",
				s.block, bs.holder(x))
		}
		return b, nil
	}
	h := fnv.New32a()
	h.Write([]byte(s.mesh + "." + s.name))
	const first, count = 1, 254 // 127.0.0.0/16 is the host's own, 127.255.0.0/16 holds a broadcast address
	start := h.Sum32() % count
	for i := range uint32(count) {
		b, err := bs.try(first+int(start+i)%count, s)
		if b != nil || err != nil {
			return b, err
		}
	}
	if l, err := bs.bind(0); err == nil {
		l.Close()
		return nil, fmt.Errorf("all %d loopback blocks are taken by agents on this host; stop some, or use transparent proxying", count)
	}
	return nil, fmt.Errorf("no loopback block can be claimed: another program listens on port %d of every address; "+
		"`ss -tlnp sport = :%d` names it, stop it or move it to another port", bs.port, bs.port)
}

func blockNumber(prefix string) (int, error) {
	p, err := netip.ParsePrefix(prefix)
	if err != nil || !p.Addr().Is4() || p.Bits() != 16 || p.Addr().As4()[0] != 127 || p.Addr().As4()[1] == 0 {
		return 0, fmt.Errorf("networking.outboundBlock: %q must be a /16 block of 127.0.0.0/8 other than the first, such as 127.7.0.0/16", prefix)
	}
	return int(p.Addr().As4()[1]), nil
}

// try returns nil without an error when somebody else holds the block.
func (bs blocks) try(x int, s self) (*block, error) {
	name, err := os.OpenFile(bs.path(x), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("claim a loopback block: %w", err)
	}
	b := &block{prefix: fmt.Sprintf("127.%d.0.0/16", x), name: name}
	err = syscall.Flock(int(name.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		b.socket, err = bs.bind(x)
	}
	if err == nil {
		err = b.sign(s)
	}
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK), errors.Is(err, syscall.EADDRINUSE):
		b.release()
		return nil, nil
	case err != nil:
		b.release()
		return nil, fmt.Errorf("claim a loopback block: %w", err)
	}
	return b, nil
}

func (bs blocks) path(x int) string { return filepath.Join(bs.dir, strconv.Itoa(x)) }

// bind opens the socket that marks a block, on the last address of it, which no virtual address is mapped to.
// It is not shared with anybody: without SO_REUSEADDR, which Go sets by itself.
func (bs blocks) bind(x int) (net.Listener, error) {
	alone := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		if e := c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 0) }); e != nil {
			return e
		}
		return err
	}}
	return alone.Listen(context.Background(), "tcp4", fmt.Sprintf("127.%d.255.255:%d", x, bs.port))
}

// holder says who holds a block. Only an agent with the same runtime directory is known by name.
func (bs blocks) holder(x int) string {
	stranger := fmt.Sprintf("an agent with another runtime directory, which `ss -tlnp src 127.%d.255.255` names", x)
	f, err := os.Open(bs.path(x))
	if err != nil {
		return stranger
	}
	defer f.Close()
	if syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) == nil {
		return stranger // whoever is named there has ended
	}
	text, err := os.ReadFile(bs.path(x))
	if err != nil || len(text) == 0 {
		return "another agent"
	}
	return string(text[:len(text)-1])
}

// sign writes down for other agents whose the block is.
func (b *block) sign(s self) error {
	if err := b.name.Truncate(0); err != nil {
		return err
	}
	_, err := fmt.Fprintf(b.name, "dataplane %s of mesh %s, process %d\n", s.name, s.mesh, os.Getpid())
	return err
}

func (b *block) release() {
	if b == nil {
		return
	}
	if b.socket != nil {
		b.socket.Close()
	}
	b.name.Close()
}
