package envoy

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api"
	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/api/memo"
	"github.com/causeway-mesh/causeway/api/policies"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
)

// outside is a transparent proxy and servers that are none of the mesh. Connections are not redirected to it: a patch makes the proxy
// believe what a PROXY header says of where they were going, which is all that it would learn from the kernel.
type outside struct {
	t        *testing.T
	view     *view.View
	root     *memo.Root[envoy.ProxyConfig]
	member   *sidecar
	port     uint32
	sequence uint64
	plain    uint32 // HTTP
	secure   uint32 // TLS
	first    uint32 // speaks first
}

const believe = `type: MeshProxyPatch
mesh: default
name: believe
spec:
  default:
    appendModifications:
    - listener:
        operation: Patch
        match: {origin: transparent}
        jsonPatches:
        - op: add
          path: /listenerFilters/0
          value:
            name: envoy.filters.listener.proxy_protocol
            typedConfig: {"@type": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol}`

func newOutside(t *testing.T) *outside {
	t.Helper()
	o := &outside{t: t, view: view.New("east", api.Kinds(), policies.All), port: freePort(t)}
	hello := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "hello %s", r.Host) })
	o.plain = serveHTTP(t, hello)
	secure := httptest.NewUnstartedServer(hello)
	secure.Listener.Close()
	o.secure = freePort(t)
	l, err := net.Listen("tcp", address(o.secure))
	if err != nil {
		t.Fatal(err)
	}
	secure.Listener = l
	secure.StartTLS()
	t.Cleanup(secure.Close)
	o.first = speakFirst(t)
	o.put(fmt.Sprintf("type: Dataplane\nmesh: default\nname: web\nlabels: {kuma.io/workload: web}\nnetworking:\n  address: 127.0.0.1\n"+
		"  transparentProxying: {redirectPortOutbound: %d, redirectPortInbound: %d, ipFamilyMode: IPv4}", o.port, freePort(t)))
	o.put(believe)
	o.root = envoy.NewCompiler(o.view).Proxy(resource.Key{Type: "Dataplane", Mesh: "default", Name: "web"})
	o.member = newZone(t).join(t, "web", o.table())
	o.member.untilAcked(t, o.table())
	return o
}

// speakFirst greets whoever connects, and repeats what it is told.
func speakFirst(t *testing.T) uint32 {
	t.Helper()
	l, err := net.Listen("tcp", address(freePort(t)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintln(c, "welcome")
				io.Copy(c, c) //nolint:errcheck // ends with the connection
			}()
		}
	}()
	return uint32(l.Addr().(*net.TCPAddr).Port)
}

func (o *outside) put(text string) {
	o.t.Helper()
	ds, err := api.Kinds().DecodeYAML([]byte(text), true)
	if err != nil {
		o.t.Fatalf("%v in\n%s", err, text)
	}
	for _, d := range ds {
		if k, _ := api.Kinds().ByName(d.Type); k.Validate != nil {
			if err := k.Validate(d.Resource).Err(); err != nil {
				o.t.Fatalf("%v in\n%s", err, text)
			}
		}
		o.sequence++
		r := d.Resource
		r.Version = o.sequence
		o.view.Put(r)
	}
}

func (o *outside) table() *envoy.Table {
	o.view.Graph.Settle()
	cfg := o.root.Value()
	return &envoy.Table{Shared: cfg.Shared, Own: cfg.Own, Sequence: o.sequence, Problems: cfg.Problems}
}

// allow puts a policy into force.
func (o *outside) allow(conf string) {
	o.t.Helper()
	o.put("type: MeshPassthrough\nmesh: default\nname: policy\nspec:\n  default: " + conf)
	table := o.table()
	o.member.set(table)
	o.member.untilAcked(o.t, table)
}

// dial connects to where the workload's connections are redirected, as if it had been to a port of an address.
func (o *outside) dial(ip string, port uint32) net.Conn {
	o.t.Helper()
	c, err := net.Dial("tcp", address(o.port))
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() { c.Close() })
	fmt.Fprintf(c, "PROXY TCP4 127.0.0.1 %s 40000 %d\r\n", ip, port)
	c.SetDeadline(time.Now().Add(patience)) //nolint:errcheck // a test fails then
	return c
}

const hungUp = "hung up"

// get sends a plain request, and says what came of it.
func (o *outside) get(port uint32, host string) string {
	o.t.Helper()
	c := o.dial(loopbackIP, port)
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", host)
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return o.ended(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		o.t.Fatal(err)
	}
	return fmt.Sprint(r.StatusCode, " ", string(body))
}

func (o *outside) ended(err error) string {
	o.t.Helper()
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) {
		return hungUp
	}
	o.t.Fatal(err)
	return ""
}

// handshake speaks TLS with a server name.
func (o *outside) handshake(name string) string {
	o.t.Helper()
	c := tls.Client(o.dial(loopbackIP, o.secure), &tls.Config{ServerName: name, InsecureSkipVerify: true})
	if err := c.Handshake(); err != nil {
		return o.ended(err)
	}
	return "secure"
}

// hear waits for a server that speaks first.
func (o *outside) hear(c net.Conn) string {
	o.t.Helper()
	c.SetDeadline(time.Now().Add(patience)) //nolint:errcheck // a test fails then
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return o.ended(err)
	}
	return strings.TrimSpace(line)
}

func (o *outside) expect(what, got, want string) {
	o.t.Helper()
	if got != want {
		o.t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// What leaves the mesh is what MeshPassthrough lets through: everything without a policy, nothing, or what matches.
// What does not is answered or closed, at once. Edits cut no connection that they do not concern.
//
// Acceptance: K meshpassthrough: none, all and matched; domains and IPs; redirection is played by a PROXY header
func TestPassthrough(t *testing.T) {
	t.Parallel()
	o := newOutside(t)
	const answer = "503 This answer comes from the proxy: no MeshPassthrough lets requests to this destination through.\n"
	o.expect("request without a policy", o.get(o.plain, "any.example.com"), "200 hello any.example.com")
	o.expect("TLS without a policy", o.handshake("any.example.com"), "secure")
	// A virtual address with a port that no service has: nothing may leave the host.
	tried := func() int {
		return o.member.stat(t, "cluster.self_transparentproxy_passthrough_outbound_ipv4.upstream_cx_total")
	}
	before := tried()
	for _, ip := range []string{"241.0.0.9", "242.0.128.1", "243.0.192.1"} {
		o.expect("no service at "+ip, o.hear(o.dial(ip, 4711)), hungUp)
	}
	if n := tried() - before; n != 0 {
		t.Errorf("%d connections to virtual addresses left the host", n)
	}

	o.allow("{passthroughMode: None}")
	o.expect("request, None", o.get(o.plain, "any.example.com"), answer)
	o.expect("TLS, None", o.handshake("any.example.com"), hungUp)
	c := o.dial(loopbackIP, o.first)
	fmt.Fprint(c, "\x00\x01 are no request\n")
	o.expect("bytes, None", o.hear(c), hungUp)
	if log := o.member.logs.tail(40); !strings.Contains(log, "no MeshPassthrough lets through: GET any.example.com at "+address(o.plain)) {
		t.Errorf("the log of the proxy does not tell what was refused:\n%s", log)
	}

	matches := []string{
		fmt.Sprintf("{type: IP, value: %s, port: %d, protocol: mysql}", loopbackIP, o.first),
		fmt.Sprintf("{type: Domain, value: Plain.example.com, port: %d, protocol: http}", o.plain),
		fmt.Sprintf("{type: Domain, value: '*.wild.example.com', port: %d, protocol: http}", o.plain),
		"{type: Domain, value: secure.example.com, port: 1, protocol: tls}, {type: Domain, value: '*.secret.example.com', protocol: tls}",
		fmt.Sprintf("{type: Domain, value: secure.example.com, port: %d, protocol: tls}", o.secure),
	}
	match := func(more ...string) string {
		return "{appendMatch: [" + strings.Join(slices.Concat(matches, more), ", ") + "]}"
	}
	o.allow(match())
	began := time.Now()
	kept := o.dial(loopbackIP, o.first)
	o.expect("a server that speaks first", o.hear(kept), "welcome")
	t.Logf("it was heard after %s", time.Since(began))
	o.expect("domain", o.get(o.plain, "plain.example.com"), "200 hello plain.example.com")
	o.expect("domain with port", o.get(o.plain, fmt.Sprint("plain.example.com:", o.plain)), fmt.Sprint("200 hello plain.example.com:", o.plain))
	o.expect("wildcard", o.get(o.plain, "a.wild.example.com"), "200 hello a.wild.example.com")
	o.expect("another domain", o.get(o.plain, "other.example.com"), answer)
	o.expect("server name", o.handshake("secure.example.com"), "secure")
	o.expect("server name below a wildcard", o.handshake("a.secret.example.com"), "secure")
	o.expect("another server name", o.handshake("other.example.com"), hungUp)
	o.expect("plain requests where TLS is let through", o.get(o.secure, "secure.example.com"), answer)

	// One more domain is a route update. An address is a chain more, which is no affair of the others.
	edits := func() (all, inPlace int) {
		return o.member.stat(t, "listener_manager.listener_modified"), o.member.stat(t, "listener_manager.listener_in_place_updated")
	}
	all, inPlace := edits()
	domain := fmt.Sprintf("{type: Domain, value: other.example.com, port: %d, protocol: http}", o.plain)
	o.allow(match(domain))
	until(t, "the other domain is let through", func() (any, bool) {
		got := o.get(o.plain, "other.example.com")
		return got, got == "200 hello other.example.com"
	})
	if now, _ := edits(); now != all {
		t.Errorf("a domain cost %d edits of listeners", now-all)
	}
	o.allow(match(domain, "{type: CIDR, value: 127.0.0.0/8}"))
	o.expect("TLS to a range", o.handshake("anything.example.com"), "secure")
	o.allow(match(domain, "{type: CIDR, value: 127.0.0.0/8}", "{type: CIDR, value: 128.0.0.0/1}"))
	virtual := o.dial("241.0.0.9", 4711)
	fmt.Fprint(virtual, "\x00\x01 are no request\n")
	o.expect("no service, in a range that is let through", o.hear(virtual), hungUp)
	if n := o.member.stat(t, "cluster.meshpassthrough_tcp_128.0.0.0/1_*.upstream_cx_total"); n != 0 {
		t.Errorf("%d connections to virtual addresses left the host", n)
	}
	o.expect("a request to a range", o.get(o.plain, "unknown.example.com"), "200 hello unknown.example.com")
	if _, now := edits(); now == inPlace {
		t.Error("a range is no edit in place: all connections are drained")
	}
	fmt.Fprintln(kept, "still here")
	o.expect("the connection that was open all the time", o.hear(kept), "still here")

	o.allow("{passthroughMode: All}")
	o.expect("request, All", o.get(o.plain, "any.example.com"), "200 hello any.example.com")
	o.expect("TLS, All", o.handshake("any.example.com"), "secure")
}
