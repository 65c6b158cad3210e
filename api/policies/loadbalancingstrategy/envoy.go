package loadbalancingstrategy

import (
	"math"
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/proxy"
)

var hooks = policy.Hooks[Conf]{
	Cluster: policy.Hook[func(Conf, proxy.Cluster, *clusterv3.Cluster)]{
		Fields: []string{"loadBalancer", "localityAwareness.disabled", "localityAwareness.localZone"}, Apply: setCluster,
	},
	Route:     policy.Hook[func(Conf, proxy.Route, *routev3.Route)]{Fields: []string{"hashPolicies"}, Apply: setRoute},
	TCP:       policy.Hook[func(Conf, proxy.Listener, *tcpproxyv3.TcpProxy)]{Fields: []string{"hashPolicies"}, Apply: setTCP},
	Endpoints: policy.Hook[func(Conf, *proxy.Assignment)]{Fields: []string{"localityAwareness"}, Apply: arrange},
}

// labels are those that sender and endpoint are compared by.
func labels(c Conf) []string {
	var out []string
	for _, t := range c.LocalityAwareness.tags() {
		out = append(out, t.Key)
	}
	return out
}

func (l *LocalityAwareness) off() bool { return l != nil && l.Disabled != nil && *l.Disabled }

// tags are the affinity tags in force.
func (l *LocalityAwareness) tags() []AffinityTag {
	if l == nil || l.off() || l.LocalZone == nil {
		return nil
	}
	return l.LocalZone.AffinityTags
}

func setCluster(c Conf, _ proxy.Cluster, m *clusterv3.Cluster) {
	if l := c.LoadBalancer; l != nil {
		l.set(m)
	}
	if len(c.LocalityAwareness.tags()) == 0 {
		return
	}
	if m.CommonLbConfig == nil {
		m.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{}
	}
	m.CommonLbConfig.LocalityConfigSpecifier = &clusterv3.Cluster_CommonLbConfig_LocalityWeightedLbConfig_{
		LocalityWeightedLbConfig: &clusterv3.Cluster_CommonLbConfig_LocalityWeightedLbConfig{},
	}
}

// minRing is Envoy's own default of the least ring size.
const minRing = 1024

func (l LoadBalancer) set(m *clusterv3.Cluster) {
	switch l.Type {
	case UseRoundRobin:
		m.LbPolicy = clusterv3.Cluster_ROUND_ROBIN
	case UseRandom:
		m.LbPolicy = clusterv3.Cluster_RANDOM
	case UseLeastRequest:
		m.LbPolicy = clusterv3.Cluster_LEAST_REQUEST
		if r := l.LeastRequest; r != nil {
			lb := &clusterv3.Cluster_LeastRequestLbConfig{ChoiceCount: number(r.ChoiceCount)}
			if b := r.ActiveRequestBias; b != nil {
				lb.ActiveRequestBias = &corev3.RuntimeDouble{DefaultValue: b.Float(), RuntimeKey: "causeway.active_request_bias"}
			}
			m.LbConfig = &clusterv3.Cluster_LeastRequestLbConfig_{LeastRequestLbConfig: lb}
		}
	case UseRingHash:
		m.LbPolicy = clusterv3.Cluster_RING_HASH
		if r := l.RingHash; r != nil {
			m.LbConfig = &clusterv3.Cluster_RingHashLbConfig_{RingHashLbConfig: r.config()}
		}
	case UseMaglev:
		m.LbPolicy = clusterv3.Cluster_MAGLEV
		if g := l.Maglev; g != nil && g.TableSize != nil {
			m.LbConfig = &clusterv3.Cluster_MaglevLbConfig_{MaglevLbConfig: &clusterv3.Cluster_MaglevLbConfig{
				TableSize: wrapperspb.UInt64(uint64(*g.TableSize)),
			}}
		}
	}
}

func (r RingHash) config() *clusterv3.Cluster_RingHashLbConfig {
	out := &clusterv3.Cluster_RingHashLbConfig{}
	if f := r.HashFunction; f != nil && *f == MurmurHash2 {
		out.HashFunction = clusterv3.Cluster_RingHashLbConfig_MURMUR_HASH_2
	}
	if r.MinRingSize != nil {
		out.MinimumRingSize = wrapperspb.UInt64(uint64(*r.MinRingSize))
	}
	if r.MaxRingSize != nil {
		out.MaximumRingSize = wrapperspb.UInt64(uint64(*r.MaxRingSize))
		// The two may come from different policies; Envoy refuses a least size above the greatest.
		least := uint64(minRing)
		if r.MinRingSize != nil {
			least = uint64(*r.MinRingSize)
		}
		if least > uint64(*r.MaxRingSize) {
			out.MinimumRingSize = wrapperspb.UInt64(uint64(*r.MaxRingSize))
		}
	}
	return out
}

func number(v *uint32) *wrapperspb.UInt32Value {
	if v == nil {
		return nil
	}
	return wrapperspb.UInt32(*v)
}

func setRoute(c Conf, r proxy.Route, m *routev3.Route) {
	action := m.GetRoute()
	if action == nil || r.Direction != proxy.Outbound && !r.Egress {
		return
	}
	for _, h := range c.HashPolicies {
		if p := h.route(); p != nil {
			p.Terminal = h.Terminal != nil && *h.Terminal
			action.HashPolicy = append(action.HashPolicy, p)
		}
	}
}

func (h HashPolicy) route() *routev3.RouteAction_HashPolicy {
	switch {
	case h.Header != nil:
		return &routev3.RouteAction_HashPolicy{PolicySpecifier: &routev3.RouteAction_HashPolicy_Header_{
			Header: &routev3.RouteAction_HashPolicy_Header{HeaderName: h.Header.Name},
		}}
	case h.Cookie != nil:
		k := &routev3.RouteAction_HashPolicy_Cookie{Name: h.Cookie.Name, Ttl: h.Cookie.TTL.Proto()}
		if h.Cookie.Path != nil {
			k.Path = *h.Cookie.Path
		}
		return &routev3.RouteAction_HashPolicy{PolicySpecifier: &routev3.RouteAction_HashPolicy_Cookie_{Cookie: k}}
	case h.Connection != nil:
		if h.Connection.SourceIP == nil || !*h.Connection.SourceIP {
			return nil
		}
		return &routev3.RouteAction_HashPolicy{PolicySpecifier: &routev3.RouteAction_HashPolicy_ConnectionProperties_{
			ConnectionProperties: &routev3.RouteAction_HashPolicy_ConnectionProperties{SourceIp: true},
		}}
	case h.QueryParameter != nil:
		return &routev3.RouteAction_HashPolicy{PolicySpecifier: &routev3.RouteAction_HashPolicy_QueryParameter_{
			QueryParameter: &routev3.RouteAction_HashPolicy_QueryParameter{Name: h.QueryParameter.Name},
		}}
	case h.FilterState != nil:
		return &routev3.RouteAction_HashPolicy{PolicySpecifier: &routev3.RouteAction_HashPolicy_FilterState_{
			FilterState: &routev3.RouteAction_HashPolicy_FilterState{Key: h.FilterState.Key},
		}}
	}
	return nil
}

// setTCP takes the first thing that a connection has: Envoy hashes only one there.
func setTCP(c Conf, l proxy.Listener, m *tcpproxyv3.TcpProxy) {
	if l.Direction != proxy.Outbound && !l.Egress() {
		return
	}
	for _, h := range c.HashPolicies {
		switch {
		case h.Connection != nil && h.Connection.SourceIP != nil && *h.Connection.SourceIP:
			m.HashPolicy = []*typev3.HashPolicy{{PolicySpecifier: &typev3.HashPolicy_SourceIp_{SourceIp: &typev3.HashPolicy_SourceIp{}}}}
			return
		case h.FilterState != nil:
			m.HashPolicy = []*typev3.HashPolicy{{PolicySpecifier: &typev3.HashPolicy_FilterState_{
				FilterState: &typev3.HashPolicy_FilterState{Key: h.FilterState.Key},
			}}}
			return
		}
	}
}

// arrange puts endpoints into priorities and, within the own zone, into groups.
func arrange(c Conf, a *proxy.Assignment) {
	l := c.LocalityAwareness
	if l == nil {
		return
	}
	if l.off() {
		for _, e := range a.Endpoints {
			e.Priority = 0
		}
		return
	}
	tags := l.tags()
	for _, e := range a.Endpoints {
		if e.Zone == a.Client.Zone {
			e.SubZone, e.Weight = affinity(tags, a.Client, e)
		}
	}
	// A service of one zone has been chosen with its zone; there is nothing to fail over to.
	cross := l.CrossZone
	if a.Destination.Type != policy.TargetMultiZone {
		cross = nil
	}
	if cross != nil && len(cross.Failover) > 0 {
		for _, e := range a.Endpoints {
			if e.Zone != a.Client.Zone {
				step := cross.step(a.Client.Zone, e.Zone)
				e.Priority, e.Excluded = uint32(step+1), step < 0
			}
		}
	}
	if cross != nil || len(tags) > 0 {
		a.Overprovisioning = cross.overprovisioning()
	}
}

// affinity is the group of an endpoint of the own zone and the weight of that group. Without tags all are one group.
func affinity(tags []AffinityTag, client proxy.Client, e *proxy.Endpoint) (string, uint32) {
	if len(tags) == 0 {
		return "", 0
	}
	for i, t := range tags {
		value, ok := client.Labels[t.Key]
		if !ok || e.Label(t.Key) != value {
			continue
		}
		weight := 9 * uint32(math.Pow10(len(tags)-i-1))
		if t.Weight != nil {
			weight = *t.Weight
		}
		return t.Key + "=" + value, weight
	}
	return "", 1
}

// step is the index of the rule that sends traffic from one zone to another, negative when none does.
func (z CrossZone) step(from, to string) int {
	for i, f := range z.Failover {
		if f.From != nil && !slices.Contains(f.From.Zones, from) {
			continue
		}
		named := slices.Contains(f.To.Zones, to)
		switch {
		case f.To.Type == None:
			return -1
		case f.To.Type == Any, f.To.Type == Only && named, f.To.Type == AnyExcept && !named:
			return i
		}
	}
	return -1
}

// defaultThreshold applies where the zone's endpoints are told apart or failover is configured.
const defaultThreshold = 50

// overprovisioning is what Envoy multiplies health by: at the threshold it makes 100 percent.
func (z *CrossZone) overprovisioning() uint32 {
	p := float64(defaultThreshold)
	if z != nil && z.FailoverThreshold != nil {
		p = max(minThreshold, z.FailoverThreshold.Percentage.Float())
	}
	// Rounded up, so that at the threshold itself nothing moves yet; the tolerance is for what floats make of 100·100/50.
	return uint32(math.Ceil(100*100/p - 1e-9))
}
