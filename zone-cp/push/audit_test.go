package push

import (
	"fmt"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/envoy"
)

// Tables that followed many kinds of changes are what a computation from scratch gives, and the metrics say that this was looked at.
func TestAuditFindsNothing(t *testing.T) {
	z := newZone(t, 5*time.Millisecond)
	audited := func() (audits, differences float64) {
		t.Helper()
		families, err := z.metrics.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			switch f.GetName() {
			case "causeway_push_audits_total":
				audits = f.GetMetric()[0].GetCounter().GetValue()
			case "causeway_push_audit_differences_total":
				differences = f.GetMetric()[0].GetCounter().GetValue()
			}
		}
		return audits, differences
	}
	z.put(dp("web-1") + "---" + dp("web-2") + "---" + service)
	s := z.open("web-1")
	until(t, s, "the cluster", func(tb *envoy.Table) bool { return tb.Get(envoy.Cluster, cluster) != nil })
	for i := range 20 {
		before := s.Table().Get(envoy.Cluster, cluster).Version
		z.put(fmt.Sprintf("type: MeshTimeout\nmesh: default\nname: t\nspec: {to: [{targetRef: {kind: Mesh}, default: {connectionTimeout: %dms}}]}", 1000+i))
		until(t, s, "the new timeout", func(tb *envoy.Table) bool { return tb.Get(envoy.Cluster, cluster).Version != before })
		if i%4 == 0 {
			z.put(dp(fmt.Sprintf("more-%d", i)))
		}
		// The next audit that begins sees this change.
		from, _ := audited()
		for n, _ := audited(); n < from+2; n, _ = audited() {
			select {
			case <-t.Context().Done():
				t.Fatal("no audit ends")
			case <-time.After(time.Millisecond):
			}
		}
	}
	audits, differences := audited()
	if audits < 40 || differences != 0 {
		t.Errorf("%v audits found %v differences", audits, differences)
	}
}
