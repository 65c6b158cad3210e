package mesh

// A ResourceMeta names a resource in what is told about others.
type ResourceMeta struct {
	// Type of the resource.
	Type string `json:"type"`
	// Mesh that it is in.
	Mesh string `json:"mesh,omitempty"`
	// Name that it has at this control plane.
	Name string `json:"name"`
	// KRI identifies it everywhere.
	KRI string `json:"kri"`
	// Labels that it carries.
	Labels map[string]string `json:"labels,omitempty"`
}

// InspectedPolicies are what policies put in force, type by type.
type InspectedPolicies struct {
	// Policies by type, those that apply.
	Policies []InspectedPolicy `json:"policies"`
}

// An InspectedPolicy is what all policies of one type put in force together.
type InspectedPolicy struct {
	// Kind is the type of the policies.
	Kind string `json:"kind"`
	// Conf is what is in force, with defaults.
	Conf any `json:"conf,omitempty"`
	// Rules are what is in force for clients of an inbound, the most specific first; each has a conf of its own.
	Rules []InspectedRule `json:"rules,omitempty"`
	// Origins are the policies that decided any of it.
	Origins []InspectedOrigin `json:"origins"`
}

// An InspectedRule is what is in force for some clients or requests.
type InspectedRule struct {
	// KRI of the policy that decided it, the strongest when there are several.
	KRI string `json:"kri,omitempty"`
	// Matches say for whom it holds; none means for everybody else.
	Matches []any `json:"matches,omitempty"`
	// Conf is what is in force for them.
	Conf any `json:"conf"`
}

// An InspectedOrigin is a policy that decided something.
type InspectedOrigin struct {
	// KRI of the policy.
	KRI string `json:"kri"`
	// Fields of the conf that it decided, by path; none means all of it.
	Fields []string `json:"fields,omitempty"`
}

// InspectedRoutes are the routes of a destination, type by type.
type InspectedRoutes struct {
	// Routes by type, those that apply.
	Routes []InspectedPolicy `json:"routes"`
}

// A Layout is what a proxy consists of, with the names that its Envoy uses.
type Layout struct {
	// KRI of the Dataplane.
	KRI string `json:"kri"`
	// Labels of the Dataplane.
	Labels map[string]string `json:"labels,omitempty"`
	// Inbounds that it takes traffic of the workload at.
	Inbounds []LayoutPart `json:"inbounds"`
	// Outbounds are the destinations that it knows.
	Outbounds []LayoutPart `json:"outbounds"`
	// Listeners that it has for its zone.
	Listeners []LayoutPart `json:"listeners,omitempty"`
	// SpiffeID that it is issued.
	SpiffeID string `json:"spiffeId,omitempty"`
}

// A LayoutPart is one inbound, destination or listener of a proxy.
type LayoutPart struct {
	// KRI with the port or name of the part.
	KRI string `json:"kri"`
	// Type of a listener for the zone.
	Type string `json:"type,omitempty"`
	// Port that it listens on, or that the destination is called at.
	Port uint32 `json:"port"`
	// Protocol that is spoken there.
	Protocol string `json:"protocol,omitempty"`
	// ProxyResourceName is what Envoy calls it.
	ProxyResourceName string `json:"proxyResourceName"`
}

// InspectedRules are all rules of a proxy, in the older form that does not tell parts apart.
type InspectedRules struct {
	// Resource is the Dataplane.
	Resource ResourceMeta `json:"resource"`
	// HTTPMatches is always empty; routes are among the rules.
	HTTPMatches []any `json:"httpMatches"`
	// Rules by type of policy, those that apply.
	Rules []TypeRules `json:"rules"`
}

// TypeRules are the rules of one type of policy.
type TypeRules struct {
	// Type of the policies.
	Type string `json:"type"`
	// ProxyRule is what is in force for the proxy as a whole.
	ProxyRule *RuleConf `json:"proxyRule,omitempty"`
	// ToResourceRules are what is in force for destinations.
	ToResourceRules []ToResourceRule `json:"toResourceRules"`
	// InboundRules are what is in force for what is received.
	InboundRules []InboundRules `json:"inboundRules"`
	// Warnings are always empty; problems of a proxy are in its _config.
	Warnings []string `json:"warnings"`
}

// A RuleConf is a configuration and where it comes from.
type RuleConf struct {
	// Conf is what is in force.
	Conf any `json:"conf"`
	// Origin lists the policies that decided it.
	Origin []ResourceMeta `json:"origin"`
}

// A ToResourceRule is what is in force for one port of a destination.
type ToResourceRule struct {
	// ResourceMeta is the destination.
	ResourceMeta ResourceMeta `json:"resourceMeta"`
	// ResourceSectionName is its port.
	ResourceSectionName string `json:"resourceSectionName,omitempty"`
	// Conf is what is in force.
	Conf []any `json:"conf"`
	// Origin lists what decided it.
	Origin []RuleOrigin `json:"origin"`
}

// InboundRules are what is in force at one inbound.
type InboundRules struct {
	// Inbound that they are for.
	Inbound RuleInbound `json:"inbound"`
	// Rules by client, the most specific first.
	Rules []InboundRule `json:"rules"`
}

// RuleInbound is an inbound by its port.
type RuleInbound struct {
	// Port that the proxy takes traffic at.
	Port uint32 `json:"port"`
}

// An InboundRule is what is in force for some clients.
type InboundRule struct {
	// Match says for whom; absent for everybody else.
	Match any `json:"match,omitempty"`
	// Conf is what is in force.
	Conf []any `json:"conf"`
	// Origin lists what decided it.
	Origin []RuleOrigin `json:"origin"`
}

// A RuleOrigin is an entry of a policy.
type RuleOrigin struct {
	// ResourceMeta is the policy.
	ResourceMeta ResourceMeta `json:"resourceMeta"`
	// RuleIndex is the position of the entry in to or rules.
	RuleIndex int `json:"ruleIndex"`
}
