package probe

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"testing"
	"time"
)

// The time of an attempt can end in the same moment as its connection, which is then given up: neither may meet the other half way.
func TestTimeEndsWithTheConnection(t *testing.T) {
	for range 300 {
		near, far := net.Pipe()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		r := &result{job: job{conn: &conn{tls.Client(near, &tls.Config{ServerName: "x"}), time.Now()}}}
		var both sync.WaitGroup
		both.Go(cancel)
		both.Go(func() { _ = far.Close() })
		if _, err := r.exchange(ctx); err == nil {
			t.Fatal("an exchange on a closed connection succeeded")
		}
		r.hangUp()
		both.Wait()
	}
}
