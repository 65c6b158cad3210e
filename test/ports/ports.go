// Package ports finds ports for tests that must know one before whatever listens on it starts. It gives each port of a process
// once, and only ports that the kernel does not hand to outgoing connections, so that nothing takes it in between.
// It does not keep a port: whoever asked is to listen soon.
package ports

import (
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
)

// The range lies below what kernels use for outgoing connections, which begins at 32768 by default.
const first, last = 10000, 30000

// given holds the ports that this process has given away, on whatever address.
var given sync.Map

// Free returns a TCP port of an address on which nothing listens, and which nobody else of this process was given.
func Free(t testing.TB, ip string) int {
	t.Helper()
	var err error
	for range 1000 {
		port := first + rand.IntN(last-first)
		var l net.Listener
		if l, err = net.Listen("tcp", net.JoinHostPort(ip, strconv.Itoa(port))); err != nil {
			continue
		}
		l.Close()
		if _, taken := given.LoadOrStore(port, true); !taken {
			return port
		}
	}
	t.Fatalf("no free port on %s between %d and %d: %v", ip, first, last, err)
	return 0
}

// FreeAddress is Free as host and port.
func FreeAddress(t testing.TB, ip string) string {
	t.Helper()
	return net.JoinHostPort(ip, strconv.Itoa(Free(t, ip)))
}
