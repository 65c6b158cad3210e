package metrics

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/causeway-mesh/causeway/api/agentapi"
)

const (
	// maxApplication bounds what one application may tell.
	maxApplication = 16 << 20
	// acceptText asks for the one format that is parsed here.
	acceptText = "text/plain;version=0.0.4;q=1,*/*;q=0.1"
)

// newApplicationClient makes the client that asks applications. It follows no redirects: where an application is, the policy says.
func newApplicationClient() *http.Client {
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy: nil, DisableKeepAlives: false, MaxIdleConnsPerHost: 1, IdleConnTimeout: 2 * time.Minute,
			MaxResponseHeaderBytes: 64 << 10,
		},
	}
}

// A scraped is what one application told, or why it did not.
type scraped struct {
	application *agentapi.MetricsApplication
	families    map[string]*dto.MetricFamily
	took        time.Duration
	err         error
}

func (s scraped) source() string { return sourceOf(s.application) }

// sourceOf names an application, by its place when it has no name.
func sourceOf(a *agentapi.MetricsApplication) string {
	if a.GetName() != "" {
		return a.GetName()
	}
	return placeOf(a)
}

func placeOf(a *agentapi.MetricsApplication) string {
	return net.JoinHostPort(a.GetAddress(), strconv.FormatUint(uint64(a.GetPort()), 10)) + pathOf(a)
}

func pathOf(a *agentapi.MetricsApplication) string { return "/" + strings.TrimPrefix(a.GetPath(), "/") }

// scrapeAll asks all applications at once. What is wrong with one concerns no other.
func scrapeAll(ctx context.Context, c *http.Client, list []*agentapi.MetricsApplication) []scraped {
	out := make([]scraped, len(list))
	var wg sync.WaitGroup
	for i, a := range list {
		wg.Go(func() {
			begin := time.Now()
			families, err := scrape(ctx, c, a)
			out[i] = scraped{a, families, time.Since(begin), err}
		})
	}
	wg.Wait()
	return out
}

func scrape(ctx context.Context, c *http.Client, a *agentapi.MetricsApplication) (map[string]*dto.MetricFamily, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+placeOf(a), nil)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", placeOf(a), err)
	}
	r.Header.Set("Accept", acceptText)
	r.Header.Set("User-Agent", "causeway")
	resp, err := c.Do(r)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", placeOf(a), err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask %s: it answers %s", placeOf(a), resp.Status)
	}
	families, err := readApplication(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("read what %s tells: %w", placeOf(a), err)
	}
	return families, nil
}

// readApplication reads all that an application tells, or nothing of it.
func readApplication(r io.Reader) (map[string]*dto.MetricFamily, error) {
	limited := &io.LimitedReader{R: r, N: maxApplication + 1}
	p := expfmt.NewTextParser(model.LegacyValidation)
	families, err := p.TextToMetricFamilies(limited)
	switch {
	case limited.N <= 0:
		return nil, fmt.Errorf("it is larger than %d MiB", maxApplication>>20)
	case err != nil:
		return nil, err
	}
	return families, nil
}

// merge joins what applications told: metrics of one name become one, if they agree on its type. Every sample gets the labels, and
// the name of its application where that has one; a label that the application gave by the same name is kept as exported_NAME.
func merge(list []scraped, labels map[string]string) (map[string]*dto.MetricFamily, []error) {
	out := map[string]*dto.MetricFamily{}
	seen := map[string]map[string]bool{} // the samples of metrics, by their labels
	var problems []error
	for _, s := range list {
		own := labels
		if name := s.application.GetName(); name != "" {
			own = map[string]string{"application": name}
			for k, v := range labels {
				own[k] = v
			}
		}
		for name, f := range s.families {
			have := out[name]
			switch {
			case have == nil:
				have = &dto.MetricFamily{Name: f.Name, Help: f.Help, Type: f.Type}
				out[name], seen[name] = have, map[string]bool{}
			case have.GetType() != f.GetType():
				problems = append(problems, fmt.Errorf("%s is a %s in one application and a %s in %s: the latter is left out",
					name, strings.ToLower(have.GetType().String()), strings.ToLower(f.GetType().String()), s.source()))
				continue
			}
			for _, m := range f.GetMetric() {
				m.Label = withLabels(m.GetLabel(), own)
				if k := sampleKey(m); !seen[name][k] {
					seen[name][k] = true
					have.Metric = append(have.Metric, m)
				}
			}
		}
	}
	return out, problems
}

func withLabels(in []*dto.LabelPair, more map[string]string) []*dto.LabelPair {
	for _, l := range in {
		if _, taken := more[l.GetName()]; taken {
			l.Name = new("exported_" + l.GetName())
		}
	}
	for k, v := range more {
		in = append(in, &dto.LabelPair{Name: new(k), Value: new(v)})
	}
	slices.SortFunc(in, func(a, b *dto.LabelPair) int { return strings.Compare(a.GetName(), b.GetName()) })
	return slices.CompactFunc(in, func(a, b *dto.LabelPair) bool { return a.GetName() == b.GetName() })
}

func sampleKey(m *dto.Metric) string {
	var b strings.Builder
	for _, l := range m.GetLabel() {
		b.WriteString(l.GetName())
		b.WriteByte(0xff)
		b.WriteString(l.GetValue())
		b.WriteByte(0xff)
	}
	return b.String()
}
