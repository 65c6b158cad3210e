package agent

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/causeway-mesh/causeway/dataplane/relay"
)

// A block is a part of the loopback network that belongs to this proxy as long as its file is open.
type block struct {
	prefix string
	lock   *os.File
}

// claimBlock takes a free 127.X.0.0/16. The search begins at a place that depends on the name, so that a proxy gets the
// same block again when it can. A wanted block is taken or the claim fails.
func claimBlock(dir string, s self) (*block, error) {
	dir = filepath.Join(dir, "blocks")
	if err := relay.PrivateDir(dir); err != nil {
		return nil, err
	}
	if s.block != "" {
		x, err := blockNumber(s.block)
		if err != nil {
			return nil, err
		}
		b, err := tryBlock(dir, x, s)
		if err != nil {
			return nil, err
		}
		if b == nil {
			return nil, fmt.Errorf("outbound block %s is taken by %s; give each Dataplane of a host its own networking.outboundBlock, or leave it out",
				s.block, holder(dir, x))
		}
		return b, nil
	}
	h := fnv.New32a()
	h.Write([]byte(s.mesh + "." + s.name))
	const first, count = 1, 254 // 127.0.0.0/16 is the host's own, 127.255.0.0/16 holds a broadcast address
	start := h.Sum32() % count
	for i := range uint32(count) {
		b, err := tryBlock(dir, first+int(start+i)%count, s)
		if b != nil || err != nil {
			return b, err
		}
	}
	return nil, fmt.Errorf("all %d loopback blocks are taken by agents with runtime directory %s; stop some, or use transparent proxying", count, filepath.Dir(dir))
}

func blockNumber(prefix string) (int, error) {
	p, err := netip.ParsePrefix(prefix)
	if err != nil || !p.Addr().Is4() || p.Bits() != 16 || p.Addr().As4()[0] != 127 || p.Addr().As4()[1] == 0 {
		return 0, fmt.Errorf("networking.outboundBlock: %q must be a /16 block of 127.0.0.0/8 other than the first, such as 127.7.0.0/16", prefix)
	}
	return int(p.Addr().As4()[1]), nil
}

func lockPath(dir string, x int) string { return filepath.Join(dir, strconv.Itoa(x)) }

// tryBlock returns nil without an error when another agent holds the block.
func tryBlock(dir string, x int, s self) (*block, error) {
	f, err := os.OpenFile(lockPath(dir, x), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("claim a loopback block: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		f.Close()
		return nil, nil
	}
	if err == nil {
		err = errors.Join(f.Truncate(0), func() error {
			_, err := fmt.Fprintf(f, "dataplane %s of mesh %s, process %d\n", s.name, s.mesh, os.Getpid())
			return err
		}())
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("claim a loopback block: %w", err)
	}
	return &block{prefix: fmt.Sprintf("127.%d.0.0/16", x), lock: f}, nil
}

func holder(dir string, x int) string {
	text, err := os.ReadFile(lockPath(dir, x))
	if err != nil || len(text) == 0 {
		return "another agent"
	}
	return string(text[:len(text)-1])
}

func (b *block) release() {
	if b != nil {
		b.lock.Close()
	}
}
