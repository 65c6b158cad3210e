// Package transparent tests hosts whose traffic is redirected to their proxy: programs that know nothing of the mesh use its names.
// Hosts are network namespaces, rules are real ones, and so are agents and Envoys. It holds no tests of single parts.
package transparent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/miekg/dns"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/dataplane/agent"
	"github.com/causeway-mesh/causeway/deploy/transparentproxy"
	"github.com/causeway-mesh/causeway/test/netns"
	"github.com/causeway-mesh/causeway/test/testmesh"
)

func TestMain(m *testing.M) { testmesh.Main(m) }

// programUser is who runs programs; the proxies of these hosts run as root, as the test does.
const programUser = 1000

// world is a zone, workloads with hosts of their own, and a host that is in no mesh.
type world struct {
	t                       *testing.T
	mesh                    *testmesh.Mesh
	client, web, local, six *testmesh.Instance
	outsider                *netns.Host
	hosts                   map[*testmesh.Instance]*netns.Host
}

// sixth is a host that is known by its IPv6 address only.
type sixth struct{ *netns.Host }

func (s sixth) IP() string { return s.IP6() }

func redirected() *mesh.TransparentProxying {
	return &mesh.TransparentProxying{RedirectPortInbound: 15006, RedirectPortOutbound: 15001}
}

func newWorld(t *testing.T, n *netns.Network) *world {
	t.Helper()
	w := &world{t: t, hosts: map[*testmesh.Instance]*netns.Host{}}
	place := n.Host(t, 1, 2)
	w.outsider = n.Host(t, 1, 3)
	if w.outsider.IP6() == "" {
		lacking(t, "IPv6 is needed")
	}
	w.mesh = testmesh.Start(t, testmesh.Options{Place: place})
	upstream := w.resolver()
	workload := func(name string, number byte) testmesh.Workload {
		return testmesh.Workload{
			Name: name, Place: n.Host(t, 1, number), Transparent: redirected(),
			Configure: func(c *agent.Config) { c.DNS.Upstreams = []string{upstream} },
		}
	}
	client, web, local, six := workload("client-1", 10), workload("web-1", 11), workload("local-1", 12), workload("six-1", 13)
	client.Bind = "0.0.0.0"
	client.Transparent.DirectAccessServices = []string{"web"}
	local.Bind = "127.0.0.1"
	local.Inbound = []mesh.Inbound{{Name: "own", Port: w.mesh.Port + 1, ServiceAddress: "127.0.0.1", Protocol: mesh.HTTP}}
	six.Transparent.ReachableBackends = &mesh.ReachableBackends{Refs: []mesh.ReachableRef{
		{Kind: mesh.TypeMeshService, Name: "web"},
		{Kind: mesh.TypeMeshService, Labels: map[string]string{resource.LabelDisplayName: "client"}},
	}}
	sixHost := six.Place.(*netns.Host)
	six.Place = sixth{sixHost}
	plain := testmesh.Workload{Name: "plain-1", Place: n.Host(t, 1, 14), Bind: "0.0.0.0"} // whose host redirects nothing
	list := w.mesh.Workloads(t, client, web, local, six, plain)
	w.client, w.web, w.local, w.six = list[0], list[1], list[2], list[3]
	for i, in := range list[:4] {
		if w.hosts[in] = sixHost; i < 3 {
			w.hosts[in] = in.Place.(*netns.Host)
		}
	}
	return w
}

// resolver answers lookups of what is in no mesh, on the host of the outsider.
func (w *world) resolver() string {
	var packets net.PacketConn
	at := net.JoinHostPort(w.outsider.IP(), "53")
	if err := w.outsider.Do(func() (err error) {
		packets, err = net.ListenPacket("udp", at)
		return err
	}); err != nil {
		w.t.Fatal(err)
	}
	srv := &dns.Server{PacketConn: packets, Handler: dns.HandlerFunc(func(out dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		switch {
		case q.Question[0].Name != "outsider.example.":
			m.Rcode = dns.RcodeNameError
		case q.Question[0].Qtype == dns.TypeA:
			rr, _ := dns.NewRR("outsider.example. 60 IN A " + w.outsider.IP())
			m.Answer = []dns.RR{rr}
		}
		_ = out.WriteMsg(m)
	})}
	ended := make(chan error, 1)
	go func() { ended <- srv.ActivateAndServe() }()
	w.t.Cleanup(func() { _ = srv.Shutdown(); <-ended })
	return at
}

// serve answers HTTP on a port of a host that is in no mesh.
func (w *world) serve(h *netns.Host, address, text string) {
	w.t.Helper()
	l, err := h.Listen("tcp", address)
	if err != nil {
		w.t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) { fmt.Fprint(out, text) })}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	w.t.Cleanup(func() { _ = srv.Close(); <-ended })
}

// curl asks for a URL from a host with a program that knows nothing of meshes. It gives what came back, or how that failed.
func curl(h *netns.Host, url string) (string, error) {
	cmd := exec.Command("curl", "--silent", "--show-error", "--fail", "--max-time", "10", url)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: programUser, Gid: programUser}}
	var out, problem strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &problem
	if err := h.Start(cmd); err != nil {
		return "", err
	}
	if err := cmd.Wait(); err != nil {
		return "", fmt.Errorf("%w: %s", err, problem.String())
	}
	return out.String(), nil
}

// Exit codes of curl.
const (
	unknownHost = 6
	noAnswer    = 52
	broken      = 56
)

// from is who answers a program of a host: a workload by its name, or what another server says.
func from(h *netns.Host, url string) (string, error) {
	text, err := curl(h, url)
	var a testmesh.Answer
	if json.Unmarshal([]byte(text), &a) == nil && a.Instance != "" {
		return a.Instance, err
	}
	return text, err
}

// until waits until somebody answers as they should.
func (w *world) until(h *netns.Host, url, want string) {
	w.t.Helper()
	w.mesh.Until(w.t, fmt.Sprintf("%s answers %s as %s", url, h.IP(), want), func() (any, bool) {
		got, err := from(h, url)
		return fmt.Sprintf("%q, %v", got, err), got == want && err == nil
	})
}

// refused waits until a program is refused with one of the exit codes.
func (w *world) refused(h *netns.Host, url string, codes ...int) {
	w.t.Helper()
	w.mesh.Until(w.t, fmt.Sprintf("%s is refused to %s", url, h.IP()), func() (any, bool) {
		got, err := from(h, url)
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			for _, c := range codes {
				if exit.ExitCode() == c {
					return nil, true
				}
			}
		}
		return fmt.Sprintf("%q, %v", got, err), false
	})
}

func lacking(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

func (w *world) redirect(in *testmesh.Instance, engine string) {
	w.t.Helper()
	c := transparentproxy.Default()
	c.Engine, c.ProxyUser, c.RedirectDNS = engine, "0", "all"
	if err := w.hosts[in].Do(func() error {
		plan, err := transparentproxy.PlanInstall(context.Background(), c)
		if err == nil {
			_, err = plan.Apply(context.Background())
		}
		return err
	}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) leave(in *testmesh.Instance) {
	w.t.Helper()
	if err := w.hosts[in].Do(func() error {
		plan, err := transparentproxy.PlanUninstall(context.Background())
		if err == nil {
			_, err = plan.Apply(context.Background())
		}
		return err
	}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) url(host string, port uint32) string {
	return fmt.Sprintf("http://%s/", net.JoinHostPort(host, fmt.Sprint(port)))
}

// Programs use names of the mesh, of others and addresses, with each engine; what proxies let in depends on mesh TLS.
// Acceptance: U transparentproxy: with real proxies, installed with one engine, then another, then taken away.
// Acceptance: U strictinbounds
// Acceptance: M inbound_communication: within a zone; with and without passing through is serviceAddress, per inbound.
// Acceptance: M connectivity: likewise, and to a host that redirects nothing.
// Acceptance: M meshservice connectivity: names of the own zone, and one of a generator that does not match.
// Acceptance: U/M reachablebackends: by name and by labels; without a list all.
// Acceptance: U meshservice: permissive mTLS switched on under load, names of generators
func TestRedirectedHosts(t *testing.T) {
	n := netns.Enter(t)
	if n == nil {
		return
	}
	for _, program := range []string{"nft", "iptables-restore", "curl"} {
		if _, err := exec.LookPath(program); err != nil {
			lacking(t, err.Error())
		}
	}
	if users, err := os.ReadFile("/proc/self/uid_map"); err != nil || !strings.Contains(string(users), "4294967295") {
		lacking(t, "users other than root are needed")
	}
	w := newWorld(t, n)
	w.serve(w.outsider, net.JoinHostPort(w.outsider.IP(), "8000"), "outsider")
	w.serve(w.outsider, net.JoinHostPort(w.outsider.IP6(), "8000"), "outsider over IPv6")
	w.mesh.Apply(t, `
type: HostnameGenerator
name: others
spec: {selector: {meshService: {matchLabels: {team: others}}}, template: "{{ .DisplayName }}.others.mesh.local"}
---
type: HostnameGenerator
name: shop
spec: {selector: {meshService: {matchLabels: {kuma.io/display-name: web}}}, template: "{{ .DisplayName }}.shop.example"}
`)
	for i, engine := range []string{"nftables", "iptables"} {
		t.Logf("with %s", engine)
		for in := range w.hosts {
			w.redirect(in, engine)
		}
		w.names()
		if i == 0 {
			w.inbounds()
		}
	}
	w.security()
	for in := range w.hosts {
		w.leave(in)
	}
	w.refused(w.hosts[w.client], w.url("web.svc.mesh.local", w.mesh.Port), unknownHost)
	w.until(w.outsider, w.url(w.web.Host, uint32(w.web.App.Port())), "web-1")
}

// names asks for everything that a program may ask for.
func (w *world) names() {
	client, port := w.hosts[w.client], w.mesh.Port
	w.until(client, w.url("web.svc.mesh.local", port), "web-1")
	w.until(client, w.url("WEB.svc.mesh.local", port), "web-1")
	w.until(client, w.url("web.shop.example", port), "web-1")
	w.until(client, w.url("client.svc.mesh.local", port), "client-1") // itself, through the mesh
	w.until(client, w.url("six.svc.mesh.local", port), "six-1")
	w.until(w.hosts[w.six], w.url("web.svc.mesh.local", port), "web-1")
	w.until(w.hosts[w.six], w.url("client.svc.mesh.local", port), "client-1")
	w.refused(w.hosts[w.six], w.url("plain.svc.mesh.local", port), unknownHost) // it is not among the backends of this one
	w.until(client, w.url("plain.svc.mesh.local", port), "plain-1")
	w.refused(client, w.url("web.others.mesh.local", port), unknownHost)
	w.refused(client, w.url("nobody.svc.mesh.local", port), unknownHost)
	w.refused(client, w.url("nobody.example", port), unknownHost)
	w.until(client, w.url("outsider.example", 8000), "outsider")
	w.until(client, w.url(w.outsider.IP(), 8000), "outsider")
	w.until(client, w.url(w.outsider.IP6(), 8000), "outsider over IPv6")
	if n := w.client.Stat(w.t, `cluster\.self_transparentproxy_passthrough_outbound_ipv[46]\.upstream_cx_total`); n < 3 {
		w.t.Errorf("%d connections to others went through the proxy of the client", n)
	}
}

// inbounds calls servers that listen in one way or another.
func (w *world) inbounds() {
	port := w.mesh.Port
	w.until(w.hosts[w.web], w.url("client.svc.mesh.local", port), "client-1") // at any address
	w.until(w.hosts[w.client], w.url("web.svc.mesh.local", port), "web-1")    // at that of the host
	w.until(w.hosts[w.client], w.url("plain.svc.mesh.local", port), "plain-1")
	w.until(w.hosts[w.client], w.url("local.svc.mesh.local", port+1), "local-1")
	const failed = 22 // with an answer of the proxy
	w.refused(w.hosts[w.client], w.url("local.svc.mesh.local", port), failed)
}

// load lets a program call again and again, until the function that is given back is called.
func (w *world) load(h *netns.Host, url string) func() (requests int, failures []error) {
	stop, ended := make(chan struct{}), make(chan struct{})
	var requests int
	var failures []error
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
			}
			requests++
			if _, err := curl(h, url); err != nil {
				failures = append(failures, err)
			}
		}
	}()
	return func() (int, []error) {
		close(stop)
		<-ended
		return requests, failures
	}
}

// security opens and closes what is reached from outside of the mesh.
func (w *world) security() {
	t, port, server := w.t, w.mesh.Port, uint32(w.web.App.Port())
	client, host := w.hosts[w.client], w.web.Host
	all := func() {
		t.Helper()
		w.until(client, w.url("web.svc.mesh.local", port), "web-1")
		w.until(w.outsider, w.url(host, port), "web-1")
		w.until(client, w.url(host, server), "web-1")
		w.until(w.outsider, w.url(host, server), "web-1")
		w.until(w.outsider, w.url(w.six.Host, uint32(w.six.App.Port())), "six-1")
	}
	t.Log("without TLS")
	all()
	t.Log("permissive")
	load := w.load(client, w.url("web.svc.mesh.local", port))
	w.mesh.Apply(t, `
type: MeshTLS
mesh: default
name: open
spec: {rules: [{default: {mode: Permissive}}]}
---
type: MeshTrafficPermission
mesh: default
name: all
spec: {rules: [{default: {allow: [{spiffeID: {type: Prefix, value: "spiffe://"}}]}}]}
---
type: MeshIdentity
mesh: default
name: identity
spec:
  selector: {dataplane: {matchLabels: {}}}
  provider: {type: Bundled, bundled: {autogenerate: {enabled: true}}}
`)
	w.mesh.Until(t, "the client calls with mesh TLS", func() (any, bool) {
		text, err := curl(client, w.url("web.svc.mesh.local", port))
		var a testmesh.Answer
		_ = json.Unmarshal([]byte(text), &a)
		return fmt.Sprintf("%s %v", text, err), strings.HasSuffix(a.Caller(), "/client")
	})
	if requests, failures := load(); len(failures) > 0 {
		t.Errorf("%d of %d requests failed while TLS was switched on, first with %v", len(failures), requests, failures[0])
	} else {
		t.Logf("%d requests while TLS was switched on", requests)
	}
	all()
	t.Log("strict")
	w.mesh.Delete(t, "MeshTLS", "open")
	w.refused(w.outsider, w.url(host, server), noAnswer, broken)
	w.refused(client, w.url(host, server), noAnswer, broken)
	w.refused(w.outsider, w.url(host, port), noAnswer, broken)
	w.refused(w.outsider, w.url(w.six.Host, uint32(w.six.App.Port())), noAnswer, broken)
	w.until(client, w.url("web.svc.mesh.local", port), "web-1")
	w.until(client, w.url(host, port), "web-1") // it may be addressed directly, and that over mesh TLS
	w.refused(w.hosts[w.six], w.url(host, port), noAnswer, broken)
	w.until(client, w.url("six.svc.mesh.local", port), "six-1")
	w.until(client, w.url("client.svc.mesh.local", port), "client-1")
	w.until(client, w.url("outsider.example", 8000), "outsider")
}
