package agent

import (
	"log/slog"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/api/agentapi"
	"github.com/causeway-mesh/causeway/dataplane/probe"
	"github.com/causeway-mesh/causeway/dataplane/sds"
	"github.com/causeway-mesh/causeway/dataplane/spire"
)

// FuzzZoneMessages sends decoded messages of any content to an agent: it must neither break nor start Envoy without an identity.
func FuzzZoneMessages(f *testing.F) {
	for _, m := range []*agentapi.ZoneMessage{
		{},
		{Message: &agentapi.ZoneMessage_Offer{Offer: &agentapi.IdentityOffer{SpiffeId: "spiffe://d/w", Issuer: "a"}}},
		{Message: &agentapi.ZoneMessage_Identity{Identity: &agentapi.Identity{Chain: [][]byte{{1}}, LifetimeMs: 1, SpiffeId: "spiffe://d/w"}}},
		{Message: &agentapi.ZoneMessage_Identity{Identity: &agentapi.Identity{Refused: "no", RetryAfterMs: -1}}},
		{Message: &agentapi.ZoneMessage_Trust{Trust: &agentapi.Trust{Version: "1", Bundles: []*agentapi.Bundle{{TrustDomain: "d", Pem: "x"}}}}},
		{Message: &agentapi.ZoneMessage_Control{Control: &agentapi.ControlCertificate{Chain: [][]byte{{}}}}},
		{Message: &agentapi.ZoneMessage_Probes{Probes: &agentapi.Probes{Probes: []*agentapi.Probe{{Port: 1 << 31, IntervalMs: -5}}}}},
		{Message: &agentapi.ZoneMessage_Problem{Problem: &agentapi.Problem{Severity: agentapi.Problem_FATAL, Text: "\xff"}}},
		{Message: &agentapi.ZoneMessage_GoodbyeDone{GoodbyeDone: &agentapi.GoodbyeDone{Unconfirmed: "x"}}},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			continue // a string that is not UTF-8 cannot be sent either
		}
		f.Add(b)
	}
	f.Add([]byte{0xfa, 0x07, 0x00}) // a message of the future
	log := slog.New(slog.DiscardHandler)
	f.Fuzz(func(t *testing.T, raw []byte) {
		m := &agentapi.ZoneMessage{}
		if proto.Unmarshal(raw, m) != nil {
			return
		}
		a := &agent{cfg: Default(), log: log, prober: probe.New(log), secrets: sds.New(log), self: self{mesh: "default", name: "web"}}
		a.spire = spire.New("/nowhere", a.secrets, log)
		a.supervisor = newSupervisor(nil, newAdmin("/nowhere"), log)
		l := newLink(a)
		l.control = &held{until: time.Now().Add(time.Hour), renewAt: time.Now().Add(time.Hour)}
		l.offered(&agentapi.IdentityOffer{SpiffeId: "spiffe://default.east.mesh.local/workload/web", Issuer: "x"})
		if err := l.message(m); err != nil && m.GetProblem() == nil {
			t.Errorf("a message ended the session: %v", err)
		}
		if l.started() && (m.GetOffer() == nil || m.GetOffer().GetSpiffeId() != "" || m.GetOffer().GetWithheld()) {
			t.Error("Envoy may start without an identity")
		}
		l.untilDue()
		if l.control != nil {
			l.hello()
		}
	})
}
