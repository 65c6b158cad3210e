package xds

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/causeway-mesh/causeway/api/envoy"
)

// fragment makes a fragment whose body is only a text; the session never looks inside.
func fragment(t envoy.Type, name, content string, refs ...envoy.Ref) *envoy.Fragment {
	f, err := envoy.NewFragment(t, name, wrapperspb.String(fmt.Sprintf("%s %v %s", name, refs, content)))
	if err != nil {
		panic(err)
	}
	f.Refs = refs
	return f
}

func to(t envoy.Type, name string) envoy.Ref { return envoy.Ref{Type: t, Name: name} }

func cluster(name, content string) *envoy.Fragment {
	return fragment(envoy.Cluster, name, content, to(envoy.Endpoint, name))
}

func endpoints(name, content string) *envoy.Fragment {
	return fragment(envoy.Endpoint, name, content)
}

func route(name, content string, clusters ...string) *envoy.Fragment {
	var refs []envoy.Ref
	for _, c := range clusters {
		refs = append(refs, to(envoy.Cluster, c))
	}
	return fragment(envoy.Route, name, content, refs...)
}

func listener(name, content string, refs ...envoy.Ref) *envoy.Fragment {
	return fragment(envoy.Listener, name, content, refs...)
}

func table(sequence uint64, frags ...*envoy.Fragment) *envoy.Table {
	return &envoy.Table{Shared: envoy.NewPart(frags), Sequence: sequence}
}

// client is a model of Envoy: what it holds, what warms, and what it says.
type client struct {
	t       testing.TB
	session *Session
	bad     func(*envoy.Fragment) bool // what it refuses
	silent  bool                       // its NACKs name nothing
	patient bool                       // the server gives up waiting after a while
	late    bool                       // it acknowledges before it subscribes
	prompt  bool                       // it answers for clusters while they warm
	lazy    bool                       // it asks for what it needs some time after it has learned of it
	behind  bool                       // it is about to
	kept    []*discoveryv3.DeltaDiscoveryRequest

	known    map[string]*envoy.Fragment // by type and version: stands for the content of resources
	has      [envoy.NumTypes]map[string]string
	said     [envoy.NumTypes]map[string]string // versions it would report on reconnect
	wants    [envoy.NumTypes]map[string]bool
	warming  map[string]bool         // clusters without endpoints since they changed
	active   map[string]bool         // clusters that have been ready
	empty    map[string]bool         // clusters that came out of warming without endpoints
	poisoned map[string]string       // extensions of which it remembers a refused version as the one it has
	served   map[string]bool         // listeners that have served since they were last removed
	tables   map[string]*envoy.Table // by what responses call them
	touched  map[string]bool         // clusters that were sent after their endpoints
	owed     map[string]bool         // assignments that the last stream may not have delivered
	again    map[string]int          // type and name of resources it has asked for again
	inbox    []*discoveryv3.DeltaDiscoveryResponse
	outbox   []*discoveryv3.DeltaDiscoveryRequest
	opened   [envoy.NumTypes]bool
	received int // resources
	nacked   int
	timeouts int
	unknown  bool // a server that knew nothing of it has taken over
	overdue  bool // what is not ready may be sent from now on
	log      []string
}

func newClient(t testing.TB, ward *Ward) *client {
	c := &client{
		t: t, known: map[string]*envoy.Fragment{}, warming: map[string]bool{}, active: map[string]bool{}, touched: map[string]bool{}, again: map[string]int{},
		empty: map[string]bool{}, poisoned: map[string]string{}, served: map[string]bool{}, tables: map[string]*envoy.Table{},
		bad: func(*envoy.Fragment) bool { return false },
	}
	for i := range c.has {
		c.has[i], c.said[i], c.wants[i] = map[string]string{}, map[string]string{}, map[string]bool{}
	}
	c.connect(ward, false)
	return c
}

func (d *Debt) unsureOf(t envoy.Type) map[string]holding {
	if d == nil {
		return nil
	}
	return d.unsure[t]
}

// connect starts a new stream, as Envoy does: all types it has subscriptions for, with the versions it holds.
func (c *client) connect(ward *Ward, forgotten bool) {
	var debt *Debt
	if c.session != nil && !forgotten {
		debt = c.session.Debt()
	}
	c.unknown = c.unknown || forgotten
	c.session = NewSession(ward, Limits{})
	c.session.Inherit(debt)
	c.owed = map[string]bool{}
	if debt != nil {
		for _, name := range debt.endpoints {
			c.owed[name] = true
		}
	}
	again := map[string]int{}
	for t := range envoy.NumTypes {
		for name := range debt.unsureOf(t) {
			again[t.String()+name] = 1 // a refusal may have been lost with the stream
		}
	}
	c.inbox, c.outbox, c.kept, c.opened = nil, nil, nil, [envoy.NumTypes]bool{}
	c.again = again
	c.note("connects holding %v", c.said)
	if c.calm(); !c.opened[envoy.Cluster] { // nobody says which clusters warm
		for name := range c.wants[envoy.Endpoint] {
			c.again[envoy.Endpoint.String()+name] = 2
		}
	}
	c.ask(envoy.Endpoint, nil, nil)
	c.ask(envoy.Listener, nil, nil)
	c.ask(envoy.Route, nil, nil)
	c.ask(envoy.Extension, nil, nil)
}

func (c *client) note(format string, args ...any) {
	c.log = append(c.log, fmt.Sprintf(format, args...))
}

func (c *client) fail(format string, args ...any) {
	c.t.Helper()
	if c.session.target != nil {
		c.note("waiting %v; rejections %v", c.session.Waiting(), c.session.Rejections())
		for i := range c.session.channels {
			ch := &c.session.channels[i]
			c.note("%s: await %v over %v resend %v groups %v plan %+v flight %v", ch.typ, ch.await, ch.over, ch.resend, ch.groups, ch.plan, ch.flight)
		}
	}
	c.t.Fatalf("%s\n%s", fmt.Sprintf(format, args...), strings.Join(c.log, "\n"))
}

// ask queues a change of subscriptions; the first of a type carries everything.
func (c *client) ask(t envoy.Type, add, drop []string) {
	if !c.opened[t] {
		all := slices.Sorted(maps.Keys(c.wants[t]))
		if len(all) == 0 && !t.Wildcard() {
			return
		}
		c.opened[t] = true
		c.outbox = append(c.outbox, &discoveryv3.DeltaDiscoveryRequest{
			TypeUrl: t.URL(), ResourceNamesSubscribe: all, InitialResourceVersions: maps.Clone(c.said[t]),
		})
		return
	}
	if len(add)+len(drop) > 0 {
		c.outbox = append(c.outbox, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: t.URL(), ResourceNamesSubscribe: add, ResourceNamesUnsubscribe: drop})
	}
}

// target gives the session a table, and the model the meaning of its versions.
func (c *client) target(t *envoy.Table) {
	c.learn(t)
	c.tables[strconv.FormatUint(t.Sequence, 10)] = t
	c.note("   table %d:", t.Sequence)
	for typ := range envoy.NumTypes {
		for _, p := range []*envoy.Part{t.Shared, t.Own} {
			var list []string
			for _, f := range p.Of(typ) {
				list = append(list, f.Name+"@"+f.Version[:4])
			}
			c.note("      %s %v", typ, list)
		}
	}
	c.session.Target(t)
}

func (c *client) learn(t *envoy.Table) {
	for typ := range envoy.NumTypes {
		for _, p := range []*envoy.Part{t.Shared, t.Own} {
			for _, f := range p.Of(typ) {
				c.known[typ.String()+f.Version] = f
			}
		}
	}
}

// step moves one message; it reports false when there is none.
func (c *client) step(pick func(n int) int) bool {
	var can []func()
	if len(c.outbox) > 0 {
		can = append(can, func() {
			r := c.outbox[0]
			c.outbox = c.outbox[1:]
			c.note("-> %s +%v -%v nonce=%s %s", kind(r.TypeUrl), r.ResourceNamesSubscribe, r.ResourceNamesUnsubscribe, r.ResponseNonce, r.ErrorDetail.GetMessage())
			if err := c.session.Receive(r); err != nil {
				c.fail("receive: %v", err)
			}
		})
	}
	if len(c.inbox) > 0 {
		can = append(can, func() {
			r := c.inbox[0]
			c.inbox = c.inbox[1:]
			c.apply(r)
		})
	}
	if c.behind {
		can = append(can, func() { c.follow() })
	}
	can = append(can, func() { c.pull() })
	if len(can) == 1 {
		return c.pull()
	}
	can[pick(len(can))]()
	return true
}

// pull takes the next response from the session.
func (c *client) pull() bool {
	r, ok := c.session.Next()
	if !ok {
		return false
	}
	c.note("   %s nonce=%s of table %d, complete %v", r.Type, r.Nonce, r.Version, r.flight.complete)
	raw := r.Buffers().Materialize()
	var m discoveryv3.DeltaDiscoveryResponse
	if err := proto.Unmarshal(raw, &m); err != nil {
		c.fail("response does not decode: %v", err)
	}
	c.inbox = append(c.inbox, &m)
	return true
}

func kind(url string) envoy.Type { t, _ := envoy.TypeOf(url); return t }

func (c *client) apply(r *discoveryv3.DeltaDiscoveryResponse) {
	t := kind(r.TypeUrl)
	var listed []string
	for _, x := range r.Resources {
		listed = append(listed, x.Name+"@"+x.Version[:4])
	}
	c.note("<- %s %v -%v nonce=%s", t, listed, r.RemovedResources, r.Nonce)
	var refused []string
	for _, name := range r.RemovedResources {
		if t == envoy.Listener && c.tables[r.SystemVersionInfo].Get(t, name) == nil {
			delete(c.served, name)
		}
		c.remove(t, name)
	}
	for _, x := range r.Resources {
		c.received++
		f := c.known[t.String()+x.Version]
		if f == nil || f.Name != x.Name {
			c.fail("%s %s: version %s is not of any table", t, x.Name, x.Version)
		}
		c.useful(t, x.Name, x.Version)
		if t == envoy.Cluster {
			c.touched[x.Name] = true
		}
		if !t.Wildcard() && !c.wants[t][x.Name] {
			continue // it was dropped while this was on its way
		}
		if t == envoy.Extension && c.poisoned[x.Name] == x.Version {
			continue // what it refused it takes for what it has
		}
		if c.bad(f) || t == envoy.Listener && c.has[t][x.Name] != x.Version && c.poisons(f) {
			refused = append(refused, x.Name)
			if t == envoy.Extension {
				c.poisoned[x.Name] = x.Version
			}
			if !t.Wildcard() {
				break // the exception of one watch ends the update of all
			}
			continue
		}
		c.accept(f)
	}
	answer := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce}
	for _, x := range r.Resources {
		if len(refused) > 0 { // what Envoy reports stays at what it has acknowledged, whatever it runs
			c.again[t.String()+x.Name] = 2
			if t == envoy.Endpoint {
				c.giveUp(x.Name)
			}
		} else if t.Wildcard() || c.wants[t][x.Name] {
			c.said[t][x.Name] = x.Version
		}
	}
	if len(refused) > 0 {
		c.nacked++
		text := "rejected"
		if !c.silent {
			text = "Error adding/updating " + t.String() + "(s) " + strings.Join(refused, ": no, ") + ": no"
		}
		answer.ErrorDetail = &rpcstatus.Status{Code: 3, Message: text}
	}
	if c.late || c.lazy {
		c.answer(t, answer)
	}
	c.behind = true
	if !c.lazy {
		c.follow()
	}
	if !c.late && !c.lazy {
		c.answer(t, answer)
	}
	c.mustGoOn()
}

// confirmed says that the zone knows what the client has of a resource.
func (c *client) confirmed(t envoy.Type, name string) bool {
	h := c.session.channels[t].holds(name)
	return h.held && h.sure && h.version == c.has[t][name]
}

// poisons says that a listener uses an extension of which Envoy remembers what it refused.
func (c *client) poisons(f *envoy.Fragment) bool {
	return slices.ContainsFunc(f.Refs, func(ref envoy.Ref) bool { return ref.Type == envoy.Extension && c.poisoned[ref.Name] != "" })
}

// giveUp ends the warming of a cluster whose endpoints can't be had: it takes the place of the former, without any.
func (c *client) giveUp(cluster string) {
	if c.warming[cluster] {
		delete(c.warming, cluster)
		c.empty[cluster] = true
	}
}

// serves says that requests to a listener are answered: all it leads to are clusters that have endpoints.
func (c *client) serves(listener string) bool {
	if c.has[envoy.Listener][listener] == "" {
		return false
	}
	refs := slices.Clone(c.content(envoy.Listener, listener).Refs)
	for _, ref := range refs {
		if ref.Type != envoy.Cluster && c.has[ref.Type][ref.Name] != "" {
			refs = append(refs, c.content(ref.Type, ref.Name).Refs...)
		}
	}
	return !slices.ContainsFunc(refs, func(ref envoy.Ref) bool {
		return ref.Type == envoy.Cluster && (!c.active[ref.Name] || c.empty[ref.Name])
	})
}

// mustGoOn fails when a listener that has served, and that no table has removed, serves no longer. Envoy always names the clusters
// and listeners that it refuses; with a client that does not, it can't be known which others it has.
func (c *client) mustGoOn() {
	if c.silent && c.nacked > 0 {
		return
	}
	for name := range c.has[envoy.Listener] {
		known := c.confirmed(envoy.Listener, name)
		for _, ref := range c.content(envoy.Listener, name).Refs {
			if c.has[ref.Type][ref.Name] == "" {
				delete(c.served, name) // it waits for what is new to it, which may turn out to be bad
			}
			known = known && c.confirmed(ref.Type, ref.Name)
		}
		if known && c.serves(name) {
			c.served[name] = true
		}
	}
	for name := range c.served {
		if !c.overdue && !c.serves(name) {
			c.fail("listener %s has served and serves no longer", name)
		}
	}
}

// answer sends a verdict. Once it is live, Envoy keeps those about clusters back until none of them warms.
func (c *client) answer(t envoy.Type, a *discoveryv3.DeltaDiscoveryRequest) {
	if t == envoy.Cluster && !c.prompt {
		c.kept = append(c.kept, a)
	} else {
		c.outbox = append(c.outbox, a)
	}
	c.calm()
}

// calm says what is to be said about clusters when none of them warms; while one does, Envoy is silent even on a new stream.
func (c *client) calm() {
	if len(c.warming) > 0 && !c.prompt {
		return
	}
	if !c.opened[envoy.Cluster] {
		c.ask(envoy.Cluster, nil, nil)
	}
	c.outbox = append(c.outbox, c.kept...)
	c.kept = nil
}

// useful fails when the client gets what it holds, for no reason.
func (c *client) useful(t envoy.Type, name, version string) {
	if c.said[t][name] != version {
		return
	}
	if key := t.String() + name; c.again[key] > 0 {
		c.again[key]--
		return
	}
	if t == envoy.Endpoint && (c.touched[name] || c.owed[name]) {
		delete(c.touched, name)
		delete(c.owed, name)
		return
	}
	c.fail("%s %s@%s is sent again for no reason", t, name, version[:4])
}

func (c *client) accept(f *envoy.Fragment) {
	old := c.has[f.Type][f.Name]
	c.has[f.Type][f.Name] = f.Version
	switch f.Type {
	case envoy.Cluster:
		if old != f.Version {
			c.warming[f.Name] = true
		}
	case envoy.Endpoint:
		if _, ok := c.has[envoy.Cluster][f.Name]; ok {
			delete(c.warming, f.Name)
			delete(c.empty, f.Name)
			c.active[f.Name] = true
		}
	case envoy.Extension:
		delete(c.poisoned, f.Name)
	case envoy.Route, envoy.Listener:
		if old != "" || !c.lazy { // nothing is lost with what is new, when a client does not do as Envoy
			c.mustServe(f)
		}
	}
}

// mustServe fails when something leads to a cluster that cannot take requests.
func (c *client) mustServe(f *envoy.Fragment) {
	for _, ref := range f.Refs {
		if ref.Type == envoy.Cluster && (!c.active[ref.Name] || c.empty[ref.Name]) && !c.overdue {
			c.fail("%s %s leads to cluster %s, which is missing or was never ready", f.Type, f.Name, ref.Name)
		}
	}
}

func (c *client) remove(t envoy.Type, name string) {
	delete(c.said[t], name)
	had := c.has[t][name] != ""
	if t != envoy.Endpoint && t != envoy.Route { // of these, what there was stays in force
		delete(c.has[t], name)
	}
	switch t {
	case envoy.Endpoint:
		if c.unknown { // of a cluster that warms and is about to go, nobody knows what it had
			delete(c.warming, name)
		}
		c.giveUp(name)
	case envoy.Cluster:
		delete(c.warming, name)
		delete(c.active, name)
		delete(c.empty, name)
		for _, user := range []envoy.Type{envoy.Listener, envoy.Route} {
			for n := range c.has[user] {
				if slices.Contains(c.content(user, n).Refs, to(t, name)) {
					c.fail("cluster %s is removed under %s %s", name, user, n)
				}
			}
		}
	case envoy.Route, envoy.Extension:
		if t == envoy.Extension {
			delete(c.poisoned, name)
		}
		for n := range c.has[envoy.Listener] {
			if had && slices.Contains(c.content(envoy.Listener, n).Refs, to(t, name)) {
				c.fail("%s %s is removed under listener %s", t, name, n)
			}
		}
	}
}

// leadsTo says that a route or listener uses a cluster.
func (c *client) leadsTo(cluster string) bool {
	for _, t := range []envoy.Type{envoy.Listener, envoy.Route} {
		for n := range c.has[t] {
			if slices.Contains(c.content(t, n).Refs, to(envoy.Cluster, cluster)) {
				return true
			}
		}
	}
	return false
}

func (c *client) content(t envoy.Type, name string) *envoy.Fragment {
	return c.known[t.String()+c.has[t][name]]
}

// follow subscribes to what the clusters and listeners at hand refer to, and to nothing else.
func (c *client) follow() {
	c.behind = false
	var want [envoy.NumTypes]map[string]bool
	for i := range want {
		want[i] = map[string]bool{}
	}
	for _, t := range []envoy.Type{envoy.Cluster, envoy.Listener} {
		for name := range c.has[t] {
			for _, ref := range c.content(t, name).Refs {
				if !ref.Type.Wildcard() {
					want[ref.Type][ref.Name] = true
				}
			}
		}
	}
	for _, t := range []envoy.Type{envoy.Endpoint, envoy.Route, envoy.Extension} {
		var add, gone []string
		for _, name := range slices.Sorted(maps.Keys(want[t])) {
			if !c.wants[t][name] {
				add = append(add, name)
				c.again[t.String()+name] = 2 // an answer to an earlier request may be on its way
			}
		}
		for _, name := range slices.Sorted(maps.Keys(c.wants[t])) {
			if !want[t][name] {
				gone = append(gone, name)
				delete(c.has[t], name)
				delete(c.said[t], name)
				if t == envoy.Extension {
					delete(c.poisoned, name)
				}
			}
		}
		c.wants[t] = want[t]
		c.ask(t, add, gone)
	}
}

// run moves messages until all is quiet.
func (c *client) run(pick func(int) int) {
	c.t.Helper()
	for range 20_000 {
		if c.step(pick) {
			continue
		}
		if len(c.kept) == 0 && c.opened[envoy.Cluster] {
			if !c.session.Waiting() || !c.patient {
				return
			}
			c.overdue = true
			c.note("overdue") // what the server does after a while: refusals can leave it waiting for what never comes
			c.session.Overdue()
			if !c.step(pick) {
				return
			}
			continue
		}
		// Envoy's initial fetch timeout: it goes on with the endpoints it knew.
		c.timeouts++
		c.note("timeout: %v", c.warming)
		clear(c.warming)
		c.calm()
	}
	c.fail("it does not come to rest")
}

// converged checks that the client holds the target except what is rejected, and never half a chain.
func (c *client) converged(t *envoy.Table) {
	c.t.Helper()
	withheld := map[envoy.Ref]bool{}
	for _, r := range c.session.Rejections() {
		withheld[to(r.Type, r.Name)] = true
		if r.Text == "" {
			c.fail("%s %s is withheld without a reason", r.Type, r.Name)
		}
		culprit := to(r.Type, r.Name)
		if r.Needs != nil {
			culprit = *r.Needs
		}
		if f := t.Get(culprit.Type, culprit.Name); f == nil || !c.bad(f) {
			c.fail("%s %s is withheld because of %v, which is good", r.Type, r.Name, culprit)
		}
	}
	for typ := range envoy.NumTypes {
		for _, p := range []*envoy.Part{t.Shared, t.Own} {
			for _, f := range p.Of(typ) {
				if c.bad(f) && c.has[typ][f.Name] == f.Version {
					c.fail("%s %s: the client holds what it refuses", typ, f.Name)
				}
				if withheld[to(typ, f.Name)] || !typ.Wildcard() && !c.wants[typ][f.Name] {
					continue
				}
				if c.has[typ][f.Name] != f.Version {
					c.fail("%s %s@%s is missing; withheld %v", typ, f.Name, f.Version[:4], withheld)
				}
			}
		}
		for name := range c.has[typ] {
			if typ != envoy.Endpoint && typ != envoy.Route && t.Get(typ, name) == nil && len(withheld) == 0 {
				c.fail("%s %s should be gone", typ, name)
			}
		}
	}
	for _, typ := range []envoy.Type{envoy.Listener, envoy.Route, envoy.Cluster} {
		for name := range c.has[typ] {
			if h := c.session.channels[typ].holds(name); len(withheld) > 0 && !h.sure {
				continue // what the client runs of it is not known, and it is better left alone
			}
			for _, ref := range c.content(typ, name).Refs {
				if ref.Type == envoy.Endpoint && !c.leadsTo(name) {
					continue // nothing uses it
				}
				if _, ok := c.has[ref.Type][ref.Name]; !ok {
					c.fail("%s %s needs %s %s, which the client does not have", typ, name, ref.Type, ref.Name)
				}
			}
		}
	}
	if c.timeouts > 0 && !c.patient {
		c.fail("Envoy ran into %d timeouts", c.timeouts)
	}
	for name := range c.warming {
		if !withheld[to(envoy.Endpoint, name)] && (len(withheld) == 0 || c.leadsTo(name)) {
			c.fail("cluster %s warms for ever", name)
		}
	}
	if c.session.Waiting() {
		c.fail("something still waits")
	}
	if c.session.Acked() != t.Sequence || c.session.Sent() != t.Sequence {
		c.fail("acknowledged %d, sent %d, want %d", c.session.Acked(), c.session.Sent(), t.Sequence)
	}
}
