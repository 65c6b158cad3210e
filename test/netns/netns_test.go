package netns

import (
	"context"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// Hosts reach each other through the router until a cable is pulled or their subnets are parted.
func TestHostsReachEachOther(t *testing.T) {
	n := Enter(t)
	if n == nil {
		return
	}
	a, b := n.Host(t, 1, 2), n.Host(t, 2, 2)
	l, err := b.Listen("tcp", net.JoinHostPort(b.IP(), "80"))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "hello "+c.RemoteAddr().String())
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-served })
	ask := func() (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		c, err := a.Dial(ctx, "tcp", l.Addr().String())
		if err != nil {
			return "", err
		}
		defer c.Close()
		text, err := io.ReadAll(c)
		return string(text), err
	}
	answered := func() (text string, err error) {
		for late := time.Now().Add(10 * time.Second); time.Now().Before(late); { // neighbours have to be found first
			if text, err = ask(); err == nil {
				break
			}
		}
		return text, err
	}
	text, err := answered()
	from, ok := strings.CutPrefix(text, "hello ")
	if err != nil || !ok {
		t.Fatalf("got %q, %v", text, err)
	}
	if host, _, _ := net.SplitHostPort(from); host != a.IP() {
		t.Errorf("the caller came from %s, want %s", from, a.IP())
	}
	for what, k := range map[string]struct{ away, back func() }{
		"a cable":     {func() { b.Unplug(t) }, func() { b.Plug(t) }},
		"the subnets": {func() { n.Part(t, 1, 2) }, func() { n.Join(t, 1, 2) }},
	} {
		k.away()
		if text, err := ask(); err == nil || !strings.Contains(err.Error(), "timeout") {
			t.Errorf("without %s: %q, %v; want silence", what, text, err)
		}
		k.back()
		if text, err := answered(); err != nil {
			t.Errorf("with %s again: %q, %v", what, text, err)
		}
	}
	cmd := exec.Command("ip", "-brief", "address")
	var out strings.Builder
	cmd.Stdout = &out
	if err := a.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), a.IP()+"/24") || strings.Contains(out.String(), b.IP()) {
		t.Errorf("a process on the host sees %s, %v", out.String(), err)
	}
}
