package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

var quiet = slog.New(slog.DiscardHandler)

func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cw") // short: a socket's path has little room
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func serve(t testing.TB, up Upstream) string {
	t.Helper()
	path := filepath.Join(tempDir(t), "agent.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	s := New(up, quiet)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return path
}

func dial(t testing.TB, target string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient(target, append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// raw exchanges bytes that need not be protobuf.
var raw = grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{}), grpc.MaxCallRecvMsgSize(maxFrame))

func bytesFrame(b []byte) *frame { return &frame{mem.BufferSlice{mem.SliceBuffer(b)}} }

// zone is a server that answers every frame with the same bytes reversed in order of frames, and can end its streams.
func zone(t testing.TB) (*grpc.Server, string) {
	t.Helper()
	s := grpc.NewServer(grpc.ForceServerCodecV2(codec{}), grpc.MaxRecvMsgSize(maxFrame), grpc.UnknownServiceHandler(func(_ any, st grpc.ServerStream) error {
		for {
			var f frame
			if err := st.RecvMsg(&f); err != nil {
				return nil
			}
			if bytes.Equal(f.data.Materialize(), []byte("end")) {
				return status.Error(codes.Aborted, "ended by the zone")
			}
			if err := st.SendMsg(&f); err != nil {
				return err
			}
		}
	}))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(l)
	t.Cleanup(s.Stop)
	return s, l.Addr().String()
}

func open(t testing.TB, c *grpc.ClientConn, method string) grpc.ClientStream {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	s, err := c.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestFramesPassUnread(t *testing.T) {
	_, addr := zone(t)
	up := dial(t, addr)
	path := serve(t, func(context.Context) (grpc.ClientConnInterface, error) { return up, nil })
	s := open(t, dial(t, "unix:"+path, raw), MethodADS)
	big := bytes.Repeat([]byte{0xff, 0, 1}, 2<<20)
	for i, want := range [][]byte{[]byte("not protobuf at all"), {}, big} {
		if err := s.SendMsg(bytesFrame(want)); err != nil {
			t.Fatal(err)
		}
		var got frame
		if err := s.RecvMsg(&got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.data.Materialize(), want) {
			t.Errorf("frame %d changed on its way", i)
		}
	}
	if err := s.SendMsg(bytesFrame([]byte("end"))); err != nil {
		t.Fatal(err)
	}
	if err := s.RecvMsg(&frame{}); status.Code(err) != codes.Aborted || !strings.Contains(err.Error(), "ended by the zone") {
		t.Errorf("the end of the zone's stream reached Envoy as %v", err)
	}
}

func TestStreamWaitsForTheZone(t *testing.T) {
	_, addr := zone(t)
	up := dial(t, addr)
	asked, ready := make(chan struct{}, 1), make(chan struct{})
	path := serve(t, func(ctx context.Context) (grpc.ClientConnInterface, error) {
		asked <- struct{}{}
		select {
		case <-ready:
			return up, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
	s := open(t, dial(t, "unix:"+path, raw), MethodADS)
	if err := s.SendMsg(bytesFrame([]byte("hello"))); err != nil {
		t.Fatal(err)
	}
	<-asked
	close(ready)
	var got frame
	if err := s.RecvMsg(&got); err != nil || string(got.data.Materialize()) != "hello" {
		t.Errorf("after the zone came: %v", err)
	}
}

func TestLostZoneEndsTheStream(t *testing.T) {
	z, addr := zone(t)
	up := dial(t, addr)
	path := serve(t, func(context.Context) (grpc.ClientConnInterface, error) { return up, nil })
	s := open(t, dial(t, "unix:"+path, raw), MethodADS)
	if err := s.SendMsg(bytesFrame([]byte("x"))); err != nil {
		t.Fatal(err)
	}
	if err := s.RecvMsg(&frame{}); err != nil {
		t.Fatal(err)
	}
	z.Stop()
	if err := s.RecvMsg(&frame{}); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v, want Unavailable", err)
	}
}

func TestOnlyADSIsRelayed(t *testing.T) {
	path := serve(t, func(context.Context) (grpc.ClientConnInterface, error) {
		t.Error("the zone was asked for")
		return nil, errors.New("no")
	})
	for _, m := range []string{"/causeway.agent.v1.Agent/Session", "/x/y", strings.Replace(MethodADS, "Delta", "Stream", 1)} {
		s := open(t, dial(t, "unix:"+path, raw), m)
		if err := s.RecvMsg(&frame{}); status.Code(err) != codes.Unimplemented {
			t.Errorf("%s: %v", m, err)
		}
	}
}

// FuzzRelay sends any bytes through: they arrive as they are, or the stream ends.
func FuzzRelay(f *testing.F) {
	_, addr := zone(f)
	up := dial(f, addr)
	path := serve(f, func(context.Context) (grpc.ClientConnInterface, error) { return up, nil })
	s := open(f, dial(f, "unix:"+path, raw), MethodADS)
	f.Add([]byte{0x0a, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		if string(b) == "end" {
			return
		}
		if err := s.SendMsg(bytesFrame(b)); err != nil {
			s = open(t, dial(t, "unix:"+path, raw), MethodADS)
			return
		}
		var got frame
		if err := s.RecvMsg(&got); err != nil {
			s = open(t, dial(t, "unix:"+path, raw), MethodADS)
			return
		}
		if !bytes.Equal(got.data.Materialize(), b) {
			t.Errorf("%q became %q", b, got.data.Materialize())
		}
	})
}

func TestSocketIsPrivate(t *testing.T) {
	dir := filepath.Join(tempDir(t), "run", "web")
	path := filepath.Join(dir, "agent.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for p, want := range map[string]os.FileMode{dir: 0o700, path: 0o600} {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %04o, want %04o", p, got, want)
		}
	}
	_, err = Listen(path)
	wantError(t, err, "another agent listens on "+path)
}

func TestListenRefuses(t *testing.T) {
	dir := tempDir(t)
	write := func(name string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	_, err := Listen(write("file"))
	wantError(t, err, "is not a socket")
	_, err = Listen(filepath.Join(write("plain"), "agent.sock"))
	wantError(t, err, "runtime directory")
	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o755); err != nil {
		t.Fatal(err)
	}
	_, err = Listen(filepath.Join(open, "agent.sock"))
	wantError(t, err, "chmod 700 "+open)
	link := filepath.Join(dir, "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	_, err = Listen(filepath.Join(link, "agent.sock"))
	wantError(t, err, "is not a directory")
	_, err = Listen(filepath.Join(dir, strings.Repeat("a", 120)))
	wantError(t, err, "listen on")
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(tempDir(t), "agent.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close() // as a killed process leaves it
	again, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

func wantError(t *testing.T, err error, part string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), part) {
		t.Errorf("error %v, want one with %q", err, part)
	}
}

func TestOnlyUnixSocketsAndMessages(t *testing.T) {
	if _, _, err := (sameUser{}).ServerHandshake(&net.TCPConn{}); err == nil {
		t.Error("a TCP connection was accepted")
	}
	var d discoveryv3.DeltaDiscoveryRequest
	if err := (codec{}).Unmarshal(mem.BufferSlice{mem.SliceBuffer("\xff")}, &d); err == nil {
		t.Error("what is not relayed must be decoded")
	}
	if _, err := (codec{}).Marshal(fmt.Errorf("x")); err == nil {
		t.Error("a value that is no message was encoded")
	}
}
