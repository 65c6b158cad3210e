package ports_test

import (
	"net"
	"testing"

	"github.com/causeway-mesh/causeway/test/ports"
)

func TestFreeGivesEachPortOnce(t *testing.T) {
	seen := map[int]bool{}
	for range 500 {
		p := ports.Free(t, "127.0.0.1")
		if seen[p] {
			t.Fatalf("port %d was given twice", p)
		}
		seen[p] = true
	}
}

func TestFreeSkipsWhatIsTaken(t *testing.T) {
	at := ports.FreeAddress(t, "127.0.0.1")
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatalf("listen on an address that was said to be free: %v", err)
	}
	defer l.Close()
}
