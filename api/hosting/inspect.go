package hosting

import (
	"encoding/json"
	"fmt"

	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/api/inquiry"
	"github.com/causeway-mesh/causeway/api/policies"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
)

// Explains says that a question is one that an explanation answers.
func Explains(q *inquiry.Question) bool {
	switch q.GetWhat() {
	case inquiry.WhatLayout, inquiry.WhatRules, inquiry.WhatProxyPolicies, inquiry.WhatInboundPolicies, inquiry.WhatOutboundPolicies, inquiry.WhatRoutes:
		return true
	}
	return false
}

// Explain answers a question about what policies put in force for a proxy.
func Explain(x *envoy.Explanation, q *inquiry.Question) ([]byte, error) {
	part := func(text string) (resource.KRI, error) {
		kri, err := resource.ParseKRI(text)
		if err != nil {
			return kri, inquiry.Failf("%s", err)
		}
		return kri, nil
	}
	var out any
	ok := true
	switch q.GetWhat() {
	case inquiry.WhatLayout:
		out = x.Layout()
	case inquiry.WhatRules:
		out = x.Rules()
	case inquiry.WhatProxyPolicies:
		out = x.Proxy()
	default:
		kri, err := part(q.GetElement())
		if err != nil {
			return nil, err
		}
		var route resource.KRI
		if q.GetRoute() != "" {
			if route, err = part(q.GetRoute()); err != nil {
				return nil, err
			}
		}
		switch q.GetWhat() {
		case inquiry.WhatInboundPolicies:
			out, ok = x.Inbound(kri)
		case inquiry.WhatOutboundPolicies:
			out, ok = x.Outbound(kri, route)
		case inquiry.WhatRoutes:
			out, ok = x.Routes(kri)
		}
	}
	if !ok {
		return nil, fmt.Errorf("%s of %s: %w", q.GetElement(), q.GetName(), resource.ErrNotFound)
	}
	b, err := json.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("explain %s: %w", q.GetName(), err)
	}
	return b, nil
}

// Concerns returns which dataplanes a policy concerns; those that name no zone are of the given one.
func Concerns(zone string) func(policy resource.Resource) func(dataplane resource.Resource) bool {
	return func(res resource.Resource) func(resource.Resource) bool {
		for _, p := range policies.All {
			if p.Resource().Name == res.Type {
				return view.Concerns(p, res, zone)
			}
		}
		return func(resource.Resource) bool { return false }
	}
}
