// Package relay is the agent's Unix socket: it passes Envoy's xDS stream on to the zone, frames unread, and lets other services
// be offered beside it. Only processes of the same user may connect. It knows no xDS, and which zone instance is
// the current one is decided elsewhere.
package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec of what is not relayed
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// MethodADS is the stream that is relayed.
const MethodADS = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"

// maxFrame bounds one relayed message; a zone cuts its responses far below.
const maxFrame = 64 << 20

// Upstream returns the connection to the zone that streams should use, waiting until there is one.
type Upstream func(ctx context.Context) (grpc.ClientConnInterface, error)

// A Server listens for one Envoy.
type Server struct {
	grpc     *grpc.Server
	upstream Upstream
	log      *slog.Logger
	pumps    sync.WaitGroup
}

// New makes a server that relays to upstream.
func New(upstream Upstream, log *slog.Logger) *Server {
	s := &Server{upstream: upstream, log: log}
	s.grpc = grpc.NewServer(
		grpc.Creds(sameUser{}),
		grpc.ForceServerCodecV2(codec{}),
		grpc.UnknownServiceHandler(s.relay),
		grpc.MaxRecvMsgSize(maxFrame),
		grpc.WaitForHandlers(true),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	)
	return s
}

// RegisterService offers a further service on the socket. It must be called before Serve.
func (s *Server) RegisterService(d *grpc.ServiceDesc, impl any) { s.grpc.RegisterService(d, impl) }

// Serve answers on a listener until ctx ends; then all streams are cut.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, s.grpc.Stop)
	defer stop()
	err := s.grpc.Serve(l)
	s.grpc.Stop() // waits for the streams
	s.pumps.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serve %s: %w", l.Addr(), err)
}

// Listen makes the Unix socket, mode 0600 in a directory that is private to this user. A socket that a dead process left is replaced.
func Listen(path string) (net.Listener, error) {
	if err := PrivateDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	// The directory keeps others out in the moment before this.
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("make %s private: %w", path, err), l.Close())
	}
	return l, nil
}

// PrivateDir makes a directory that only this user may enter, or checks that an existing one is such.
func PrivateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the runtime directory: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("check the runtime directory: %w", err)
	}
	switch {
	case !info.IsDir():
		return fmt.Errorf("the runtime directory %s is not a directory", dir)
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("the runtime directory %s has mode %04o, so others can enter it; run chmod 700 %s", dir, info.Mode().Perm(), dir)
	case !ownedByUs(info):
		return fmt.Errorf("the runtime directory %s belongs to another user; choose another one", dir)
	}
	return nil
}

// removeStale removes a socket on which nobody listens. Anything else in its place is an error.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("check %s: %w", path, err)
	}
	if info.Mode()&os.ModeSocket == 0 {
		return fmt.Errorf("%s exists and is not a socket; remove it", path)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		c.Close()
		return fmt.Errorf("another agent listens on %s; stop it, or give this one a name or runtime directory of its own", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("check %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the socket of a former agent: %w", err)
	}
	return nil
}

// frame is a message that is passed on unread.
type frame struct{ data mem.BufferSlice }

// codec passes frames as they are and leaves the rest to protobuf.
type codec struct{}

func (codec) Name() string { return "proto" }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	if f, ok := v.(*frame); ok {
		return f.data, nil
	}
	return encoding.GetCodecV2("proto").Marshal(v)
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	if f, ok := v.(*frame); ok {
		// The library frees its buffers after this call, and the sender frees what it was given.
		data.Ref()
		f.data = data
		return nil
	}
	return encoding.GetCodecV2("proto").Unmarshal(data, v)
}

// relay joins a stream of Envoy to one of the zone. While there is no zone Envoy's stream waits here, so that it is not
// Envoy's back-off that decides how fast a proxy is configured after an outage.
func (s *Server) relay(_ any, down grpc.ServerStream) error {
	method, ok := grpc.MethodFromServerStream(down)
	if !ok || method != MethodADS {
		return status.Errorf(codes.Unimplemented, "the agent does not relay %s", method)
	}
	ctx, cancel := context.WithCancel(down.Context())
	defer cancel()
	conn, err := s.upstream(ctx)
	if err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	up, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, MethodADS,
		grpc.ForceCodecV2(codec{}), grpc.MaxCallRecvMsgSize(maxFrame), grpc.MaxCallSendMsgSize(maxFrame))
	if err != nil {
		return err
	}
	s.pumps.Add(1)
	go func() {
		defer s.pumps.Done()
		// Ends at the latest when this handler returns.
		if err := pump(down, up); err != nil || up.CloseSend() != nil {
			cancel()
		}
	}()
	err = pump(up, down)
	if err == nil {
		err = status.Error(codes.Unavailable, "the zone ended the stream")
	}
	s.log.Debug("xDS stream ended", "err", err)
	return err
}

type (
	receiver interface{ RecvMsg(any) error }
	sender   interface{ SendMsg(any) error }
)

// pump moves frames until the sender of them ends, which is no error, or something breaks.
func pump(from receiver, to sender) error {
	for {
		var f frame
		if err := from.RecvMsg(&f); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := to.SendMsg(&f); err != nil {
			return err
		}
	}
}
