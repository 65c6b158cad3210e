package metrics

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	metricsv1 "go.opentelemetry.io/proto/otlp/metrics/v1"

	"github.com/causeway-mesh/causeway/api/agentapi"
)

// FuzzApplication: whatever an application tells, what is made of it can be parsed again, together with what Envoy tells, and makes
// messages for collectors.
func FuzzApplication(f *testing.F) {
	for _, s := range []string{
		"", "a 1\n", "# TYPE a counter\na{b=\"c\"} 1 1700000000000\n", "# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 1\nh_sum NaN\nh_count 3\n",
		"# TYPE s summary\ns{quantile=\"0.5\"} 1\ns_sum 1\ns_count 1\n", "# TYPE envoy_server_live counter\nenvoy_server_live 3\n", "a{le=\"1\"} +Inf\n", "{\"x.y\"} 1\n",
		"# HELP a b\\n\\\\\n# TYPE a gauge\na{x=\"\\\"\\\\\\n\"} -1e300\n", "a{mesh=\"x\",exported_mesh=\"y\"} 1\n",
	} {
		f.Add(s)
	}
	labels := map[string]string{"mesh": "default", "zone": "ea\"st"}
	f.Fuzz(func(t *testing.T, text string) {
		families, err := readApplication(strings.NewReader(text))
		if err != nil {
			return
		}
		merged, _ := merge([]scraped{{application: &agentapi.MetricsApplication{Name: "app"}, families: families}}, labels)
		var out bytes.Buffer
		out.WriteString("# TYPE envoy_server_live gauge\nenvoy_server_live{} 1\n")
		send := newBatches(&agentapi.Metrics{Labels: labels}, "test", time.Unix(1, 0), func(*metricsv1.MetricsData) error { return nil })
		for _, name := range sorted(merged) {
			if name == "envoy_server_live" {
				continue // joined with Envoy's
			}
			if _, err := expfmt.MetricFamilyToText(&out, merged[name]); err != nil {
				t.Fatalf("%s cannot be written: %v", name, err)
			}
			if err := send.family(merged[name]); err != nil {
				t.Fatal(err)
			}
		}
		if err := send.flush(); err != nil {
			t.Fatal(err)
		}
		p := expfmt.NewTextParser(model.LegacyValidation)
		again, err := p.TextToMetricFamilies(&out)
		if err != nil {
			t.Fatalf("cannot be parsed again: %v\n%s", err, out.String())
		}
		if again["envoy_server_live"].GetMetric()[0].GetGauge().GetValue() != 1 {
			t.Error("what Envoy tells was changed")
		}
	})
}

// FuzzEnvoy: reading what Envoy tells neither fails on odd lines nor takes more memory than there is text.
func FuzzEnvoy(f *testing.F) {
	for _, s := range []string{
		"", "# TYPE a counter\na{} 1\n", "# TYPE a counter\na{b=\"}\"} 1\nno end", "# TYPE a\n# TYPE  \n\n\n", "x 1\n# TYPE b gauge\nb 1\n{\n", "# TYPE a gauge\n" + strings.Repeat("y", 70_000),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		total := 0
		_ = eachFamily(strings.NewReader(text), func(string) bool { return true }, func(f family) error {
			total += len(f.samples)
			out := appendLabelled(nil, f, `zone="east",`, true)
			if bytes.Count(out, []byte("\n")) > bytes.Count(f.samples, []byte("\n")) {
				t.Errorf("%q has more lines than %q", out, f.samples)
			}
			_, _ = parse(f) // it may not be one
			return nil
		})
		if total > len(text)+1 {
			t.Errorf("%d bytes of samples in %d of text", total, len(text))
		}
	})
}
