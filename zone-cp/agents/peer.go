package agents

import (
	"context"
	"crypto/tls"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/api/agentapi"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/zone-cp/identity"
	"github.com/causeway-mesh/causeway/zone-cp/solo"
)

// maxMessage bounds what an agent or its Envoy may send at once: a Dataplane, or the first request of a
// large Envoy that lists the versions of everything it has.
const maxMessage = 4 << 20

// ServerOptions are the options of the gRPC server that agents connect to: mutual TLS with the control authority,
// detection of dead peers, and the binding of xDS streams to sessions. A codec may be added.
func (s *Service) ServerOptions(certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(credentials.NewTLS(s.cfg.Control.TLS(certificate))),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.ChainStreamInterceptor(s.bind),
	}
}

// PeerDataplane returns the dataplane whose agent sent a request, from its verified control certificate.
// The error is a gRPC status.
func PeerDataplane(ctx context.Context) (resource.Key, error) {
	g, err := peerGrant(ctx)
	return g.Key(), err
}

func peerGrant(ctx context.Context) (identity.Grant, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return identity.Grant{}, status.Error(codes.Unauthenticated, "the connection has no peer")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return identity.Grant{}, status.Error(codes.Unauthenticated, "a control certificate is needed: enroll first")
	}
	g, err := identity.GrantOf(info.State.VerifiedChains[0][0])
	if err != nil {
		return identity.Grant{}, status.Error(codes.Unauthenticated, err.Error())
	}
	return g, nil
}

// bind lets a stream that is not the agent's own, such as xDS, live only as long as the session of the same agent process.
func (s *Service) bind(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if strings.HasPrefix(info.FullMethod, "/"+agentapi.Agent_ServiceDesc.ServiceName+"/") {
		return handler(srv, stream)
	}
	g, err := peerGrant(stream.Context())
	if err != nil {
		return err
	}
	ss := s.registry.session(g.Key())
	if ss == nil || ss.grant.Instance != g.Instance {
		return status.Errorf(codes.Unavailable, "%s has no session of this agent; open one first", g.Key())
	}
	keep := context.AfterFunc(ss.ctx, func() { solo.End(stream, status.FromContextError(ss.ctx.Err()).Err()) })
	context.AfterFunc(stream.Context(), func() { keep() }) // a handler may go on after it has left here
	return handler(srv, stream)
}
