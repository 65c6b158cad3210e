package proxypatch

import (
	"errors"
	"fmt"
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
)

const managerFilter = "envoy.filters.network.http_connection_manager"

// compile makes a patch of a modification.
func compile(m Modification) (policy.Patch, error) {
	switch {
	case m.Cluster != nil:
		return compileWhole(m.Cluster.Change, new(clusterv3.Cluster), proxy.ClusterResource, m.Cluster.Match.matches)
	case m.Listener != nil:
		return compileWhole(m.Listener.Change, new(listenerv3.Listener), proxy.ListenerResource, m.Listener.Match.matches)
	case m.NetworkFilter != nil:
		return compileNetwork(m.NetworkFilter)
	case m.HTTPFilter != nil:
		return compileHTTP(m.HTTPFilter)
	default:
		return compileHost(m.VirtualHost)
	}
}

// broken matches what the modification is for, and says why nothing comes of it: somebody wrote it past validation.
func broken(m Modification, err error) policy.Patch {
	p := policy.Patch{Apply: func(proto.Message) (bool, error) { return false, err }}
	switch {
	case m.Cluster != nil:
		p.Matches = m.Cluster.Match.matches
	case m.Listener != nil:
		p.Matches = m.Listener.Match.matches
	case m.VirtualHost != nil:
		p.Matches = m.VirtualHost.Match.matches
	default:
		p.Matches = func(r proxy.Resource) bool { return r.Kind == proxy.ListenerResource }
	}
	return p
}

// value reads the value of a change; nil when there is none.
func (c Change) value(into proto.Message) error {
	if c.Value == nil {
		return nil
	}
	return read(*c.Value, into)
}

// compileWhole is for clusters and listeners, which are resources themselves.
func compileWhole(c Change, value proto.Message, kind proxy.ResourceKind, matches func(proxy.Resource) bool) (policy.Patch, error) {
	if err := c.value(value); err != nil {
		return policy.Patch{}, err
	}
	p := policy.Patch{Matches: matches}
	switch c.Operation {
	case Add:
		named, _ := value.(interface{ GetName() string })
		return policy.Patch{Add: &policy.Added{Kind: kind, Name: named.GetName(), Message: value}}, nil
	case Remove:
		p.Apply = func(proto.Message) (bool, error) { return true, nil }
	default:
		p.Whole = kind == proxy.ListenerResource && c.needsAddress(value)
		p.Opens = true
		p.Apply = func(m proto.Message) (bool, error) { return false, edit(m, c, value) }
	}
	return p, nil
}

// addressFields are what listeners that proxies share do not have yet.
var addressFields = []string{"address", "bind_to_port", "enable_reuse_port"}

// needsAddress says that a change of a listener reads or writes what each proxy has of its own.
func (c Change) needsAddress(value proto.Message) bool {
	m := value.ProtoReflect()
	fields := m.Descriptor().Fields()
	own := func(path string) bool {
		parts, err := pointer(path)
		if err != nil || len(parts) == 0 {
			return true
		}
		f := fieldNamed(m.Descriptor(), parts[0])
		return f != nil && slices.Contains(addressFields, f.TextName())
	}
	if c.Value != nil {
		return slices.ContainsFunc(addressFields, func(name string) bool { return m.Has(fields.ByTextName(name)) })
	}
	return slices.ContainsFunc(c.JSONPatches, func(p JSONPatch) bool { return own(p.Path) || p.From != nil && own(*p.From) })
}

// edit merges the value of a change into a message, or applies its JSON patches.
func edit(m proto.Message, c Change, value proto.Message) error {
	if len(c.JSONPatches) > 0 {
		return editJSON(m, c.JSONPatches)
	}
	merge(m.ProtoReflect(), value.ProtoReflect())
	return nil
}

// editPacked is edit for the configuration of a filter.
func editPacked(a *anypb.Any, c Change, value *anypb.Any) (*anypb.Any, error) {
	if a.GetTypeUrl() == "" {
		if len(c.JSONPatches) > 0 {
			return nil, errors.New("the filter has no configuration to patch")
		}
		return value, nil
	}
	m, err := a.UnmarshalNew()
	if err != nil {
		return nil, err
	}
	if len(c.JSONPatches) == 0 {
		if value.GetTypeUrl() == "" {
			return a, nil
		}
		from, err := value.UnmarshalNew()
		if err != nil {
			return nil, err
		}
		if has, want := m.ProtoReflect().Descriptor().FullName(), from.ProtoReflect().Descriptor().FullName(); has != want {
			return nil, fmt.Errorf("the filter has a %s, and the value a %s", has, want)
		}
		merge(m.ProtoReflect(), from.ProtoReflect())
	} else if err := editJSON(m, c.JSONPatches); err != nil {
		return nil, err
	}
	return pack(m)
}

func pack(m proto.Message) (*anypb.Any, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	return &anypb.Any{TypeUrl: "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName()), Value: b}, nil
}

// chains are all filter chains of a listener.
func chains(l *listenerv3.Listener) []*listenerv3.FilterChain {
	if d := l.GetDefaultFilterChain(); d != nil {
		return append(slices.Clone(l.GetFilterChains()), d)
	}
	return l.GetFilterChains()
}

func compileNetwork(f *FilterMod) (policy.Patch, error) {
	value := new(listenerv3.Filter)
	if err := f.value(value); err != nil {
		return policy.Patch{}, err
	}
	return policy.Patch{
		Opens: f.Operation != Remove,
		Matches: func(r proxy.Resource) bool {
			return f.selects(r, r.NetworkFilters)
		},
		Apply: func(m proto.Message) (bool, error) {
			switch m := m.(type) {
			case *listenerv3.Listener:
				for _, c := range chains(m) {
					if err := f.editNetwork(c, value); err != nil {
						return false, err
					}
				}
			case *corev3.TypedExtensionConfig:
				return false, f.editExtension(m, value.GetTypedConfig())
			}
			return false, nil
		},
	}, nil
}

// selects says that a change of filters reaches a listener with these filters, or a filter that travels apart.
func (f *FilterMod) selects(r proxy.Resource, filters []string) bool {
	switch {
	case r.Kind == proxy.FilterResource:
		return f.Operation == Patch && f.Match.reaches(r.Listener, r) && f.Match.anyOf(filters)
	case r.Kind != proxy.ListenerResource || !f.Match.reaches(r.Name, r):
		return false
	case f.Operation == AddFirst || f.Operation == AddLast || r.Open:
		return true
	}
	return f.Match.anyOf(filters)
}

func (f *FilterMod) editExtension(x *corev3.TypedExtensionConfig, value *anypb.Any) error {
	edited, err := editPacked(x.GetTypedConfig(), f.Change, value)
	if err == nil {
		x.TypedConfig = edited
	}
	return err
}

func (f *FilterMod) editNetwork(c *listenerv3.FilterChain, value *listenerv3.Filter) error {
	if f.Operation != Patch {
		c.Filters = arrange(f, c.Filters, value)
		return nil
	}
	for _, x := range c.Filters {
		if !f.Match.names(x.Name) || x.GetConfigDiscovery() != nil {
			continue // the configuration of a filter that travels apart is edited where it is
		}
		edited, err := editPacked(x.GetTypedConfig(), f.Change, value.GetTypedConfig())
		if err != nil {
			return fmt.Errorf("filter %s: %w", x.Name, err)
		}
		x.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: edited}
	}
	return nil
}

// arrange adds a filter to a list, or removes what is named.
func arrange[F interface {
	proto.Message
	GetName() string
}](f *FilterMod, list []F, value F) []F {
	fresh := func() F { return proto.CloneOf(value) }
	at := slices.IndexFunc(list, func(x F) bool { return f.Match.names(x.GetName()) })
	switch f.Operation {
	case AddFirst:
		return slices.Insert(list, 0, fresh())
	case AddLast:
		return append(list, fresh())
	case AddBefore:
		if at >= 0 {
			return slices.Insert(list, at, fresh())
		}
	case AddAfter:
		if at >= 0 {
			return slices.Insert(list, at+1, fresh())
		}
	case Remove:
		return slices.DeleteFunc(list, func(x F) bool { return f.Match.names(x.GetName()) })
	}
	return list
}

func compileHTTP(f *FilterMod) (policy.Patch, error) {
	value := new(hcmv3.HttpFilter)
	if err := f.value(value); err != nil {
		return policy.Patch{}, err
	}
	return policy.Patch{
		Opens: f.Operation != Remove && f.Operation != Patch,
		Matches: func(r proxy.Resource) bool {
			managed := r.Kind != proxy.ListenerResource || r.Open || slices.Contains(r.NetworkFilters, managerFilter)
			return managed && f.selects(r, r.HTTPFilters)
		},
		Apply: func(m proto.Message) (bool, error) {
			switch m := m.(type) {
			case *listenerv3.Listener:
				return false, eachManager(m, func(h *hcmv3.HttpConnectionManager) error { return f.editHTTP(h, value) })
			case *corev3.TypedExtensionConfig:
				return false, f.editExtension(m, value.GetTypedConfig())
			}
			return false, nil
		},
	}, nil
}

// eachManager edits every HTTP connection manager of a listener.
func eachManager(l *listenerv3.Listener, edit func(*hcmv3.HttpConnectionManager) error) error {
	for _, c := range chains(l) {
		for _, x := range c.Filters {
			h := new(hcmv3.HttpConnectionManager)
			if a := x.GetTypedConfig(); a == nil || !a.MessageIs(h) {
				continue
			}
			if err := x.GetTypedConfig().UnmarshalTo(h); err != nil {
				return err
			}
			if err := edit(h); err != nil {
				return err
			}
			a, err := pack(h)
			if err != nil {
				return err
			}
			x.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: a}
		}
	}
	return nil
}

func (f *FilterMod) editHTTP(h *hcmv3.HttpConnectionManager, value *hcmv3.HttpFilter) error {
	if f.Operation != Patch {
		h.HttpFilters = f.arrangeHTTP(h.HttpFilters, value)
		return nil
	}
	for _, x := range h.HttpFilters {
		if !f.Match.names(x.Name) {
			continue
		}
		x.IsOptional = x.IsOptional || value.GetIsOptional()
		x.Disabled = x.Disabled || value.GetDisabled()
		if x.GetConfigDiscovery() != nil {
			continue // its configuration travels apart, and is edited there
		}
		edited, err := editPacked(x.GetTypedConfig(), f.Change, value.GetTypedConfig())
		if err != nil {
			return fmt.Errorf("filter %s: %w", x.Name, err)
		}
		if edited != nil {
			x.ConfigType = &hcmv3.HttpFilter_TypedConfig{TypedConfig: edited}
		}
	}
	return nil
}

const routerFilter = "envoy.filters.http.router"

// arrangeHTTP is arrange for HTTP filters. Behind the router nothing can stand, so what is added last stands before it.
func (f *FilterMod) arrangeHTTP(list []*hcmv3.HttpFilter, value *hcmv3.HttpFilter) []*hcmv3.HttpFilter {
	if n := len(list); f.Operation == AddLast && n > 0 && list[n-1].GetName() == routerFilter && value.GetName() != routerFilter {
		return slices.Insert(list, n-1, proto.CloneOf(value))
	}
	return arrange(f, list, value)
}

func compileHost(v *VirtualHostMod) (policy.Patch, error) {
	value := new(routev3.VirtualHost)
	if err := v.value(value); err != nil {
		return policy.Patch{}, err
	}
	return policy.Patch{
		Opens: v.Operation == Add,
		Matches: func(r proxy.Resource) bool {
			return v.Match.matches(r) && (v.Operation == Add || r.Open || slices.ContainsFunc(r.VirtualHosts, v.Match.names))
		},
		Apply: func(m proto.Message) (bool, error) {
			rc, ok := m.(*routev3.RouteConfiguration)
			if !ok {
				return false, nil
			}
			switch v.Operation {
			case Add:
				rc.VirtualHosts = append(rc.VirtualHosts, proto.CloneOf(value))
			case Remove:
				rc.VirtualHosts = slices.DeleteFunc(rc.VirtualHosts, func(h *routev3.VirtualHost) bool { return v.Match.names(h.Name) })
			default:
				for _, h := range rc.VirtualHosts {
					if !v.Match.names(h.Name) {
						continue
					}
					if err := edit(h, v.Change, value); err != nil {
						return false, fmt.Errorf("virtual host %s: %w", h.Name, err)
					}
				}
			}
			return false, nil
		},
	}, nil
}
