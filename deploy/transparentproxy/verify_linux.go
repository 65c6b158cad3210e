package transparentproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/api/resource"
)

const verifyTimeout = 3 * time.Second

// Verify makes connections and lookups as a workload does, to addresses that nobody has, and says what became of them: they must
// arrive at the ports of the proxy, whether it runs or not. It returns what it has found out, for people.
func Verify(ctx context.Context, c Config) ([]string, error) {
	var ps resource.Problems
	p := c.parse(&ps)
	if err := ps.Err(); err != nil {
		return nil, err
	}
	if err := p.readHost(resolvConf); err != nil {
		return nil, err
	}
	user, ok := p.anyWorkload()
	if !ok {
		return nil, errors.New("every user is excluded, so nothing is redirected")
	}
	var said []string
	for _, f := range familiesOf(c.IPFamily) {
		if p.RedirectOutbound {
			if to, ok := p.anyDestination(f); ok {
				if err := p.verifyConnection(ctx, f, user, to); err != nil {
					return said, err
				}
				said = append(said, fmt.Sprintf("a connection to %s arrives at port %d", to, p.outPort))
			}
		}
		if to, ok := p.anyServer(f); ok {
			if err := p.verifyLookup(ctx, f, user, to); err != nil {
				return said, err
			}
			said = append(said, fmt.Sprintf("a lookup at %s arrives at port %d", to, p.dnsPort))
		}
	}
	return said, nil
}

// anyWorkload is a user whose traffic is redirected.
func (p parsed) anyWorkload() (uint32, bool) {
	for _, u := range []uint32{65534, 65533, 1, 2, 0, 4_000_000} {
		free := !covers(p.proxyUser(), u) && (len(p.excludeUsers) == 0 || !covers(p.excludeUsers, u)) &&
			!slices.ContainsFunc(p.excludePortsFor, func(e portsFor) bool { return covers(e.users, u) })
		if free {
			return u, true
		}
	}
	return 0, false
}

// anyDestination is something that is redirected; the addresses are those of examples, which nobody has.
func (p parsed) anyDestination(f family) (netip.AddrPort, bool) {
	candidates := []string{"192.0.2.1", "198.51.100.1", "203.0.113.1"}
	if f == ipv6 {
		candidates = []string{"2001:db8::1", "2001:db8:ffff::1"}
	}
	ports := []uint32{80, 443, 8080, 9, 4242}
	for _, s := range p.includeOut {
		ports = append(ports, s.first)
	}
	for _, ip := range candidates {
		a := netip.MustParseAddr(ip)
		for _, port := range ports {
			if covers(p.includeOut, port) && (len(p.excludeOut) == 0 || !covers(p.excludeOut, port)) && !p.excluded(a) {
				return netip.AddrPortFrom(a, uint16(port)), true
			}
		}
	}
	return netip.AddrPort{}, false
}

func (p parsed) excluded(a netip.Addr) bool {
	return slices.ContainsFunc(p.excludeOutIPs, func(x netip.Prefix) bool { return x.Contains(a) })
}

func (p parsed) anyServer(f family) (netip.AddrPort, bool) {
	servers := p.dnsServers
	if len(servers) == 0 {
		servers = []netip.Addr{netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("2001:db8::53")}
	}
	for _, s := range servers {
		if s.Is4() == (f == ipv4) && (len(p.dnsServers) > 0 || !p.excluded(s)) && p.dns && (len(p.excludeOut) == 0 || !covers(p.excludeOut, lookupPort)) {
			return netip.AddrPortFrom(s, lookupPort), true
		}
	}
	return netip.AddrPort{}, false
}

func (f family) loopback() string {
	if f == ipv6 {
		return "::1"
	}
	return "127.0.0.1"
}

func (p parsed) verifyConnection(ctx context.Context, f family, user uint32, to netip.AddrPort) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(f.loopback(), fmt.Sprint(p.outPort)))
	switch {
	case err == nil:
		defer l.Close()
	case !errors.Is(err, syscall.EADDRINUSE): // otherwise the proxy runs
		return fmt.Errorf("verify: %w", err)
	}
	conn, err := dialAs(user, unix.SOCK_STREAM, to)
	if err != nil {
		return notArrived(to, p.outPort, err)
	}
	defer conn.Close()
	if l == nil {
		return nil // nobody else could have accepted it
	}
	_ = l.(*net.TCPListener).SetDeadline(time.Now().Add(verifyTimeout))
	got, err := l.Accept()
	if err != nil {
		return notArrived(to, p.outPort, err)
	}
	return got.Close()
}

func (p parsed) verifyLookup(ctx context.Context, f family, user uint32, to netip.AddrPort) error {
	q := new(dns.Msg)
	q.SetQuestion("mesh.local.", dns.TypeSOA)
	packet, err := q.Pack()
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	l, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp", net.JoinHostPort(f.loopback(), fmt.Sprint(p.dnsPort)))
	switch {
	case err == nil:
		defer l.Close()
	case !errors.Is(err, syscall.EADDRINUSE): // otherwise the agent runs
		return fmt.Errorf("verify: %w", err)
	}
	conn, err := dialAs(user, unix.SOCK_DGRAM, to)
	if err != nil {
		return notArrived(to, p.dnsPort, err)
	}
	defer conn.Close()
	if _, err := conn.Write(packet); err != nil {
		return notArrived(to, p.dnsPort, err)
	}
	buf := make([]byte, dns.MaxMsgSize)
	if l != nil {
		_ = l.SetReadDeadline(time.Now().Add(verifyTimeout))
		if _, _, err := l.ReadFrom(buf); err != nil {
			return notArrived(to, p.dnsPort, err)
		}
		return nil
	}
	_ = conn.SetReadDeadline(time.Now().Add(verifyTimeout))
	n, err := conn.Read(buf)
	if err != nil {
		return notArrived(to, p.dnsPort, err)
	}
	var m dns.Msg
	if err := m.Unpack(buf[:n]); err != nil {
		return notArrived(to, p.dnsPort, err)
	}
	if m.Rcode != dns.RcodeServerFailure && !m.Authoritative {
		return notArrived(to, p.dnsPort, errors.New("somebody else answered"))
	}
	return nil
}

func notArrived(to netip.AddrPort, port uint16, err error) error {
	if errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTUNREACH) {
		return fmt.Errorf("verify: this host has no route to %s, so that nothing is sent there that could be redirected; a default route is needed: %w", to, err)
	}
	return fmt.Errorf("verify: what a workload sends to %s does not arrive at port %d; do other rules of this host come before? %w", to, port, err)
}

// dialAs connects with a socket that belongs to a user, as rules see it.
func dialAs(user uint32, typ int, to netip.AddrPort) (net.Conn, error) {
	domain, address := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()})
	if to.Addr().Is4() {
		domain, address = unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	fd, err := socketAs(user, domain, typ)
	if err != nil {
		return nil, err
	}
	timeout := unix.NsecToTimeval(int64(verifyTimeout))
	if err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout); err == nil {
		err = unix.Connect(fd, address)
	}
	file := os.NewFile(uintptr(fd), "verify")
	defer file.Close()
	if err != nil {
		return nil, err
	}
	return net.FileConn(file)
}

func socketAs(user uint32, domain, typ int) (int, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own := os.Geteuid()
	if err := unix.Setfsuid(int(user)); err != nil {
		return 0, fmt.Errorf("act as user %d: %w", user, err)
	}
	fd, err := unix.Socket(domain, typ|unix.SOCK_CLOEXEC, 0)
	if back := unix.Setfsuid(own); back != nil {
		return 0, errors.Join(err, back)
	}
	return fd, err
}
