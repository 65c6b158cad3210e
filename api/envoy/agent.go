package envoy

import (
	"bytes"

	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/api/agentapi"
	"github.com/causeway-mesh/causeway/api/memo"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
)

// AgentMessages are what the agent of a proxy is told, one message of each policy that speaks to agents, as one comparable value.
type AgentMessages string

// List decodes the messages.
func (m AgentMessages) List() []*agentapi.ZoneMessage {
	var out []*agentapi.ZoneMessage
	for r := bytes.NewReader([]byte(m)); r.Len() > 0; {
		var one agentapi.ZoneMessage
		if protodelim.UnmarshalFrom(r, &one) != nil {
			return out // written by buildAgent, so it can be read
		}
		out = append(out, &one)
	}
	return out
}

// Agent is what the agent of a dataplane is told at present.
func (c *Compiler) Agent(dp resource.Key) AgentMessages {
	return c.agents.Get(c.view.Graph.Untracked(), dp)
}

// buildAgent asks the policies that speak to agents.
func (c *Compiler) buildAgent(r *memo.Reader, k resource.Key) AgentMessages {
	res, _ := c.view.Resource(r, k)
	dp, ok := res.Spec.(*mesh.Dataplane)
	if !ok {
		return ""
	}
	sets := map[string]view.Set{}
	for _, s := range c.view.Selected(r, k) {
		sets[s.Type] = s.Proxy
	}
	own := agentOf(c.view.Zone(), res.Meta, dp)
	var out bytes.Buffer
	for _, p := range c.view.Policies() {
		if _, speaks := p.Fields(policy.HookAgent); !speaks {
			continue
		}
		typ := p.Resource().Name
		conf := "{}"
		if sets[typ] != "" {
			if e := c.view.Linked(r, typ, k.Mesh, c.view.ProxyWide(r, typ, k.Mesh, sets[typ])); e.Conf != "" {
				conf = e.Conf
			}
		}
		bound, err := p.Bind(conf)
		if err != nil {
			continue // it was refused when it was written
		}
		_, _ = protodelim.MarshalOptions{MarshalOptions: proto.MarshalOptions{Deterministic: true}}.MarshalTo(&out, bound.Agent(own)) // into memory
	}
	return AgentMessages(out.String())
}

func agentOf(zone string, m resource.Meta, dp *mesh.Dataplane) proxy.Agent {
	n := dp.Networking
	return proxy.Agent{
		Mesh: m.Mesh, Zone: zone, Namespace: m.Namespace(), Name: m.DisplayName(), Workload: m.Label(resource.LabelWorkload),
		Role: roleOf(dp), Address: n.Address,
		Serves: func(port uint32) string {
			for _, in := range n.Inbound {
				if in.ServicePortOrPort() == port {
					return n.WorkloadAddress(in)
				}
			}
			return n.Address
		},
	}
}

func roleOf(dp *mesh.Dataplane) proxy.Role {
	n := dp.Networking
	in, out := dp.HasListener(mesh.ZoneIngress), dp.HasListener(mesh.ZoneEgress)
	switch {
	case n.Gateway != nil:
		return proxy.Gateway
	case len(n.Inbound) > 0 || !in && !out:
		return proxy.Sidecar
	case in && out:
		return proxy.ZoneProxy
	case in:
		return proxy.ZoneIngress
	}
	return proxy.ZoneEgress
}
