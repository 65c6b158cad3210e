// Package netns gives tests a network with hosts of its own: network namespaces of Linux, joined by a router. A test that has entered
// runs on that router, and sees no network but this one. Nothing outlives the process of the test, however that ends: no namespace
// has a name, and processes on hosts die with the test. The package does not know what runs on the hosts.
package netns

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
)

// A Network is hosts in subnets, which a router joins.
type Network struct {
	t       testing.TB
	home    *namespace // of the router, where the test runs
	subnets map[byte]bool
	hosts   int
	ipv6    bool
}

// A Host is a network namespace with one address, and one of IPv6 where the kernel has it.
type Host struct {
	net   *Network
	space *namespace
	plug  string // the router's end of the cable
	ip    string
	ip6   string
}

// ip runs the program of that name on the router.
func (n *Network) ip(t testing.TB, line string) {
	t.Helper()
	if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v\n%s", line, err, out)
	}
}

func subnetOf(subnet byte) string  { return fmt.Sprintf("10.77.%d", subnet) }
func subnet6Of(subnet byte) string { return fmt.Sprintf("fd77:0:0:%x", subnet) }

// Host adds a host to a subnet; its number is the end of its address, from 2.
func (n *Network) Host(t testing.TB, subnet, number byte) *Host {
	t.Helper()
	bridge := fmt.Sprintf("net%d", subnet)
	if !n.subnets[subnet] {
		n.ip(t, "link add "+bridge+" type bridge")
		n.ip(t, fmt.Sprintf("addr add %s.1/24 dev %s", subnetOf(subnet), bridge))
		if n.ipv6 {
			n.ip(t, fmt.Sprintf("addr add %s::1/64 dev %s nodad", subnet6Of(subnet), bridge))
		}
		n.ip(t, "link set "+bridge+" up")
		n.subnets[subnet] = true
	}
	n.hosts++
	h := &Host{net: n, plug: fmt.Sprintf("plug%d", n.hosts), ip: fmt.Sprintf("%s.%d", subnetOf(subnet), number)}
	var err error
	if h.space, err = newNamespace(); err != nil {
		t.Fatal(err)
	}
	n.t.Cleanup(h.space.close)
	n.ip(t, fmt.Sprintf("link add %s type veth peer name eth0 netns %s", h.plug, h.space.path()))
	n.ip(t, fmt.Sprintf("link set %s master %s up", h.plug, bridge))
	lines := []string{"link set lo up", "addr add " + h.ip + "/24 dev eth0", "link set eth0 up", fmt.Sprintf("route add default via %s.1", subnetOf(subnet))}
	if n.ipv6 {
		h.ip6 = fmt.Sprintf("%s::%x", subnet6Of(subnet), number)
		lines = append(lines, "addr add "+h.ip6+"/64 dev eth0 nodad", fmt.Sprintf("-6 route add default via %s::1", subnet6Of(subnet)))
	}
	for _, line := range lines {
		cmd := exec.Command("ip", strings.Fields(line)...)
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		err := h.Start(cmd)
		if err == nil {
			err = cmd.Wait()
		}
		if err != nil {
			t.Fatalf("ip %s: %v\n%s", line, err, out.String())
		}
	}
	return h
}

// IP is the address of the host.
func (h *Host) IP() string { return h.ip }

// IP6 is the IPv6 address of the host, empty where the kernel has no IPv6.
func (h *Host) IP6() string { return h.ip6 }

// Do calls a function whose sockets and processes belong to the host, as long as it stays in one goroutine.
func (h *Host) Do(f func() error) error { return h.space.do(f) }

// Start starts a process on the host, which dies with the test.
func (h *Host) Start(cmd *exec.Cmd) error {
	dieWithTest(cmd)
	return h.space.do(cmd.Start)
}

// Listen takes a port of the host.
func (h *Host) Listen(network, address string) (l net.Listener, err error) {
	err = h.space.do(func() error {
		l, err = net.Listen(network, address)
		return err
	})
	return l, err
}

// Dial connects from the host.
func (h *Host) Dial(ctx context.Context, network, address string) (c net.Conn, err error) {
	err = h.space.do(func() error {
		// One address and no second family, so that the connection is made on this thread.
		c, err = (&net.Dialer{FallbackDelay: -1}).DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// Unplug pulls the cable of the host: packets to and from it vanish, and nobody is told.
func (h *Host) Unplug(t testing.TB) {
	t.Helper()
	h.net.ip(t, "link set "+h.plug+" down")
}

// Plug puts the cable back.
func (h *Host) Plug(t testing.TB) {
	t.Helper()
	h.net.ip(t, "link set "+h.plug+" up")
}

func rules(a, b byte) [2]string {
	rule := func(a, b byte) string {
		return fmt.Sprintf("from %s.0/24 to %s.0/24 blackhole", subnetOf(a), subnetOf(b))
	}
	return [2]string{rule(a, b), rule(b, a)}
}

// Part lets packets between two subnets vanish.
func (n *Network) Part(t testing.TB, a, b byte) {
	t.Helper()
	for _, r := range rules(a, b) {
		n.ip(t, "rule add "+r)
	}
}

// Join ends what Part began.
func (n *Network) Join(t testing.TB, a, b byte) {
	t.Helper()
	for _, r := range rules(a, b) {
		n.ip(t, "rule del "+r)
	}
}
