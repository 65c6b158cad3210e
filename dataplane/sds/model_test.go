package sds

import (
	"crypto/ecdsa"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
)

// modelEnvoy is Envoy as it was seen to behave: it keeps what it refuses, judges both secrets together, acknowledges the bytes
// that it keeps without looking, and says on reconnect what it acknowledged last.
type modelEnvoy struct {
	kept, acked map[string]string // xDS versions
	force       map[string]string // the last pair that was good
	bad         map[string]bool   // versions that cannot be used
	nacks       map[string]int    // by secret
}

func (e *modelEnvoy) take(r *discoveryv3.DeltaDiscoveryResponse) *discoveryv3.DeltaDiscoveryRequest {
	answer := &discoveryv3.DeltaDiscoveryRequest{ResponseNonce: r.GetNonce()}
	name, xds := r.GetResources()[0].GetName(), r.GetResources()[0].GetVersion()
	if e.kept[name] != xds {
		e.kept[name] = xds
		if len(e.kept) == 2 {
			for _, v := range e.kept {
				if e.bad[v] {
					e.nacks[name]++
					answer.ErrorDetail = &rpcstatus.Status{Message: "bad " + v}
					return answer
				}
			}
			e.force = map[string]string{"identity": e.kept["identity"], "trust": e.kept["trust"]}
		}
	}
	e.acked[name] = xds
	return answer
}

// wire is a stream with what is under way on it.
type wire struct {
	*stream
	name string
	up   []*discoveryv3.DeltaDiscoveryRequest
	down []*discoveryv3.DeltaDiscoveryResponse
}

type model struct {
	t     *testing.T
	s     *Server
	r     *rand.Rand
	envoy *modelEnvoy
	wires map[string]*wire
	gone  []*stream // whose end the server has not noticed yet
	n     int
	trail []string
	made  material
}

// material is what secrets are made of: keys take their time.
type material struct {
	keys  []*ecdsa.PrivateKey
	certs [][][]byte
	pems  []Bundle
}

func newMaterial(t *testing.T) (out material) {
	for i := range 4 {
		k, c := certificate(t, int64(i+1))
		out.keys, out.certs, out.pems = append(out.keys, k), append(out.certs, c), append(out.pems, bundle(t, "d"))
	}
	return out
}

func (m *model) step(format string, args ...any) {
	m.trail = append(m.trail, fmt.Sprintf(format, args...))
}

func (m *model) connect(name string) {
	w := &wire{stream: newStream(), name: name}
	m.s.open(w.stream)
	in := &discoveryv3.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{name}}
	if v := m.envoy.acked[name]; v != "" {
		in.InitialResourceVersions = map[string]string{name: v}
	}
	w.up = append(w.up, in)
	m.wires[name] = w
}

func (m *model) cut(name string) {
	m.step("cut %s", name)
	m.gone = append(m.gone, m.wires[name].stream)
	m.connect(name)
}

// restart is another Envoy, which knows nothing. It is started when the former one is gone and its connection with it.
func (m *model) restart() {
	m.step("restart")
	m.envoy.kept, m.envoy.acked, m.envoy.force = map[string]string{}, map[string]string{}, nil
	m.cut("identity")
	m.cut("trust")
	for m.move(moves - 1) {
	}
}

// identity is always good.
func (m *model) identity() {
	m.n++
	i := m.r.IntN(len(m.made.keys))
	m.step("identity %d", i)
	if err := m.s.SetIdentity(m.made.keys[i], m.made.certs[i]); err != nil {
		m.t.Fatal(err)
	}
}

func (m *model) trust(bad bool) {
	m.n++
	b := m.made.pems[m.r.IntN(len(m.made.pems))]
	b.Domain = fmt.Sprintf("d%d", m.r.IntN(4))
	if bad {
		b.Domain += "-bad"
	}
	m.step("trust %s", b.Domain)
	if err := m.s.SetTrust(fmt.Sprint(m.n), []Bundle{b}); err != nil {
		m.t.Fatal(err)
	}
	m.envoy.bad[m.s.secret("trust").wanted.xds] = bad
}

// move lets one thing happen that does not need anybody's decision. It says whether there was any.
func (m *model) move(which int) bool {
	w := m.wires[[]string{"identity", "trust"}[which%2]]
	switch which / 2 {
	case 0:
		m.s.dispatch()
		select {
		case r := <-w.out:
			w.down = append(w.down, r)
			return true
		default:
			return false
		}
	case 1:
		if len(w.down) == 0 {
			return false
		}
		answer := m.envoy.take(w.down[0])
		m.step("%s: %.6s nack=%v", w.name, w.down[0].GetResources()[0].GetVersion(), answer.GetErrorDetail() != nil)
		w.up, w.down = append(w.up, answer), w.down[1:]
		return true
	case 2:
		if len(w.up) == 0 {
			return false
		}
		m.s.request(w.stream, w.up[0])
		w.up = w.up[1:]
		return true
	default:
		if len(m.gone) == 0 {
			return false
		}
		m.s.closed(m.gone[0])
		m.gone = m.gone[1:]
		return true
	}
}

const moves = 8

// settle lets everything happen that is under way.
func (m *model) settle() {
	for range 1000 {
		moved := false
		for _, i := range m.r.Perm(moves) {
			moved = m.move(i) || moved
		}
		if !moved {
			return
		}
	}
	m.t.Fatalf("the server does not come to rest:\n%v", m.trail)
}

// check compares what is in force with what was set and with what the server says.
func (m *model) check(when string) {
	m.t.Helper()
	identity, trust := m.s.secret("identity"), m.s.secret("trust")
	if m.envoy.force["identity"] != identity.wanted.xds {
		m.t.Fatalf("%s: Envoy does not use the newest identity; rejected: %q\n%v", when, m.s.Status().Rejected, m.trail)
	}
	if f := m.envoy.force["trust"]; f != trust.good.xds || !m.envoy.bad[trust.wanted.xds] && f != trust.wanted.xds {
		m.t.Fatalf("%s: Envoy uses trust %.6s, the server wants %.6s and believes %.6s\n%v", when, f, trust.wanted.xds, trust.good.xds, m.trail)
	}
	if identity.good.xds != identity.wanted.xds {
		m.t.Fatalf("%s: the newest identity is in force and not called acknowledged\n%v", when, m.trail)
	}
	if rejected := m.s.Status().Rejected; (rejected != "") != m.envoy.bad[trust.wanted.xds] {
		m.t.Fatalf("%s: rejected %q\n%v", when, rejected, m.trail)
	}
}

func newModel(t *testing.T, made material, seed uint64) *model {
	m := &model{
		t: t, made: made, s: New(slog.New(slog.DiscardHandler)), r: rand.New(rand.NewPCG(seed, 1)), wires: map[string]*wire{},
		envoy: &modelEnvoy{kept: map[string]string{}, acked: map[string]string{}, bad: map[string]bool{}, nacks: map[string]int{}},
	}
	for _, i := range m.r.Perm(2) {
		m.connect([]string{"identity", "trust"}[i])
	}
	return m
}

// Whatever is set, cut and delayed in any order: a good identity is in force in the end and is never blamed for bad trust, good trust
// is in force, bad trust is not, and the server knows it.
func TestSecretsSettleInAnyOrder(t *testing.T) {
	t.Parallel()
	made := newMaterial(t)
	for seed := range uint64(500) {
		m := newModel(t, made, seed)
		m.identity()
		m.trust(false)
		m.settle()
		m.check("at the start")
		for range 60 {
			switch x := m.r.IntN(40); {
			case x == 0:
				m.identity()
			case x == 1:
				m.trust(m.r.IntN(2) == 0)
			case x == 2:
				m.identity()
				m.trust(true)
			case x == 3:
				m.cut("identity")
			case x == 4:
				m.cut("trust")
			case x == 5:
				m.cut("identity")
				m.cut("trust")
			case x == 6:
				m.restart()
			default:
				m.move(m.r.IntN(moves))
			}
			if bad := m.s.secret("trust").good.xds; m.envoy.bad[bad] {
				t.Fatalf("bad trust is called acknowledged\n%v", m.trail)
			}
		}
		m.settle()
		m.check("in the end")
		if m.envoy.nacks["identity"] > 0 {
			t.Fatalf("seed %d: the identity was refused for bad trust\n%v", seed, m.trail)
		}
	}
}

// At the first configuration nothing is in force. Bad trust must be what is blamed, and the identity must not wait for anything but better trust.
func TestFirstSecretsSettleInAnyOrder(t *testing.T) {
	t.Parallel()
	made := newMaterial(t)
	for seed := range uint64(500) {
		m := newModel(t, made, seed)
		m.identity()
		m.trust(true)
		for range m.r.IntN(40) {
			switch x := m.r.IntN(20); {
			case x == 0:
				m.identity()
			case x == 1:
				m.trust(true)
			case x == 2:
				m.restart()
			default:
				m.move(m.r.IntN(moves))
			}
		}
		m.settle()
		if m.envoy.force != nil {
			t.Fatalf("bad trust is in force\n%v", m.trail)
		}
		if x := m.s.Status(); x.Rejected == "" || x.TrustVersion != "" {
			t.Fatalf("status %+v\n%v", x, m.trail)
		}
		if m.r.IntN(2) == 0 {
			m.cut("identity")
			m.cut("trust")
			m.settle()
		}
		m.trust(false)
		m.settle()
		m.check("after the correction")
	}
}
