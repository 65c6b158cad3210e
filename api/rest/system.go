package rest

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/causeway-mesh/causeway/api/resource"
)

// index says what this is. It is the only thing that needs no token.
func (s *Server) index(c echo.Context) error {
	a := s.cfg.About
	return c.JSON(http.StatusOK, struct {
		Hostname    string `json:"hostname"`
		Product     string `json:"product"`
		Version     string `json:"version"`
		InstanceID  string `json:"instanceId"`
		ClusterID   string `json:"clusterId"`
		GUI         string `json:"gui,omitempty"`
		BasedOnKuma string `json:"basedOnKuma,omitempty"`
	}{a.Hostname, a.Product, a.Version, a.InstanceID, a.ClusterID, a.GUI, a.BasedOnKuma})
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
	return c.JSON(http.StatusOK, struct {
		Name   string   `json:"name"`
		Groups []string `json:"groups"`
	}{u.Name, groups})
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

type policyInfo struct {
	Name                string `json:"name"`
	ReadOnly            bool   `json:"readOnly"`
	Path                string `json:"path"`
	SingularDisplayName string `json:"singularDisplayName"`
	PluralDisplayName   string `json:"pluralDisplayName"`
	IsExperimental      bool   `json:"isExperimental"`
	IsTargetRefBased    bool   `json:"isTargetRefBased"`
	IsInbound           bool   `json:"isInbound"`
	IsOutbound          bool   `json:"isOutbound"`
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
	return c.JSON(http.StatusOK, map[string]any{"policies": out})
}

type resourceTypeInfo struct {
	Name                string          `json:"name"`
	Scope               resource.Scope  `json:"scope"`
	ReadOnly            bool            `json:"readOnly"`
	Path                string          `json:"path"`
	SingularDisplayName string          `json:"singularDisplayName"`
	PluralDisplayName   string          `json:"pluralDisplayName"`
	ShortName           string          `json:"shortName"`
	IncludeInFederation bool            `json:"includeInFederation"`
	Policy              *policyTypeInfo `json:"policy,omitempty"`
}

type policyTypeInfo struct {
	IsTargetRef       bool `json:"isTargetRef"`
	HasToTargetRef    bool `json:"hasToTargetRef"`
	HasFromTargetRef  bool `json:"hasFromTargetRef"`
	HasRulesTargetRef bool `json:"hasRulesTargetRef"`
	IsFromAsRules     bool `json:"isFromAsRules"`
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
	return c.JSON(http.StatusOK, map[string]any{"resources": out})
}
