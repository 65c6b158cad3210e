package sds

import (
	"context"
	"errors"
	"io"
	"strconv"
	"sync"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/causeway-mesh/causeway/api/envoy"
)

// service speaks the incremental protocol only, which is what the configuration of our Envoys asks for.
type service struct {
	secretv3.UnimplementedSecretDiscoveryServiceServer
	s   *Server
	ctx context.Context //nolint:containedctx // of the server, not of a call
}

// A stream is one of Envoy's; it opens one per secret.
type stream struct {
	out     chan *discoveryv3.DeltaDiscoveryResponse
	names   map[string]bool    // what Envoy asked for
	held    map[string]string  // the xDS version that Envoy has, as far as is known
	flights map[string]*flight // what was sent and not answered yet
	nonce   uint64
}

type flight struct {
	nonce string
	version
}

func newStream() *stream {
	return &stream{
		// A secret is sent again only when it was answered, so there is always room.
		out: make(chan *discoveryv3.DeltaDiscoveryResponse, 2), names: map[string]bool{}, held: map[string]string{}, flights: map[string]*flight{},
	}
}

// DeltaSecrets serves one stream.
func (v service) DeltaSecrets(g secretv3.SecretDiscoveryService_DeltaSecretsServer) error {
	first, err := g.Recv()
	if err != nil {
		return ended(err)
	}
	// Envoy opens a stream per secret, so the first name tells what the stream is for.
	if names := first.GetResourceNamesSubscribe(); len(names) > 0 && !isWorkloads(names[0]) {
		return ended(v.s.external.serve(v.ctx, g, first))
	}
	st := newStream()
	v.s.open(st)
	defer v.s.closed(st)
	ctx, cancel := context.WithCancel(g.Context())
	var sender sync.WaitGroup
	sender.Go(func() {
		for {
			select {
			case r := <-st.out:
				if g.Send(r) != nil {
					return // then receiving fails too
				}
			case <-ctx.Done():
				return
			case <-v.ctx.Done():
				return
			}
		}
	})
	defer sender.Wait()
	defer cancel()
	for in := first; ; {
		v.s.request(st, in)
		if in, err = g.Recv(); err != nil {
			return ended(err)
		}
	}
}

// ended is no error when the peer ended the stream.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (s *Server) open(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams[st] = struct{}{}
}

// closed forgets a stream.
func (s *Server) closed(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, st)
	for name := range st.flights {
		s.abandon(st, name)
	}
	s.news()
}

// abandon gives up waiting for an answer: what was sent may have been refused.
func (s *Server) abandon(st *stream, name string) {
	f := st.flights[name]
	delete(st.flights, name)
	if x := s.secret(name); f != nil && !f.is(x.good) {
		s.spoil(x)
	}
}

// dispatch sends what may be sent now.
func (s *Server) dispatch() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.secrets {
		for st := range s.streams {
			s.offer(st, x)
		}
	}
}

func (s *Server) offer(st *stream, x *secret) {
	v := x.next(st)
	if !v.exists() || !st.names[x.name] || st.flights[x.name] != nil || st.held[x.name] == v.xds || s.mustWait(x, v) {
		return
	}
	st.nonce++
	f := &flight{nonce: strconv.FormatUint(st.nonce, 10), version: v}
	r := &discoveryv3.DeltaDiscoveryResponse{
		TypeUrl: resourcev3.SecretType, Nonce: f.nonce, SystemVersionInfo: v.xds,
		Resources: []*discoveryv3.Resource{{Name: x.name, Version: v.xds, Resource: v.body}},
	}
	select {
	case st.out <- r:
		st.flights[x.name], st.held[x.name], x.sent = f, v.xds, v
	default: // a peer that asks, takes it back and asks again without ever answering
	}
}

// next is the version that Envoy should have: the last good one first where it has none, and after a refusal, so that it forgets
// what it refused.
func (x *secret) next(st *stream) version {
	if x.good.exists() && (x.spoilt || x.wanted.xds == x.refused || st.held[x.name] == "") {
		return x.good
	}
	return x.wanted
}

// mustWait says that an answer to this version now would not tell what is wrong.
func (s *Server) mustWait(x *secret, v version) bool {
	if v.is(x.good) {
		return false
	}
	for _, other := range s.secrets {
		if other == x {
			continue
		}
		if other.spoilt && other.good.exists() {
			return true // until Envoy has the good one again
		}
		// What comes first to an Envoy is acknowledged unread, since whatever uses one of them uses both.
		if other.wanted.exists() && (other.good.exists() || other.name == envoy.IdentitySecret) && !s.held(other) {
			return true
		}
	}
	for st := range s.streams {
		if len(st.flights) > 0 {
			return true // also of the same secret, on a stream that may be dead: it may have been refused there
		}
	}
	return false
}

// held says that Envoy has some version of a secret.
func (s *Server) held(x *secret) bool {
	for st := range s.streams {
		if st.held[x.name] != "" && st.flights[x.name] == nil {
			return true
		}
	}
	return false
}

// request takes what Envoy asks for and answers.
func (s *Server) request(st *stream, in *discoveryv3.DeltaDiscoveryRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, xds := range in.GetInitialResourceVersions() {
		s.claimed(st, name, xds)
	}
	for _, name := range in.GetResourceNamesSubscribe() {
		if _, first := in.GetInitialResourceVersions()[name]; !first {
			delete(st.held, name)
		}
		st.names[name] = true
	}
	for _, name := range in.GetResourceNamesUnsubscribe() {
		delete(st.names, name)
		delete(st.held, name)
		s.abandon(st, name)
	}
	for name, f := range st.flights {
		if f.nonce != in.GetResponseNonce() {
			continue
		}
		delete(st.flights, name)
		if in.GetErrorDetail() == nil {
			s.accepted(s.secret(name), f.version)
		} else {
			s.refuse(s.secret(name), f.version, in.GetErrorDetail().GetMessage())
		}
	}
	s.news()
}

// claimed notes what Envoy says to have when it comes back: the version that it acknowledged last, though it may keep one that it refused since.
func (s *Server) claimed(st *stream, name, xds string) {
	x := s.secret(name)
	if x == nil {
		return
	}
	if xds == x.wanted.xds && xds != x.good.xds && xds != x.refused {
		// The acknowledgement was lost with the former stream.
		x.good, x.spoilt, x.why = x.wanted, false, ""
	}
	if !x.spoilt {
		st.held[name] = xds
	}
}

func (s *Server) accepted(x *secret, v version) {
	if v.xds == x.refused {
		return // it is acknowledged the second time, without being used
	}
	x.good, x.spoilt = v, false
	if v.is(x.wanted) {
		x.refused, x.why = "", ""
	}
	// Envoy uses both or none. Another secret that was refused only because this one was bad is in force by now.
	for _, other := range s.secrets {
		if other != x && !other.good.exists() && other.sent.exists() {
			other.good, other.spoilt, other.refused, other.why = other.sent, false, "", ""
		}
	}
}

func (s *Server) refuse(x *secret, v version, text string) {
	s.log.Error("envoy refused a secret; the last good one is sent again", "secret", x.name, "version", v.label, "reason", text)
	if !x.good.exists() || v.is(x.good) {
		// No pair was ever in force, or none is any more: what was acknowledged without the other one proves nothing.
		for _, each := range s.secrets {
			each.good = version{}
		}
	}
	x.refused, x.why = v.xds, text
	s.spoil(x)
}

// spoil makes sure that Envoy gets the last good version again, also where it says to have it.
func (s *Server) spoil(x *secret) {
	x.spoilt = true
	for st := range s.streams {
		if x.good.exists() && st.held[x.name] == x.good.xds && st.flights[x.name] == nil {
			delete(st.held, x.name)
		}
	}
}
