package testmesh

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/causeway-mesh/causeway/api/client"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/dataplane/agent"
)

// A Workload says what to run: a server with a sidecar of its own.
type Workload struct {
	// Name of the Dataplane, such as web-1.
	Name string
	// Service is the label kuma.io/workload, from which the service is generated. Default the name without its last part.
	Service  string
	Protocol mesh.Protocol // default http
	Labels   map[string]string
	// Probe of the server; with one the workload gets no traffic before it succeeds.
	Probe    *mesh.ServiceProbe
	Outbound []mesh.Outbound
	// Block is the loopback block of outbounds. Default what the agent finds.
	Block string
	// Token is what the agent is allowed to be. Default the name and the service.
	Token Token
	// Zone lists the instances of the zone in the order to try, host:port. Default the one in this process.
	Zone []string
	// SPIRE is the socket of the Workload API that the agent asks for an identity which the zone does not issue.
	SPIRE string
	// Drain is how long a stop may take. Default 3s.
	Drain time.Duration
	// Configure changes the settings of the agent.
	Configure func(*agent.Config)
	// Apart runs the agent in a process of its own, so that it can be killed. The test binary must call Main.
	Apart bool
	// TLS is what a server of a protocol other than HTTP speaks itself, with this certificate. Nil: it does not.
	TLS *tls.Certificate
	// Gateway makes it a delegated gateway: it takes its traffic itself, so there is no inbound, and sends through its proxy.
	Gateway bool
	// Place is the host where the workload runs, apart. Default this host.
	Place Place
	// Transparent says how the traffic of the host is redirected to the proxy. Default not at all.
	Transparent *mesh.TransparentProxying
	// Bind is the address on which the server listens. Default that of the workload.
	Bind string
	// Inbound lists further inbounds; a service port of 0 is that of the server.
	Inbound []mesh.Inbound

	// Egress makes the proxy an egress of the zone as well.
	Egress bool
	// Authorities is a file with the authorities that an egress trusts external services by. Default those of this host.
	Authorities string

	ingress bool // of the zone: there is no server
	bare    bool // there is no server, since the proxy only serves the zone
}

// An Instance is a running workload.
type Instance struct {
	Workload
	App  *App   // nil of an ingress and an egress
	Host string // the address of the workload

	owner testing.TB // until whose end it runs, whoever starts its agent again
	mesh  *Mesh
	http  *http.Client
	logs  *journal
	cfg   agent.Config

	mu        sync.Mutex
	agent     running
	addresses map[string]string
}

// A running agent.
type running interface {
	stop() // gracefully
	kill() // at once, with its Envoy
	done() <-chan struct{}
	err() error // after done
}

// Workload starts a workload and waits until its proxy is ready.
func (m *Mesh) Workload(t testing.TB, w Workload) *Instance {
	t.Helper()
	return m.Workloads(t, w)[0]
}

// Workloads starts workloads together and waits until their proxies are ready.
func (m *Mesh) Workloads(t testing.TB, ws ...Workload) []*Instance {
	t.Helper()
	var out []*Instance
	for _, w := range ws {
		i := m.instance(t, w)
		i.launch(t)
		out = append(out, i)
	}
	for _, i := range out {
		i.untilReady(t)
	}
	return out
}

// Ingress starts an ingress of the zone and declares where other zones find it. With Apart its agent can be killed.
func (m *Mesh) Ingress(t testing.TB, w Workload) *Instance {
	t.Helper()
	w.ingress, w.bare = true, true
	i := m.Workload(t, w)
	i.Declare(t, i.Host, m.Port)
	return i
}

// Egress starts an egress of the zone.
func (m *Mesh) Egress(t testing.TB, w Workload) *Instance {
	t.Helper()
	w.Egress, w.bare = true, true
	return m.Workload(t, w)
}

// Declare says under which address other zones find an ingress, by its name.
func (i *Instance) Declare(t testing.TB, host string, port uint32) {
	t.Helper()
	// That others cannot reach an address of loopback is warned about, and right of other hosts.
	i.mesh.ApplyWarned(t, fmt.Sprintf("type: MeshZoneAddress\nmesh: %s\nname: %s\nspec: {address: %s, port: %d}\n", i.mesh.Name, i.Name, host, port))
}

// Refused runs an agent that must give up, and says why it did.
func (m *Mesh) Refused(t testing.TB, w Workload) error {
	t.Helper()
	i := m.instance(t, w)
	i.launch(t)
	select {
	case <-i.agent.done():
	case <-time.After(patience):
		t.Fatalf("the agent of %s did not give up\n%s", i.Name, i.logs.tail(10))
	}
	err := i.agent.err()
	if err == nil {
		t.Fatalf("the agent of %s ended without a reason", i.Name)
	}
	return err
}

// instance makes the server, the Dataplane, the token and the settings of a workload, and runs no agent yet.
func (m *Mesh) instance(t testing.TB, w Workload) *Instance {
	t.Helper()
	if w.Service == "" {
		w.Service = w.Name
		if i := strings.LastIndexByte(w.Name, '-'); i > 0 {
			w.Service = w.Name[:i]
		}
	}
	if w.Protocol == "" {
		w.Protocol = mesh.HTTP
	}
	if w.Drain == 0 {
		w.Drain = 3 * time.Second
	}
	if w.Token.Name == "" && w.Token.Workload == "" {
		w.Token.Name, w.Token.Workload = w.Name, w.Service
		if w.Egress {
			w.Token.Tags = map[string][]string{resource.LabelZoneEgress: {"enabled"}}
		}
	}
	i := &Instance{Workload: w, owner: t, mesh: m, logs: newJournal(), addresses: map[string]string{}}
	if i.Place == nil {
		i.Host = nextHost()
	} else {
		i.Host, i.Apart = i.Place.IP(), true
	}
	i.http = i.newClient(64)
	if !w.bare {
		i.App = startApp(t, w, cmp.Or(w.Bind, i.Host))
	}
	t.Cleanup(i.http.CloseIdleConnections)
	i.cfg = i.settings(t)
	m.mu.Lock()
	m.instances = append(m.instances, i)
	m.mu.Unlock()
	return i
}

// settings of the agent: what a user would write into files.
func (i *Instance) settings(t testing.TB) agent.Config {
	t.Helper()
	m := i.mesh
	dir := filepath.Join(m.dir, m.Name+"."+i.Name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	c := agent.Default()
	c.Zone.Addresses, c.Zone.CAFile = []string{m.at.agents}, filepath.Join(m.WorkDir(), "tls", "ca.pem")
	if cp := m.ControlPlane(); cp != nil {
		c.Zone.CAFile = cmp.Or(m.opts.CAFile, cp.CAFile()) // its directory may be another one
	}
	if len(i.Zone) > 0 {
		c.Zone.Addresses = i.Zone
	}
	c.Dataplane.File = write("dataplane.yaml", i.dataplane(t))
	c.Dataplane.TokenFile = write("token", []byte(m.Token(t, i.Token)))
	c.Envoy.Binary, c.Envoy.AuthoritiesFile = m.envoy, i.Authorities
	if i.SPIRE != "" {
		c.SPIRESocket = i.SPIRE
	}
	c.RuntimeDir, c.DrainTime, c.Version = filepath.Join(m.dir, "run"), i.Drain, "test"
	if i.Configure != nil {
		i.Configure(&c)
	}
	return c
}

func (i *Instance) dataplane(t testing.TB) []byte {
	t.Helper()
	labels := maps.Clone(i.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	if i.Service != "-" {
		labels[resource.LabelWorkload] = i.Service
	}
	networking := mesh.Networking{Address: i.Host, OutboundBlock: i.Block, Outbound: i.Outbound, TransparentProxying: i.Transparent}
	if i.ingress {
		networking.Listeners = append(networking.Listeners, mesh.Listener{Type: mesh.ZoneIngress, Address: i.Host, Port: i.mesh.Port})
	}
	if i.Egress {
		networking.Listeners = append(networking.Listeners, mesh.Listener{Type: mesh.ZoneEgress, Address: i.Host, Port: i.mesh.Port + 1, Name: "egress"})
	}
	switch {
	case i.Gateway:
		networking.Gateway = &mesh.Gateway{Type: mesh.GatewayDelegated}
	case !i.bare:
		networking.Inbound = []mesh.Inbound{{
			Port: i.mesh.Port, ServicePort: uint32(i.App.Port()), Name: "main", Protocol: i.Protocol, ServiceProbe: i.Probe,
		}}
		for _, in := range i.Inbound {
			if in.ServicePort == 0 {
				in.ServicePort = uint32(i.App.Port())
			}
			networking.Inbound = append(networking.Inbound, in)
		}
	}
	out, err := yaml.Marshal(map[string]any{
		"type": mesh.TypeDataplane, "mesh": i.mesh.Name, "name": i.Name, "labels": labels, "networking": networking,
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// launch runs the agent.
func (i *Instance) launch(t testing.TB) {
	t.Helper()
	var a running
	if i.Apart {
		a = startApart(t, partAgent, i.cfg.Dataplane.File+".agent.json", i.cfg, i.Place, i.logs)
	} else {
		a = startInside(context.WithoutCancel(t.Context()), i.cfg, i.logs)
	}
	i.mu.Lock()
	i.agent = a
	i.mu.Unlock()
	i.owner.Cleanup(func() {
		i.finish(i.owner, a)
		if i.owner.Failed() {
			i.owner.Logf("the end of the log of %s:\n%s", i.Name, i.logs.tail(25))
		}
	})
}

// finish ends an agent however it stands; nobody waits for its connections.
func (i *Instance) finish(t testing.TB, a running) {
	a.stop()
	a.kill()
	select {
	case <-a.done():
	case <-time.After(i.Drain + patience):
		t.Errorf("the agent of %s does not end", i.Name)
	}
}

// untilReady waits until Envoy has its configuration.
func (i *Instance) untilReady(t testing.TB) {
	t.Helper()
	i.mesh.Until(t, "the proxy of "+i.Name+" is ready", func() (any, bool) {
		select {
		case <-i.agent.done():
			t.Fatalf("the agent of %s ended: %v\n%s", i.Name, i.agent.err(), i.logs.tail(15))
		default:
		}
		_, err := i.Admin("/ready")
		return fmt.Sprintf("%v\n%s", err, i.logs.tail(10)), err == nil
	})
}

// Stop ends the workload gracefully: peers are told, connections end, then Envoy and the server.
func (i *Instance) Stop(t testing.TB) {
	t.Helper()
	i.StopAgent(t)
	i.stopServer()
}

func (i *Instance) stopServer() {
	if i.App != nil {
		i.App.stop()
	}
}

// StopAgent ends the agent and its Envoy gracefully; the server stays.
func (i *Instance) StopAgent(t testing.TB) {
	t.Helper()
	a := i.agent
	a.stop()
	select {
	case <-a.done():
	case <-time.After(i.Drain + patience):
		t.Fatalf("the agent of %s does not end\n%s", i.Name, i.logs.tail(15))
	}
	if err := a.err(); err != nil {
		t.Errorf("the agent of %s ended: %v", i.Name, err)
	}
}

// StartAgent runs an agent again and waits until its proxy is ready.
func (i *Instance) StartAgent(t testing.TB) {
	t.Helper()
	i.launch(t)
	i.untilReady(t)
	i.mu.Lock()
	defer i.mu.Unlock()
	clear(i.addresses) // it may have found another block
}

// Kill ends everything of the workload at once, as when its host dies: agent (when it runs apart), Envoy and server.
func (i *Instance) Kill(t testing.TB) {
	t.Helper()
	i.KillAgent(t)
	i.stopServer()
}

// KillAgent kills the agent (when it runs apart) and its Envoy; the server stays.
func (i *Instance) KillAgent(t testing.TB) {
	t.Helper()
	i.agent.kill()
	if i.Apart {
		<-i.agent.done()
	}
}

// Admin asks Envoy's administration for a path.
func (i *Instance) Admin(path string) (string, error) {
	socket := filepath.Join(i.cfg.RuntimeDir, i.mesh.Name+"."+i.Name, "admin.sock")
	c := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	resp, err := c.Get("http://envoy" + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, clip(string(body)))
	}
	return string(body), err
}

// Stats reads the counters and gauges of Envoy whose whole names match a regular expression.
func (i *Instance) Stats(t testing.TB, pattern string) map[string]int {
	t.Helper()
	text, err := i.Admin("/stats")
	if err != nil {
		t.Fatalf("statistics of %s: %v", i.Name, err)
	}
	wanted, out := regexp.MustCompile("^(?:"+pattern+")$"), map[string]int{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if n, err := strconv.Atoi(value); err == nil && wanted.MatchString(name) {
			out[name] = n
		}
	}
	return out
}

// Stat is the sum of the counters and gauges of Envoy whose names match a regular expression.
func (i *Instance) Stat(t testing.TB, pattern string) int {
	t.Helper()
	sum := 0
	for _, n := range i.Stats(t, pattern) {
		sum += n
	}
	return sum
}

// Address is where the workload finds a service: the low half of the service's virtual address in its own loopback block.
func (i *Instance) Address(t testing.TB, service string) string {
	t.Helper()
	i.mu.Lock()
	known := i.addresses[service]
	i.mu.Unlock()
	if known != "" {
		return known
	}
	i.mesh.Until(t, service+" has an address for "+i.Name, func() (any, bool) {
		var err error
		known, err = i.resolve(t, service)
		return err, err == nil
	})
	i.mu.Lock()
	defer i.mu.Unlock()
	i.addresses[service] = known
	return known
}

func (i *Instance) resolve(t testing.TB, service string) (string, error) {
	d, err := i.mesh.destination(t, service)
	if err != nil {
		return "", err
	}
	var dp mesh.Dataplane
	switch {
	case d.vip() == "" || d.port() == 0:
		return "", errors.New("it has no virtual address or port")
	case !i.mesh.Read(t, mesh.TypeDataplane, i.Name, &dp):
		return "", errors.New("there is no such Dataplane")
	}
	block, err := netip.ParsePrefix(dp.Networking.OutboundBlock)
	if err != nil {
		return "", fmt.Errorf("outboundBlock: %w", err)
	}
	vip, err := netip.ParseAddr(d.vip())
	if err != nil {
		return "", fmt.Errorf("virtual address: %w", err)
	}
	b, low := block.Addr().As4(), vip.As4()
	at := netip.AddrFrom4([4]byte{b[0], b[1], low[2], low[3]})
	return netip.AddrPortFrom(at, uint16(d.port())).String(), nil
}

// A destination is what the kinds that traffic can be sent to have in common here.
type destination struct {
	Spec struct {
		Ports []struct {
			Port uint32 `json:"port"`
		} `json:"ports"`
		Match mesh.ExternalMatch `json:"match"`
	} `json:"spec"`
	Status struct {
		VIPs []mesh.VIP `json:"vips"`
		VIP  mesh.VIP   `json:"vip"`
	} `json:"status"`
}

func (d destination) vip() string {
	if len(d.Status.VIPs) > 0 {
		return d.Status.VIPs[0].IP
	}
	return d.Status.VIP.IP
}

func (d destination) port() uint32 {
	if len(d.Spec.Ports) > 0 {
		return d.Spec.Ports[0].Port
	}
	return d.Spec.Match.Port
}

// destination finds a service by name: "web" is that of the own zone or else an external or a multi-zone service,
// "web.west" that of another zone.
func (a API) destination(t testing.TB, service string) (destination, error) {
	var out destination
	name, zone, elsewhere := strings.Cut(service, ".")
	if !elsewhere && a.Read(t, mesh.TypeMeshService, name, &out) {
		return out, nil
	}
	labels, kinds := map[string]string{resource.LabelDisplayName: name}, []string{mesh.TypeMeshExternalService, mesh.TypeMeshMultiZoneService}
	if elsewhere {
		labels[resource.LabelZone], kinds = zone, []string{mesh.TypeMeshService}
	}
	for _, typ := range kinds {
		if ok, err := a.find(t, typ, labels, &out); ok || err != nil {
			return out, err
		}
	}
	return out, fmt.Errorf("the zone knows no service %s", service)
}

// find reads the first resource of a kind that carries labels, and says whether there is one.
func (a API) find(t testing.TB, typ string, labels map[string]string, into any) (bool, error) {
	for o, err := range a.client.List(t.Context(), kind(t, typ), a.in, client.Query{Labels: labels}) {
		if err != nil {
			return false, err
		}
		return true, json.Unmarshal(o.Raw, into)
	}
	return false, nil
}

// Find reads a resource by its display name, which a copy of another control plane's keeps.
func (a API) Find(t testing.TB, typ, displayName string, into any) {
	t.Helper()
	ok, err := a.find(t, typ, map[string]string{resource.LabelDisplayName: displayName}, into)
	if err != nil || !ok {
		t.Fatalf("find %s %s: %v, %v", typ, displayName, ok, err)
	}
}

// Direct is where the sidecar of the workload takes traffic for it.
func (i *Instance) Direct() string { return net.JoinHostPort(i.Host, strconv.Itoa(int(i.mesh.Port))) }
