package xds

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/api/envoy"
)

// script plays requests to a session and writes down what it answers.
type script struct {
	t testing.TB
	*Session
}

func newScript(t testing.TB, ward *Ward, to *envoy.Table) script {
	s := script{t, NewSession(ward, Limits{})}
	s.Target(to)
	return s
}

func (s script) ask(t envoy.Type, names ...string) {
	s.t.Helper()
	s.receive(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: t.URL(), ResourceNamesSubscribe: names})
}

func (s script) receive(r *discoveryv3.DeltaDiscoveryRequest) {
	s.t.Helper()
	if err := s.Receive(r); err != nil {
		s.t.Fatal(err)
	}
}

func (s script) ack(nonces ...string) {
	s.t.Helper()
	for _, n := range nonces {
		t, nonce, _ := strings.Cut(n, "#")
		for typ := range envoy.NumTypes {
			if typ.String() == t {
				s.receive(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: typ.URL(), ResponseNonce: nonce})
			}
		}
	}
}

func (s script) nack(t envoy.Type, nonce, text string) {
	s.t.Helper()
	s.receive(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: t.URL(), ResponseNonce: nonce, ErrorDetail: &rpcstatus.Status{Code: 3, Message: text}})
}

// sends requires the responses that come now, as "type#nonce +names -removed".
func (s script) sends(want ...string) {
	s.t.Helper()
	var got []string
	for {
		r, ok := s.Next()
		if !ok {
			break
		}
		var m discoveryv3.DeltaDiscoveryResponse
		if err := proto.Unmarshal(r.Buffers().Materialize(), &m); err != nil {
			s.t.Fatal(err)
		}
		line := fmt.Sprintf("%s#%s", r.Type, m.Nonce)
		for _, x := range m.Resources {
			line += " +" + x.Name
		}
		for _, n := range m.RemovedResources {
			line += " -" + n
		}
		got = append(got, line)
	}
	if d := cmp.Diff(want, got); d != "" {
		s.t.Fatalf("responses (-want +got):\n%s", d)
	}
}

func (s script) acknowledged(want uint64) {
	s.t.Helper()
	if got := s.Acked(); got != want {
		s.t.Errorf("acknowledged %d, want %d", got, want)
	}
}

// chain is one service with everything that leads to it.
func chain(name, content string) []*envoy.Fragment {
	return []*envoy.Fragment{
		cluster(name, content), endpoints(name, content), route(name, content, name), listener(name, content, to(envoy.Route, name)),
	}
}

// settled is a session whose client has taken a table.
func settled(t testing.TB, ward *Ward, sequence uint64, frags ...*envoy.Fragment) script {
	t.Helper()
	s := newScript(t, ward, table(sequence, frags...))
	var names [envoy.NumTypes][]string
	for _, f := range frags {
		names[f.Type] = append(names[f.Type], f.Name)
	}
	for typ := range envoy.NumTypes {
		if typ.Wildcard() || len(names[typ]) > 0 {
			s.ask(typ, func() []string {
				if typ.Wildcard() {
					return nil
				}
				return names[typ]
			}()...)
		}
	}
	for {
		r, ok := s.Next()
		if !ok {
			break
		}
		s.receive(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.Type.URL(), ResponseNonce: r.Nonce})
	}
	s.acknowledged(sequence)
	return s
}

func TestMakeBeforeBreak(t *testing.T) {
	s := settled(t, nil, 1, chain("a", "1")...)
	n := s.nonces
	// A service comes, and the other one goes.
	s.Target(table(2, chain("b", "1")...))
	s.sends(fmt.Sprintf("CDS#%d +b", n+1), fmt.Sprintf("EDS#%d +b", n+2))
	s.ask(envoy.Endpoint, "b")
	s.sends()
	s.acknowledged(1)
	s.ack(fmt.Sprintf("EDS#%d", n+2)) // Envoy has the cluster, whatever it says of it and when
	s.sends(fmt.Sprintf("LDS#%d +b -a", n+3), fmt.Sprintf("RDS#%d +b", n+4))
	s.ack(fmt.Sprintf("CDS#%d", n+1))
	s.ask(envoy.Route, "b")
	s.sends()
	s.ack(fmt.Sprintf("LDS#%d", n+3))
	s.sends()
	s.acknowledged(1)
	s.receive(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: envoy.Route.URL(), ResponseNonce: fmt.Sprint(n + 4), ResourceNamesUnsubscribe: []string{"a"}})
	s.sends(fmt.Sprintf("CDS#%d -a", n+5))
	s.receive(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: envoy.Endpoint.URL(), ResourceNamesUnsubscribe: []string{"a"}})
	s.acknowledged(1)
	s.ack(fmt.Sprintf("CDS#%d", n+5))
	s.sends()
	s.acknowledged(2)
}

// What a client is about to ask for stands behind what makes it ask. It counts as taken when the question comes before the acknowledgement;
// a client that acknowledges first has not looked at it, and is answered, once, when it asks.
func TestForeseenResourcesAreTakenWhenAskedForBeforeTheAnswer(t *testing.T) {
	const eds = "EDS#6"
	for name, c := range map[string]struct {
		client func(s script)
		later  []string // what is sent then
		sent   bool     // and counts as taken
	}{
		"asks and acknowledges": {client: func(s script) { s.ask(envoy.Endpoint, "b"); s.ack(eds) }, sent: true},
		"acknowledges and asks": {client: func(s script) { s.ack(eds); s.ask(envoy.Endpoint, "b") }, later: []string{"EDS#7 +b"}},
		"says both at once": {client: func(s script) {
			s.receive(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: envoy.Endpoint.URL(), ResponseNonce: "6", ResourceNamesSubscribe: []string{"b"}})
		}, later: []string{"EDS#7 +b"}},
		"asks for something else":  {client: func(s script) { s.ask(envoy.Endpoint, "c"); s.ack(eds) }, later: []string{"EDS#7 -c"}},
		"asks, and again later":    {client: func(s script) { s.ask(envoy.Endpoint, "b"); s.ack(eds); s.ask(envoy.Endpoint, "b") }, later: []string{"EDS#7 +b"}, sent: true},
		"asks twice":               {client: func(s script) { s.ask(envoy.Endpoint, "b"); s.ask(envoy.Endpoint, "b"); s.ack(eds) }, later: []string{"EDS#7 +b"}, sent: true},
		"refuses without a word":   {client: func(s script) { s.nack(envoy.Endpoint, "6", "no") }},
		"asks and refuses":         {client: func(s script) { s.ask(envoy.Endpoint, "b"); s.nack(envoy.Endpoint, "6", "no") }, later: []string{"EDS#7 -b"}}, // or the cluster would warm
		"never asks":               {client: func(s script) { s.ack(eds) }},
		"acknowledges the cluster": {client: func(s script) { s.ack("CDS#5") }},
	} {
		t.Run(name, func(t *testing.T) {
			frags := chain("a", "1")
			s := settled(t, nil, 1, frags...)
			s.Target(table(2, append(frags, cluster("b", "1"), endpoints("b", "1"))...))
			s.sends("CDS#5 +b", eds+" +b")
			c.client(s)
			s.sends(c.later...)
			if got := s.channels[envoy.Endpoint].holds("b").held; got != c.sent {
				t.Errorf("held = %v", got)
			}
			s.acknowledged(1)
		})
	}
}

// What one client has taken the next is given in one go, as far as it is new. What serves already changes after the answer only.
func TestNewServiceTakenByAnotherClientIsOneStep(t *testing.T) {
	ward := NewQuarantine().Ward("1")
	old := chain("a", "1")
	clients := []script{settled(t, ward, 1, old...), settled(t, ward, 1, old...), settled(t, ward, 1, old...)}
	edited := []*envoy.Fragment{old[0], old[1], route("a", "2", "a", "b"), old[3]}
	next := table(2, append(edited, chain("b", "1")...)...)
	for i, s := range clients {
		s.Target(next)
		first, second := []string{"CDS#5 +b", "EDS#6 +b"}, []string{"LDS#7 +b", "RDS#8 +a +b"}
		if i > 0 {
			first, second = append(first, "LDS#7 +b", "RDS#8 +b"), []string{"RDS#9 +a"}
		}
		s.sends(first...)
		s.ask(envoy.Endpoint, "b")
		if i == 2 { // it refuses what others have taken: what leads there is taken back, and what served goes on
			s.nack(envoy.Cluster, "5", "no")
			s.ask(envoy.Route, "b")
			s.ack("EDS#6", "LDS#7", "RDS#8")
			s.sends("LDS#9 -b")
			s.ack("LDS#9")
			if h := s.channels[envoy.Route].holds("a"); h.frag != old[2] {
				t.Errorf("the route that served is %+v", h)
			}
			continue
		}
		s.ack("EDS#6", "CDS#5")
		if i > 0 {
			s.ask(envoy.Route, "b")
			s.ack("LDS#7", "RDS#8")
		}
		s.sends(second...)
		if i == 0 {
			s.ask(envoy.Route, "b")
			s.ack("LDS#7", "RDS#8")
		} else {
			s.ack("RDS#9")
		}
		s.sends()
		s.acknowledged(2)
	}
}

func TestClientThatNeverAsksForWhatIsForeseenIsNotWaitedForForEver(t *testing.T) {
	frags := chain("a", "1")
	s := settled(t, nil, 1, frags...)
	s.Target(table(2, append(frags, chain("b", "1")...)...))
	s.sends("CDS#5 +b", "EDS#6 +b")
	s.ack("CDS#5", "EDS#6")
	s.sends()
	s.acknowledged(1)
	if !s.Waiting() {
		t.Fatal("nothing is waited for")
	}
	s.Overdue()
	s.sends("LDS#7 +b", "RDS#8 +b")
	s.ack("LDS#7", "RDS#8")
	s.sends()
	s.Overdue()
	s.sends()
	s.acknowledged(2)
	s.ask(envoy.Endpoint, "b") // after all
	s.sends("EDS#9 +b")
}

// Envoy's first answer to an extension is the only one that counts, so that one which nobody has taken stays alone.
func TestForeseenExtensionsTravelAlone(t *testing.T) {
	x := func(name string) *envoy.Fragment { return fragment(envoy.Extension, name, "1") }
	old := listener("old", "1", to(envoy.Extension, "x"))
	s := settled(t, nil, 1, x("x"), old)
	s.Target(table(2, x("x"), x("y"), x("z"), old, listener("new", "1", to(envoy.Extension, "y"), to(envoy.Extension, "z"))))
	s.sends("LDS#4 +new", "ECDS#5 +y")
	s.ask(envoy.Extension, "y", "z")
	s.ack("LDS#4", "ECDS#5")
	s.sends("ECDS#6 +z")
	s.ack("ECDS#6")
	s.sends()
	s.acknowledged(2)
}

func TestChangedClusterGetsItsEndpointsAgain(t *testing.T) {
	s := settled(t, nil, 1, cluster("a", "1"), endpoints("a", "1"), cluster("b", "1"), endpoints("b", "1"))
	s.Target(table(2, cluster("a", "2"), endpoints("a", "1"), cluster("b", "1"), endpoints("b", "1")))
	n := s.nonces
	s.sends(fmt.Sprintf("CDS#%d +a", n+1), fmt.Sprintf("EDS#%d +a", n+2))
	s.ack(fmt.Sprintf("CDS#%d", n+1))
	s.acknowledged(1)
	s.ack(fmt.Sprintf("EDS#%d", n+2))
	s.sends()
	s.acknowledged(2)
}

func TestTableThatDiffersForOthersIsAcknowledgedWithoutAMessage(t *testing.T) {
	frags := chain("a", "1")
	s := settled(t, nil, 1, frags...)
	s.Target(table(7, frags...))
	s.sends()
	s.acknowledged(7)
}

func TestOneResponseOfATypeIsInFlightAndTheNextIsTheNewest(t *testing.T) {
	s := settled(t, nil, 1, cluster("a", "1"), endpoints("a", "1"))
	n := s.nonces
	for i := range uint64(5) {
		s.Target(table(2+i, cluster("a", "1"), endpoints("a", fmt.Sprint("2", i))))
		if i == 0 {
			s.sends(fmt.Sprintf("EDS#%d +a", n+1))
		} else {
			s.sends()
		}
	}
	s.acknowledged(1)
	s.ack("EDS#1") // an answer to something else
	s.sends()
	s.ack(fmt.Sprintf("EDS#%d", n+1))
	s.sends(fmt.Sprintf("EDS#%d +a", n+2))
	s.acknowledged(2) // what was in flight was up to the first of them
	s.ack(fmt.Sprintf("EDS#%d", n+2))
	s.sends()
	s.acknowledged(6)
}

func TestResponsesAreCut(t *testing.T) {
	var frags []*envoy.Fragment
	for i := range 10 {
		frags = append(frags, cluster(fmt.Sprintf("c%d", i), strings.Repeat("x", 400)))
	}
	s := script{t, NewSession(nil, Limits{Response: 2000})}
	s.Target(table(1, frags...))
	s.ask(envoy.Cluster)
	s.sends("CDS#1 +c0 +c1 +c2")
	s.ack("CDS#1")
	s.sends("CDS#2 +c3 +c4 +c5")
	s.acknowledged(0)
	s.ack("CDS#2")
	s.sends("CDS#3 +c6 +c7 +c8")
	s.ack("CDS#3")
	s.sends("CDS#4 +c9")
}

func TestNameThatDoesNotExistIsAnsweredAsRemoved(t *testing.T) {
	s := newScript(t, nil, table(1, endpoints("a", "1")))
	s.ask(envoy.Endpoint, "a", "b")
	s.sends("EDS#1 +a -b")
	s.ack("EDS#1")
	s.ask(envoy.Endpoint, "c")
	s.sends("EDS#2 -c")
	s.ack("EDS#2")
	s.Target(table(2, endpoints("a", "1"), endpoints("c", "1")))
	s.sends("EDS#3 +c")
}

func TestCulpritIsFoundByItsNameOrByHalving(t *testing.T) {
	for _, c := range []struct {
		what  string
		text  string
		typ   envoy.Type
		nacks int
	}{
		{"named", "Error adding/updating cluster(s) n3: no", envoy.Cluster, 2},
		{"not named", "malformed", envoy.Cluster, 4},
	} {
		t.Run(c.what, func(t *testing.T) {
			var frags []*envoy.Fragment
			for i := range 8 {
				frags = append(frags, fragment(c.typ, fmt.Sprintf("n%d", i), "1"))
			}
			ward := NewQuarantine().Ward("1")
			s := newScript(t, ward, table(1, frags...))
			s.ask(c.typ)
			var taken []string
			nacks := 0
			for range 20 {
				r, ok := s.Next()
				if !ok {
					break
				}
				var names []string
				for f := range r.Fragments {
					names = append(names, f.Name)
				}
				if slices.Contains(names, "n3") {
					nacks++
					s.nack(c.typ, r.Nonce, c.text)
					continue
				}
				taken = append(taken, names...)
				s.ack(c.typ.String() + "#" + r.Nonce)
			}
			slices.Sort(taken)
			if d := cmp.Diff([]string{"n0", "n1", "n2", "n4", "n5", "n6", "n7"}, taken); d != "" {
				t.Error(d)
			}
			if nacks != c.nacks {
				t.Errorf("%d refusals, want %d", nacks, c.nacks)
			}
			if rs := s.Rejections(); len(rs) != 1 || rs[0].Name != "n3" || rs[0].Text != c.text {
				t.Errorf("rejections %v", rs)
			}
			// Another proxy of the same Envoy version never sees it; one of another version finds out for itself.
			other := newScript(t, ward, table(1, frags...))
			other.ask(c.typ)
			other.sends(c.typ.String() + "#1 +n0 +n1 +n2 +n4 +n5 +n6 +n7")
		})
	}
}

func TestRefusalOfWhatOthersHaveTakenStaysWithOneProxy(t *testing.T) {
	ward := NewQuarantine().Ward("1")
	shared := cluster("a", "1")
	settled(t, ward, 1, shared)
	liar := newScript(t, ward, table(1, shared))
	liar.ask(envoy.Cluster)
	liar.sends("CDS#1 +a")
	liar.nack(envoy.Cluster, "1", "I do not like it")
	liar.sends()
	if len(liar.Rejections()) != 1 {
		t.Error("the refusal is not noted")
	}
	other := newScript(t, ward, table(1, shared))
	other.ask(envoy.Cluster)
	other.sends("CDS#1 +a")
}

func TestWhatOneRefusesFirstIsReleasedWhenAnotherTakesIt(t *testing.T) {
	q := NewQuarantine()
	ward := q.Ward("1")
	shared := cluster("a", "1")
	good, liar := newScript(t, ward, table(1, shared)), newScript(t, ward, table(1, shared))
	for _, s := range []script{good, liar} {
		s.ask(envoy.Cluster)
		s.sends("CDS#1 +a")
	}
	liar.nack(envoy.Cluster, "1", "no")
	waiting := newScript(t, ward, table(1, shared))
	waiting.ask(envoy.Cluster)
	waiting.sends("CDS#1") // nobody has taken it so far
	waiting.ack("CDS#1")
	good.ack("CDS#1")
	select {
	case <-q.Released():
	default:
		t.Error("the release is not announced")
	}
	waiting.sends("CDS#2 +a")
}

func TestAddressInUseIsTriedAgainAndTellsOthersNothing(t *testing.T) {
	ward := NewQuarantine().Ward("1")
	l := listener("l", "1")
	s := newScript(t, ward, table(1, l))
	s.ask(envoy.Cluster)
	s.ask(envoy.Listener)
	s.sends("CDS#1", "LDS#2 +l")
	s.ack("CDS#1")
	s.nack(envoy.Listener, "2", "Error adding/updating listener(s) l: cannot bind '127.0.0.1:80': Address already in use\n")
	s.sends()
	if !s.Faulty() {
		t.Fatal("it is not going to be tried again")
	}
	s.Retry()
	s.sends("LDS#3 +l")
	s.ack("LDS#3")
	s.sends()
	s.acknowledged(1)
	other := newScript(t, ward, table(1, l))
	other.ask(envoy.Cluster)
	other.ask(envoy.Listener)
	other.sends("CDS#1", "LDS#2 +l")
}

func TestExtensionsNobodyHasTakenTravelAlone(t *testing.T) {
	ward := NewQuarantine().Ward("1")
	x, y := fragment(envoy.Extension, "x", "1"), fragment(envoy.Extension, "y", "1")
	l := listener("l", "1", to(envoy.Extension, "x"), to(envoy.Extension, "y"))
	s := newScript(t, ward, table(1, x, y, l))
	s.ask(envoy.Cluster)
	s.ask(envoy.Listener)
	s.ask(envoy.Extension, "x", "y")
	s.sends("CDS#1", "ECDS#2 +x", "LDS#3 +l")
	s.ack("CDS#1", "ECDS#2", "LDS#3")
	s.sends("ECDS#4 +y")
	s.ack("ECDS#4")
	next := newScript(t, ward, table(1, x, y, l))
	next.ask(envoy.Cluster)
	next.ask(envoy.Extension, "x", "y")
	next.sends("CDS#1", "ECDS#2 +x +y")
}

func TestEnvoyThatSaysNothingOfClustersWarms(t *testing.T) {
	frags := chain("a", "1")
	back := func(s script, typ envoy.Type, name string) {
		req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: typ.URL(), InitialResourceVersions: map[string]string{}}
		for _, f := range frags {
			if f.Type == typ {
				req.InitialResourceVersions[name] = f.Version
			}
		}
		if !typ.Wildcard() {
			req.ResourceNamesSubscribe = []string{name}
		}
		s.receive(req)
	}
	s := newScript(t, nil, table(1, frags...))
	back(s, envoy.Endpoint, "a")
	s.sends()
	back(s, envoy.Listener, "a")
	s.sends("EDS#1 +a", "LDS#2")
	back(s, envoy.Route, "a")
	s.ack("EDS#1", "LDS#2")
	back(s, envoy.Cluster, "a")
	s.sends("CDS#3")
	s.ack("CDS#3")
	s.sends()
	s.acknowledged(1)
}

func TestNamesInRefusals(t *testing.T) {
	for _, c := range []struct {
		text string
		want string
	}{
		{"Error adding/updating cluster(s) a: eds_cluster_config set in a non-EDS cluster, b: eds_cluster_config set", "a b"},
		{"Error adding/updating listener(s) a: error adding listener '1.2.3.4:80': no filter chains specified\nb: cannot bind b\n", "a b"},
		{"goo.gle/debugonly  \nname: \"a\"\nref: \"b\"\n: Proto constraint validation failed", "a"},
		{"goo.gle/debugproto \ncluster_name: \"b\"\n: Proto constraint", "b"},
		{"duplicate name a found among added/updated resources", "a"},
		{"Unexpected RDS configuration (expecting a): b", "a"},
		{"Unexpected EDS cluster (expecting b): a", "b"},
		{"malformed IP address: a. Consider setting resolver_name", ""},
		{"missing ): (", ""},
		{"", ""},
	} {
		var got []string
		for _, name := range []string{"a", "b", "c", ""} {
			if blames(c.text, name) {
				got = append(got, name)
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%q names %q, want %q", c.text, got, c.want)
		}
	}
}

func FuzzReceive(f *testing.F) {
	seed := func(reqs ...*discoveryv3.DeltaDiscoveryRequest) {
		var b []byte
		for _, r := range reqs {
			m, err := proto.Marshal(r)
			if err != nil {
				f.Fatal(err)
			}
			b = append(append(b, byte(len(m))), m...)
		}
		f.Add(b)
	}
	cds, eds := envoy.Cluster.URL(), envoy.Endpoint.URL()
	seed(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: cds}, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: cds, ResponseNonce: "1"})
	seed(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: cds, ResourceNamesSubscribe: []string{"*", "a"}, InitialResourceVersions: map[string]string{"a": "1"}},
		&discoveryv3.DeltaDiscoveryRequest{TypeUrl: eds, ResourceNamesSubscribe: []string{"a", ""}},
		&discoveryv3.DeltaDiscoveryRequest{TypeUrl: cds, ResponseNonce: "1", ErrorDetail: &rpcstatus.Status{Message: "Error adding/updating cluster(s) a: no"}},
		&discoveryv3.DeltaDiscoveryRequest{TypeUrl: cds, ResourceNamesUnsubscribe: []string{"*", "a"}})
	seed(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: "type.googleapis.com/unknown"})
	tables := []*envoy.Table{
		table(1, slices.Concat(chain("a", "1"), chain("b", "1"))...),
		table(2, slices.Concat(chain("a", "2"), chain("c", "1"))...),
		table(3),
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		s := NewSession(nil, Limits{Names: 50, Bytes: 500, Response: 200})
		for i := 0; len(input) > 0; i++ {
			n := min(int(input[0]), len(input)-1)
			var req discoveryv3.DeltaDiscoveryRequest
			if err := proto.Unmarshal(input[1:1+n], &req); err == nil {
				if s.Receive(&req) != nil {
					return
				}
			}
			input = input[1+n:]
			s.Target(&envoy.Table{Shared: tables[i%len(tables)].Shared, Sequence: uint64(i + 1)})
			for responses := 0; ; responses++ {
				r, ok := s.Next()
				if !ok {
					break
				}
				if responses >= int(envoy.NumTypes) {
					t.Fatal("more than one response of a type is in flight")
				}
				var m discoveryv3.DeltaDiscoveryResponse
				if err := proto.Unmarshal(r.Buffers().Materialize(), &m); err != nil || m.TypeUrl != r.Type.URL() || m.Nonce != r.Nonce {
					t.Fatalf("response does not decode: %v", err)
				}
			}
			if i%5 == 4 {
				s.Overdue()
			}
			if s.Acked() > s.target.Sequence {
				t.Fatalf("acknowledged %d of %d", s.Acked(), s.target.Sequence)
			}
			s.Rejections()
			s.Debt()
		}
	})
}
