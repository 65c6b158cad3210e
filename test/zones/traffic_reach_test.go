package zones

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/dataplane/agent"
	"github.com/causeway-mesh/causeway/test/ports"
	"github.com/causeway-mesh/causeway/test/testmesh"
)

// A service that only another zone has is reached through the ingress of that zone, by mutual TLS from workload to workload:
// nobody is let in unasked, each side knows the identity of the other, and services that appear later are reached as well.
//
// Acceptance: M meshidentity
// Acceptance: M meshtrafficpermission
func TestServiceOfAnotherZone(t *testing.T) {
	t.Parallel()
	f := testmesh.Federate(t, testmesh.FederationOptions{}, "east", "west")
	east, west := f.Zone("east"), f.Zone("west")
	f.Apply(t, identities)
	ingress := west.Ingress(t, testmesh.Workload{Name: "ingress-1"})
	west.Workload(t, testmesh.Workload{Name: "far-1"})
	names := ports.FreeAddress(t, "127.0.0.1")
	callers := east.Workloads(t, testmesh.Workload{Name: "client-1", Configure: func(c *agent.Config) {
		c.DNS = agent.DNSConfig{Addresses: []string{names}, Upstreams: []string{ports.FreeAddress(t, "127.0.0.1")}}
	}}, testmesh.Workload{Name: "batch-1"})
	client, batch := callers[0], callers[1]

	if !t.Run("nobody is allowed at first", func(t *testing.T) {
		client.Expect(t, testmesh.Request{Service: "far.west"}, http.StatusForbidden)
	}) {
		return
	}
	t.Run("a workload of the other zone is allowed by its identity", func(t *testing.T) {
		f.Apply(t, permit("far", "far", spiffe("east", "client")))
		got := client.Reach(t, "far.west").Answer
		if got.Caller() != spiffe("east", "client") || got.Callee() != spiffe("west", "far") || got.Instance != "far-1" {
			t.Errorf("%s was called by %q as %q", got.Instance, got.Caller(), got.Callee())
		}
		if r := batch.Get(t, "far.west", "/"); r.Status != http.StatusForbidden {
			t.Errorf("another workload of that zone gets %s", r)
		}
	})
	t.Run("names", func(t *testing.T) { testNames(t, f, east, west, names) })
	t.Run("a service that appears later", func(t *testing.T) {
		f.Apply(t, permit("late", "late", spiffe("east", "*")))
		untilPermits(t, west, "late")
		west.Workload(t, testmesh.Workload{Name: "late-1"})
		start := time.Now()
		client.Reach(t, "late.west")
		t.Logf("reached %s after its proxy was ready", time.Since(start).Round(time.Millisecond))
	})
	t.Run("the middle", func(t *testing.T) { testWrongSigner(t, east, west, client, ingress) })
	t.Run("callers", func(t *testing.T) { testForeignCaller(t, east, west, ingress) })
	t.Run("over TCP", func(t *testing.T) {
		west.Workload(t, testmesh.Workload{Name: "lines-1", Protocol: mesh.TCP})
		east.Until(t, "connections are taken, and cut before anybody is allowed", func() (any, bool) { return refusal(t, client, "lines.west") })
		f.Apply(t, permit("lines", "lines", spiffe("east", "client")))
		if from := client.ReachTCP(t, "lines.west"); from != "lines-1" {
			t.Errorf("%s answers", from)
		}
		c, err := client.Dial(t, "lines.west")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for n := range 20 {
			if err := c.Echo(fmt.Sprint("line ", n)); err != nil {
				t.Fatal(err)
			}
		}
		if seen, cut := refusal(t, batch, "lines.west"); !cut {
			t.Errorf("a workload that nobody allowed: %v", seen)
		}
	})
}

// A program that uses the agent for its lookups reaches services by name, those of its own zone and of another, at addresses
// that its proxy binds. Nothing is redirected.
// Acceptance: U bindoutbounds
// Acceptance: M meshservice connectivity
func testNames(t *testing.T, f *testmesh.Federation, east, west *testmesh.Mesh, server string) {
	f.Apply(t, permit("batch", "batch", spiffe("east", "*")))
	f.Apply(t, `
type: HostnameGenerator
name: others
spec: {selector: {meshService: {matchLabels: {team: others}}}, template: "{{ .DisplayName }}.others.mesh.local"}
`)
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, server)
	}}
	transport := &http.Transport{DialContext: (&net.Dialer{Resolver: resolver}).DialContext}
	t.Cleanup(transport.CloseIdleConnections)
	get := func(name string, port uint32) (string, error) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://%s:%d/", name, port), nil)
		if err != nil {
			return "", err
		}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		var a testmesh.Answer
		if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
			return resp.Status, err
		}
		return a.Instance, nil
	}
	for _, c := range []struct {
		name string
		port uint32
		want string
	}{
		{"batch.svc.mesh.local", east.Port, "batch-1"},
		{"far.svc.west.mesh.local", west.Port, "far-1"},
	} {
		east.Until(t, c.name+" is reached", func() (any, bool) {
			got, err := get(c.name, c.port)
			return fmt.Sprintf("%s %v", got, err), got == c.want
		})
	}
	for _, name := range []string{"far.others.mesh.local", "far.svc.mesh.local", "batch.svc.south.mesh.local"} {
		var missing *net.DNSError
		if _, err := resolver.LookupHost(t.Context(), name); !errors.As(err, &missing) || !missing.IsNotFound {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// refusal says whether a connection to a TCP service is taken by the own sidecar and closed unanswered.
func refusal(t *testing.T, from *testmesh.Instance, service string) (seen any, cut bool) {
	c, err := from.Dial(t, service)
	if err == nil {
		c.Close()
		return c.From + " answers", false
	}
	return err, !errors.Is(err, syscall.ECONNREFUSED)
}
