package rest

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/causeway-mesh/causeway/api/resource"
)

// An index is what anybody may know of a control plane.
type index struct {
	// Hostname of the machine.
	Hostname string `json:"hostname"`
	// Product is Kuma unless configured otherwise: clients of the Kuma API check for it.
	Product string `json:"product"`
	// Version of Causeway.
	Version string `json:"version"`
	// InstanceID tells instances of one control plane apart.
	InstanceID string `json:"instanceId"`
	// ClusterID is the same for all instances on one store.
	ClusterID string `json:"clusterId"`
	// GUI is where the web GUI is; absent when there is none.
	GUI string `json:"gui,omitempty"`
	// BasedOnKuma is the version of the Kuma API that is served.
	BasedOnKuma string `json:"basedOnKuma,omitempty"`
}

// index says what this is. It is the only thing that needs no token.
func (s *Server) index(c echo.Context) error {
	a := s.cfg.About
	return c.JSON(http.StatusOK, index(a))
}

// An identity is who a token stands for.
type identity struct {
	// Name of the user.
	Name string `json:"name"`
	// Groups of the user, with those that everybody is in.
	Groups []string `json:"groups"`
}

func (s *Server) whoAmI(c echo.Context) error {
	u := who(c)
	if u.anonymous && !s.cfg.Access.allows(u, ReadResources) {
		return denied(u, ReadResources)
	}
	groups := u.Groups
	if groups == nil {
		groups = []string{}
	}
	return c.JSON(http.StatusOK, identity{u.Name, groups})
}

// config shows the settings in force, with secrets masked by whoever provides them.
func (s *Server) config(c echo.Context) error {
	if err := s.require(c, ReadConfig); err != nil {
		return err
	}
	if s.cfg.EffectiveConfig == nil {
		return titled("Could not retrieve the configuration", resource.ErrNotFound)
	}
	return c.JSON(http.StatusOK, s.cfg.EffectiveConfig())
}

// A policyList is every kind of policy.
type policyList struct {
	// Policies in the order in which they are applied.
	Policies []policyInfo `json:"policies"`
}

// A policyInfo is one kind of policy.
type policyInfo struct {
	// Name of the kind, as in type.
	Name string `json:"name"`
	// ReadOnly says that this control plane does not let it be written.
	ReadOnly bool `json:"readOnly"`
	// Path of the kind in URLs.
	Path string `json:"path"`
	// SingularDisplayName is for people.
	SingularDisplayName string `json:"singularDisplayName"`
	// PluralDisplayName is for people.
	PluralDisplayName string `json:"pluralDisplayName"`
	// IsExperimental is false; kept for clients of the Kuma API.
	IsExperimental bool `json:"isExperimental"`
	// IsTargetRefBased is true; kept for clients of the Kuma API.
	IsTargetRefBased bool `json:"isTargetRefBased"`
	// IsInbound says that it configures received traffic.
	IsInbound bool `json:"isInbound"`
	// IsOutbound says that it configures sent traffic.
	IsOutbound bool `json:"isOutbound"`
}

func (s *Server) policies(c echo.Context) error {
	if err := s.require(c, ReadResources); err != nil {
		return err
	}
	out := []policyInfo{}
	for _, k := range s.kinds.All() {
		if k.Policy == nil {
			continue
		}
		out = append(out, policyInfo{
			Name: k.Name, ReadOnly: !s.writable(k), Path: k.Path, SingularDisplayName: k.Singular, PluralDisplayName: k.Plural,
			IsTargetRefBased: true, IsInbound: k.Policy.HasRules, IsOutbound: k.Policy.HasTo,
		})
	}
	return c.JSON(http.StatusOK, policyList{out})
}

// A resourceTypeList is every kind of resource.
type resourceTypeList struct {
	// Resources are the kinds.
	Resources []resourceTypeInfo `json:"resources"`
}

// A resourceTypeInfo is one kind of resource.
type resourceTypeInfo struct {
	// Name of the kind, as in type.
	Name string `json:"name"`
	// Scope is Global or Mesh.
	Scope resource.Scope `json:"scope"`
	// ReadOnly says that this control plane does not let it be written.
	ReadOnly bool `json:"readOnly"`
	// Path of the kind in URLs.
	Path string `json:"path"`
	// SingularDisplayName is for people.
	SingularDisplayName string `json:"singularDisplayName"`
	// PluralDisplayName is for people.
	PluralDisplayName string `json:"pluralDisplayName"`
	// ShortName is how KRIs call the kind; empty when it has none.
	ShortName string `json:"shortName"`
	// IncludeInFederation says that global sends it to zones.
	IncludeInFederation bool `json:"includeInFederation"`
	// Policy is there for policies.
	Policy *policyTypeInfo `json:"policy,omitempty"`
}

// A policyTypeInfo is what a kind of policy consists of.
type policyTypeInfo struct {
	// IsTargetRef is true; kept for clients of the Kuma API.
	IsTargetRef bool `json:"isTargetRef"`
	// HasToTargetRef says that it configures sent traffic.
	HasToTargetRef bool `json:"hasToTargetRef"`
	// HasFromTargetRef is false; kept for clients of the Kuma API.
	HasFromTargetRef bool `json:"hasFromTargetRef"`
	// HasRulesTargetRef says that it configures received traffic.
	HasRulesTargetRef bool `json:"hasRulesTargetRef"`
	// IsFromAsRules is false; kept for clients of the Kuma API.
	IsFromAsRules bool `json:"isFromAsRules"`
}

func (s *Server) resourceTypes(c echo.Context) error {
	if err := s.require(c, ReadResources); err != nil {
		return err
	}
	out := []resourceTypeInfo{}
	for _, k := range s.kinds.All() {
		if k.Path == "" {
			continue
		}
		info := resourceTypeInfo{
			Name: k.Name, Scope: k.Scope, ReadOnly: !s.writable(k), Path: k.Path, SingularDisplayName: k.Singular, PluralDisplayName: k.Plural,
			ShortName: k.Short, IncludeInFederation: k.Flow&resource.FromGlobal != 0 && !k.ReadOnly(),
		}
		if p := k.Policy; p != nil {
			info.Policy = &policyTypeInfo{IsTargetRef: true, HasToTargetRef: p.HasTo, HasRulesTargetRef: p.HasRules}
		}
		out = append(out, info)
	}
	return c.JSON(http.StatusOK, resourceTypeList{out})
}
