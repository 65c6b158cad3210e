package push

import (
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/api/envoy"
)

// An external service whose Secret is missing has no endpoints; when the Secret comes it has, and what a proxy gets and people see never
// holds the secret itself.
func TestExternalServiceWaitsForItsSecret(t *testing.T) {
	z := newZone(t, 0)
	z.put(`
type: MeshIdentity
mesh: default
name: identity
spec:
  selector: {dataplane: {matchLabels: {}}}
  provider: {type: Bundled, bundled: {autogenerate: {enabled: true}}}
---
type: Dataplane
mesh: default
name: egress-1
labels: {kuma.io/workload: egress, kuma.io/listener-zoneegress: enabled}
networking: {address: 127.0.0.1, listeners: [{type: ZoneEgress, name: out, address: 127.0.0.1, port: 10002}]}
---
type: MeshExternalService
mesh: default
name: bank
spec:
  match: {port: 443}
  endpoints: [{address: 192.0.2.1, port: 443}]
  tls: {enabled: true, verification: {caCert: {type: Secret, secretRef: {kind: Secret, name: ca}}}}
`)
	s := z.open("egress-1")
	const name = "self_zoneegress_dp_out_kri_extsvc_default___bank_443"
	endpoints := func(table *envoy.Table) int {
		f := table.Get(envoy.Cluster, name)
		if f == nil {
			return -1
		}
		c := &clusterv3.Cluster{}
		if err := proto.Unmarshal(f.Body(), c); err != nil {
			t.Fatal(err)
		}
		return len(c.GetLoadAssignment().GetEndpoints())
	}
	until(t, s, "the service has no endpoints", func(table *envoy.Table) bool { return endpoints(table) == 0 })
	_, problems, err := z.engine.Inspect(t.Context(), dataplane("egress-1"))
	if err != nil || len(problems) != 1 || !strings.Contains(problems[0].Text, `there is no Secret "ca"`) {
		t.Errorf("problems %v, %v", problems, err)
	}
	z.put("type: Secret\nmesh: default\nname: ca\ndata: " + authority)
	until(t, s, "the service has endpoints", func(table *envoy.Table) bool { return endpoints(table) == 1 })
	table, problems, err := z.engine.Inspect(t.Context(), dataplane("egress-1"))
	if err != nil || len(problems) != 0 {
		t.Errorf("problems %v, %v", problems, err)
	}
	shown, err := envoy.Render(table, nil)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(shown), authority[:40]) || !strings.Contains(string(shown), "authorities_kri_extsvc_default___bank_") {
		t.Error("the configuration shows the secret, or does not name it")
	}
}

// authority is a certificate in PEM, in base64.
const authority = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCk1JSUJmekNDQVNXZ0F3SUJBZ0lVVkRkYWI1c2pNMTNweHh6cDhpYkZpYUtGcml3d0NnWUlLb1pJemowRUF3SXcKRkRFU01CQUdBMVVFQXd3SllYVjBhRzl5YVhSNU1DQVhEVEkyTVRFeU56QTRNREkwTWxvWUR6SXhNall4TVRBegpNRGd3TWpReVdqQVVNUkl3RUFZRFZRUUREQWxoZFhSb2IzSnBkSGt3V1RBVEJnY3Foa2pPUFFJQkJnZ3Foa2pPClBRTUJCd05DQUFTQThFeWRvbWV1cFNXNkZ0U1AySlpZM3dnQWxENnBGNTZ4ZDdFRXUrcDIyRmkzM0xMT2ZzbnUKMnVlOGxOWGYyd3JTS0pYbk5QNElPL1hjQ2NMRHNQRjdvMU13VVRBZEJnTlZIUTRFRmdRVXFDYjdsOTZRU3I3Ygo2Y3NSQ3lISkQrb0M3eFl3SHdZRFZSMGpCQmd3Rm9BVXFDYjdsOTZRU3I3YjZjc1JDeUhKRCtvQzd4WXdEd1lEClZSMFRBUUgvQkFVd0F3RUIvekFLQmdncWhrak9QUVFEQWdOSUFEQkZBaUVBK3NlLytzVjM0YWZ0NUxrcGR5QmIKeXIyVFlSa2lyUXpTbXZJZ3prNnA2YzBDSUZNZlpTNnFFTHcrTlpHYVVva3lnQ2w2a1p5U0gza0NMNUJPRTFwUApKMDlkCi0tLS0tRU5EIENFUlRJRklDQVRFLS0tLS0K"
