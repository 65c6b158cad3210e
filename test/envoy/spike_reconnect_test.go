package envoy

import (
	"strings"
	"testing"
	"time"

	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
)

// After a stream has ended Envoy waits up to half a second, and twice as long after each stream on which
// it heard nothing, up to thirty seconds. A bound in the bootstrap or one empty response per stream prevents that.
func TestSpikeReconnectBackOff(t *testing.T) {
	t.Parallel()
	const rounds = 6
	bounded := func(bootstrap string) string {
		return strings.Replace(bootstrap, "{cluster_name: xds}",
			"{cluster_name: xds, retry_policy: {retry_back_off: {base_interval: 0.02s, max_interval: 0.2s}}}", 1)
	}
	for name, c := range map[string]struct {
		bootstrap func(string) string
		greet     bool
		limit     time.Duration
	}{
		"bounded by the bootstrap":        {bounded, false, 400 * time.Millisecond},
		"reset by a response on each one": {strings.Clone, true, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			binary(t)
			server := newServer(t)
			p := startProxy(t, c.bootstrap(server.adsBootstrap()))
			s := server.accept(t)
			s.boot(t, p, everything{})
			for range rounds {
				if c.greet {
					s.first(t, resourcev3.ClusterType)
					s.push(t, resourcev3.ClusterType)
				}
				s.cut()
				begin := time.Now()
				s = server.accept(t)
				if took := time.Since(begin); took > c.limit {
					t.Errorf("connected again after %s, want within %s", took, c.limit)
				}
			}
		})
	}
}
