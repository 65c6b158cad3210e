package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
)

// A socket is an address that Envoy will listen on because the Dataplane says so.
type socket struct {
	at      resource.Path
	what    string // for people
	address string
	port    uint32
}

// sockets lists what Envoy binds itself: with transparent proxying neither inbounds nor outbounds.
func sockets(d *mesh.Dataplane) []socket {
	var out []socket
	n, at := &d.Networking, resource.Path("networking")
	for i, l := range n.Listeners {
		out = append(out, socket{at.Field("listeners").Index(i), "listener " + l.SectionName(), l.Address, l.Port})
	}
	if d.Transparent() {
		return out
	}
	for i, in := range n.Inbound {
		if in.StateOrReady() != mesh.StateIgnored {
			out = append(out, socket{at.Field("inbound").Index(i), "inbound " + in.SectionName(), n.InboundAddress(in), in.Port})
		}
	}
	for i, o := range n.Outbound {
		what := "outbound"
		if o.BackendRef != nil && o.BackendRef.Name != "" {
			what = fmt.Sprintf("outbound to %s %s", o.BackendRef.Kind, o.BackendRef.Name)
		}
		out = append(out, socket{at.Field("outbound").Index(i), what, o.AddressOrDefault(), o.Port})
	}
	return out
}

// checkSockets names every address that Envoy could not bind. Envoy itself would go on without that listener, and the workload's
// requests would reach whoever has the address: without mutual TLS, or under the identity of another sidecar.
func checkSockets(list []socket) error {
	var ps resource.Problems
	for _, s := range list {
		a, err := netip.ParseAddr(s.address)
		if err != nil || a.Zone() != "" || s.port == 0 || s.port > 65535 {
			continue // a name, or nothing that the zone would accept
		}
		at := netip.AddrPortFrom(a, uint16(s.port))
		switch err := bind(at); {
		case errors.Is(err, syscall.EADDRINUSE):
			ps.Add(s.at, "%s cannot be bound on %s: another program listens there; `ss -tlnp sport = :%d` names it, stop it or choose another port",
				s.what, at, s.port)
		case errors.Is(err, syscall.EADDRNOTAVAIL):
			ps.Add(s.at, "%s cannot be bound on %s: this host has no such address; choose one that `ip address` lists", s.what, at)
		}
		// Other reasons are Envoy's to meet: its binary may be allowed more than this process, such as ports below 1024.
	}
	return ps.Err()
}

// errBound ends a trial that went well.
var errBound = errors.New("bound")

// bind tries to bind an address as Envoy will, and lets it go. It does not listen: a client that comes in this moment
// must be refused as before, not accepted and cut.
func bind(at netip.AddrPort) error {
	var to syscall.Sockaddr = &syscall.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
	if at.Addr().Unmap().Is4() {
		to = &syscall.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().Unmap().As4()}
	}
	trial := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		err := errBound
		if e := c.Control(func(fd uintptr) {
			if e := syscall.Bind(int(fd), to); e != nil {
				err = e
			}
		}); e != nil {
			return e
		}
		return err
	}}
	l, err := trial.Listen(context.Background(), "tcp", netip.AddrPortFrom(at.Addr().Unmap(), at.Port()).String())
	if err == nil {
		return l.Close()
	}
	if errors.Is(err, errBound) {
		return nil
	}
	return err
}
