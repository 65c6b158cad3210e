package envoy

import (
	"crypto/tls"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
)

// continent is three zones: east has the client and two endpoints of service web, west and south an ingress and one endpoint each.
// West also has a service of lines over TCP.
type continent struct {
	east, west, south  *region
	joined, far, lines uint32 // the client's ports: for the multi-zone service, and for services of west
	gate               uint32 // of west
	health             uint32 // the health responder of west
	local              []resource.Key
	remote, gateway    map[string]resource.Key // in east, by zone
}

// whoami answers with its name and who its proxy says is calling.
func whoami(t testing.TB, name string) uint32 {
	return serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, name, " ", r.Header.Get("x-forwarded-client-cert"))
	}))
}

func newContinent(t testing.TB) *continent {
	t.Helper()
	c := &continent{joined: freePort(t), far: freePort(t), lines: freePort(t), gate: freePort(t)}
	demo := view.Settings{LocalAddresses: true}
	c.east, c.south = newRegion(t, "east", demo), newRegion(t, "south", demo)
	ca := newAuthority(t, "health")
	c.health = serveTLS(t, ca, "health")
	demo.HealthResponder = address(c.health)
	c.west = newRegion(t, "west", demo)
	c.remote, c.gateway = map[string]resource.Key{}, map[string]resource.Key{}

	all := []*region{c.east, c.west, c.south}
	southGate := freePort(t)
	for _, r := range all {
		r.put(`
type: MeshMultiZoneService
mesh: shop
name: web
spec:
  selector: {meshService: {matchLabels: {joined: web}}}
  ports: [{port: 80, name: main, appProtocol: http}]`)
	}
	c.west.run(serving("web-1", "", fmt.Sprintf("http main %d %d", freePort(t), whoami(t, "west")), fmt.Sprintf("tcp wire %d %d", freePort(t), echoTCP(t))), all...)
	c.south.run(serving("web-1", "", fmt.Sprintf("http main %d %d", freePort(t), whoami(t, "south"))), all...)
	web := c.west.service("web", "main", "http")
	lines := c.west.service("lines", "wire", "tcp")
	c.west.run(gate("in-1", c.gate))
	southern := c.south.service("web", "main", "http")
	c.south.run(gate("in-1", southGate))

	c.east.service("web", "main", "http")
	c.remote["west"], c.gateway["west"] = c.west.tell(c.east, web, c.gate)
	c.west.tell(c.east, lines, c.gate)
	c.remote["south"], c.gateway["south"] = c.south.tell(c.east, southern, southGate)
	for i := range 2 {
		name := fmt.Sprintf("web-%d", i)
		c.east.run(strings.Replace(serving(name, "", fmt.Sprintf("http main %d %d", freePort(t), whoami(t, fmt.Sprintf("east-%d", i)))),
			"workload: web", fmt.Sprintf("workload: web, rack: r%d", i), 1), all...)
		c.local = append(c.local, resource.Key{Type: mesh.TypeDataplane, Mesh: "shop", Name: name})
	}
	c.east.run(fmt.Sprintf(`
type: Dataplane
mesh: shop
name: client-1
labels: {kuma.io/workload: client, rack: r0}
networking:
  address: %[1]s
  outbound:
  - {address: %[1]s, port: %[2]d, backendRef: {kind: MeshMultiZoneService, name: web, port: 80}}
  - {address: %[1]s, port: %[3]d, backendRef: {kind: MeshService, port: 80, labels: {kuma.io/display-name: web, kuma.io/zone: west}}}
  - {address: %[1]s, port: %[4]d, backendRef: {kind: MeshService, port: 80, labels: {kuma.io/display-name: lines, kuma.io/zone: west}}}`,
		loopbackIP, c.joined, c.far, c.lines), all...)
	for _, r := range all {
		r.settle()
	}
	return c
}

// Traffic between real Envoys of three zones, configured by the compiler and the xDS server of each.
func TestCrossZone(t *testing.T) {
	t.Parallel()
	c := newContinent(t)
	for _, part := range []struct {
		name string
		run  func(*testing.T, *continent)
	}{
		{"end to end", testEndToEnd},
		{"gate", testGate},
		{"failover", testFailover},
		{"gateways", testGateways},
		{"affinity", testAffinity},
		{"hashes", testHashes},
	} {
		if !t.Run(part.name, func(t *testing.T) { part.run(t, c) }) {
			return
		}
	}
}

// A service of another zone is reached by mesh TLS from proxy to proxy: the workload there sees who calls.
func testEndToEnd(t *testing.T, c *continent) {
	h := client(t)
	until(t, "the service of the other zone answers", func() (any, bool) {
		code, body, err := fetch(h, c.far, "/")
		return fmt.Sprint(code, body, err), code == http.StatusOK
	})
	_, body, err := fetch(h, c.far, "/")
	if err != nil || !strings.HasPrefix(body, "west ") || !strings.Contains(body, "URI=spiffe://shop.east.mesh.local/workload/client") {
		t.Errorf("answered %q, %v; want west, called by the client of east", body, err)
	}
	kept := connect(t, loopbackIP, c.lines)
	for range 3 {
		if err := kept.line("over there"); err != nil {
			t.Fatal(err)
		}
	}
}

// The ingress lets in what has the name of a service, and nothing else; what it lets in asks for a certificate itself.
func testGate(t *testing.T, c *continent) {
	friend := c.east.ca.issue(t, "spiffe://shop.east.mesh.local/workload/client").tls(t)
	stranger := newAuthority(t, "east").issue(t, "spiffe://shop.east.mesh.local/workload/client").tls(t)
	const service = "sni.msvc.shop.west.web.main"
	for _, k := range []struct {
		sni string
		own *tls.Certificate
		in  bool
	}{
		{service, &friend, true},
		{"SNI.msvc.shop.WEST.web.main", &friend, true},
		{"sni.mzsvc.shop.web.main", &friend, true},
		{"health.shop.west", nil, true},
		{service, nil, false},
		{service, &stranger, false},
		{"sni.msvc.shop.west.nobody.main", &friend, false},
		{"sni.msvc.shop.east.web.main", &friend, false},
		{"health.shop.east", &friend, false},
		{"system_agent", &friend, false},
		{"system_health", &friend, false},
		{"system_none", &friend, false},
		{"self_inbound_dp_main", &friend, false},
		{"kri_msvc_shop_west__web_main", &friend, false},
		{"web", &friend, false},
		{"", &friend, false},
	} {
		_, peer, err := askTLS(c.gate, k.own, k.sni)
		if (err == nil) != k.in {
			t.Errorf("server name %q, with certificate %t: %v; want in: %t", k.sni, k.own != nil, err, k.in)
		}
		if want := "spiffe://shop.west.mesh.local/workload/web"; err == nil && strings.HasPrefix(strings.ToLower(k.sni), "sni.") && peer.URIs[0].String() != want {
			t.Errorf("server name %q leads to %s, want %s", k.sni, peer.URIs[0], want)
		}
	}
	if _, _, err := fetch(client(t), c.gate, "/"); err == nil {
		t.Error("plain text was let in")
	}
}

// ask sends a request to the multi-zone service and says who answers, or with which status.
func (c *continent) ask(t *testing.T, h *http.Client, user string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address(c.joined)+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("x-user", user)
	resp, err := h.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		return strconv.Itoa(resp.StatusCode)
	}
	who, _, _ := strings.Cut(string(body), " ")
	return who
}

// served checks the share of requests to the multi-zone service that each answers: a zone, or one of the endpoints of east.
func (c *continent) served(t *testing.T, want map[string]float64) {
	t.Helper()
	const requests = 400
	h := client(t)
	counts := map[string]int{}
	for range requests {
		who := c.ask(t, h, "")
		counts[who]++
		if strings.HasPrefix(who, "east-") {
			counts["east"]++
		}
	}
	t.Logf("%v", counts)
	told := func(who string) bool { _, ok := want[who]; return ok }
	for _, who := range []string{"east", "east-0", "east-1", "west", "south", "503"} {
		if !told(who) && strings.HasPrefix(who, "east") && (told("east") || told("east-0") || told("east-1")) {
			continue // told of as a zone, or one by one
		}
		got, want := float64(counts[who])/requests, want[who]
		if math.Abs(got-want) > 5*math.Sqrt(want*(1-want)/requests) {
			t.Errorf("%s serves %.0f %%, want %.0f %%", who, 100*got, 100*want)
		}
	}
}

func (c *continent) ready(states ...mesh.InboundState) {
	for i, s := range states {
		c.east.view.SetFacts(c.local[i], &view.Facts{Inbounds: map[string]mesh.InboundState{"main": s}})
	}
}

func (c *continent) counts(zone string, healthy, total uint32) {
	c.east.view.SetRemote(c.remote[zone], &view.Remote{Ports: map[string]view.Capacity{"main": {Healthy: healthy, Total: total}}})
}

// strategy puts the one policy for the multi-zone service in force.
func (c *continent) strategy(conf string) {
	c.east.put("type: MeshLoadBalancingStrategy\nmesh: shop\nname: web\nspec:\n  to:\n" +
		"  - targetRef: {kind: MeshMultiZoneService, labels: {kuma.io/display-name: web}}\n    default: " + conf)
}

func (c *continent) noStrategy() {
	c.east.view.Remove(resource.Key{Type: "MeshLoadBalancingStrategy", Mesh: "shop", Name: "web"})
}

const (
	ready   = mesh.StateReady
	unready = mesh.StateNotReady
)

// The own zone comes first; what it cannot serve goes to other zones, in the order and from the threshold that a policy says.
func testFailover(t *testing.T, c *continent) {
	step := func(what string, change func(), want map[string]float64) {
		t.Helper()
		change()
		c.east.settle()
		t.Log(what)
		c.served(t, want)
	}
	step("all local", func() { c.counts("west", 3, 3); c.counts("south", 1, 1) }, map[string]float64{"east": 1})
	step("half of the local ones, without a policy: 50 % x 1.4, the rest by endpoints of the other zones",
		func() { c.ready(ready, unready) }, map[string]float64{"east": .7, "west": .225, "south": .075})
	step("at the threshold nothing moves", func() { c.strategy("{localityAwareness: {crossZone: {failoverThreshold: {percentage: 50}}}}") }, map[string]float64{"east": 1})
	step("below it the rest moves", func() { c.strategy("{localityAwareness: {crossZone: {failoverThreshold: {percentage: 100}}}}") },
		map[string]float64{"east": .5, "west": .375, "south": .125})
	step("in order", func() {
		c.strategy("{localityAwareness: {crossZone: {failover: [{to: {type: Only, zones: [south]}}, {to: {type: Any}}], failoverThreshold: {percentage: 100}}}}")
	}, map[string]float64{"east": .5, "south": .5})
	step("nobody here", func() { c.ready(unready, unready) }, map[string]float64{"south": 1})
	step("the first step has lost three quarters: what it has lost goes to the next", func() { c.counts("south", 1, 4) },
		map[string]float64{"south": .25, "west": .75})
	step("the first step has nobody", func() { c.counts("south", 0, 4) }, map[string]float64{"west": 1})
	step("no zone but the first", func() {
		c.strategy("{localityAwareness: {crossZone: {failover: [{to: {type: Only, zones: [south]}}]}}}")
	}, map[string]float64{"503": 1})
	step("all zones alike", func() {
		c.strategy("{localityAwareness: {disabled: true}}")
		c.ready(ready, ready)
		c.counts("west", 4, 4)
		c.counts("south", 2, 2)
	},
		map[string]float64{"east": .25, "west": .5, "south": .25})
}

// A zone whose ingress is known to be down, or to leave, gets nothing; it returns when the ingress does.
func testGateways(t *testing.T, c *continent) {
	c.noStrategy()
	c.ready(unready, unready)
	gateway := func(zone string, g *view.Gateway) { c.east.view.SetGateway(c.gateway[zone], g) }
	for _, k := range []struct {
		what        string
		west, south *view.Gateway
		want        map[string]float64
	}{
		{"both", nil, nil, map[string]float64{"west": 2. / 3, "south": 1. / 3}},
		{"west is down", &view.Gateway{Down: true}, nil, map[string]float64{"south": 1}},
		{"west leaves", &view.Gateway{Draining: true}, nil, map[string]float64{"south": 1}},
		{"west is back", &view.Gateway{}, &view.Gateway{Down: true}, map[string]float64{"west": 1}},
		{"none", &view.Gateway{Down: true}, &view.Gateway{Down: true}, map[string]float64{"503": 1}},
	} {
		gateway("west", k.west)
		gateway("south", k.south)
		c.east.settle()
		t.Log(k.what)
		c.served(t, k.want)
	}
}

// Endpoints of the client's own rack get most of the traffic, and all others none while they are ready; without them the
// rest of the zone takes over, and then other zones.
func testAffinity(t *testing.T, c *continent) {
	c.east.view.SetGateway(c.gateway["west"], nil)
	c.east.view.SetGateway(c.gateway["south"], nil)
	c.strategy("{localityAwareness: {localZone: {affinityTags: [{key: rack}]}}}")
	for _, k := range []struct {
		what   string
		states []mesh.InboundState
		want   map[string]float64
	}{
		{"both", []mesh.InboundState{ready, ready}, map[string]float64{"east-0": .9, "east-1": .1}},
		{"the other rack alone", []mesh.InboundState{unready, ready}, map[string]float64{"east-1": 1}},
		{"none here", []mesh.InboundState{unready, unready}, map[string]float64{"west": 2. / 3, "south": 1. / 3}},
	} {
		c.ready(k.states...)
		c.east.settle()
		t.Log(k.what)
		c.served(t, k.want)
	}
}

// Requests of one user go to one endpoint, whoever else asks; users are spread over all.
func testHashes(t *testing.T, c *continent) {
	c.ready(ready, ready)
	for _, lb := range []string{"{type: RingHash, ringHash: {minRingSize: 2048, hashFunction: MurmurHash2}}", "{type: Maglev, maglev: {tableSize: 65537}}"} {
		c.strategy("{localityAwareness: {disabled: true}, loadBalancer: " + lb + ", hashPolicies: [{type: Header, header: {name: x-user}, terminal: true}]}")
		c.east.settle()
		h := client(t)
		users, homes := 40, map[string]int{}
		for i := range users {
			user := fmt.Sprint("user-", i)
			home := c.ask(t, h, user)
			homes[home]++
			for range 3 {
				if again := c.ask(t, h, user); again != home {
					t.Fatalf("%s: %s was served by %s and by %s", lb, user, home, again)
				}
			}
		}
		t.Logf("%s: %v", lb, homes)
		if len(homes) < 3 {
			t.Errorf("%s: %d users share %v", lb, users, homes)
		}
	}
	c.noStrategy()
	c.east.settle()
}
