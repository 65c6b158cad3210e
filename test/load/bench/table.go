package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// A row is one figure of the report. Times are in milliseconds; bytes, messages and CPU are of one change.
type row struct {
	What    string `json:"what"`
	Proxies int    `json:"proxies,omitempty"`
	// Reached is how many proxies the change concerned.
	Reached int     `json:"reached,omitempty"`
	Rounds  int     `json:"rounds,omitempty"`
	Latency *spread `json:"latencyMs,omitempty"`
	// Whole is last, counted from sending the write.
	Whole    float64  `json:"wholeMs,omitempty"`
	Bytes    int64    `json:"bytes,omitempty"`
	Messages float64  `json:"messages,omitempty"`
	CPU      []share  `json:"cpuMs,omitempty"`
	Memory   []share  `json:"peakMiB,omitempty"`
	Ceiling  *ceiled  `json:"ceiling,omitempty"`
	Figures  []figure `json:"figures,omitempty"`
}

// A spread is of all proxies and all rounds; last is the median over the rounds of the last proxy.
type spread struct {
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	Max  float64 `json:"max"`
	Last float64 `json:"last"`
}

// A share is what one process has of something.
type share struct {
	Process string  `json:"process"`
	Amount  float64 `json:"amount"`
}

// ceiled is what the same bytes in as many messages took.
type ceiled struct {
	spread
	CPU float64 `json:"cpuMs"`
}

// A figure is anything else that was measured.
type figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

// A tally collects the latencies of rounds.
type tally struct {
	all  []time.Duration
	last []time.Duration
}

func (t *tally) add(round []time.Duration) {
	if len(round) == 0 {
		return
	}
	t.all = append(t.all, round...)
	t.last = append(t.last, slices.Max(round))
}

func (t *tally) spread() spread {
	slices.Sort(t.all)
	slices.Sort(t.last)
	return spread{P50: quantile(t.all, 0.5), P99: quantile(t.all, 0.99), Max: quantile(t.all, 1), Last: quantile(t.last, 0.5)}
}

// quantile is of sorted durations, in milliseconds.
func quantile(sorted []time.Duration, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return ms(sorted[min(len(sorted)-1, int(q*float64(len(sorted))))])
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (r row) line() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d proxies, %s:", r.Proxies, r.What)
	if r.Latency != nil {
		fmt.Fprintf(&b, " p50 %.0f, p99 %.0f, max %.0f ms", r.Latency.P50, r.Latency.P99, r.Latency.Max)
	}
	if r.Ceiling != nil {
		fmt.Fprintf(&b, ", last %.0f ms, ceiling %.0f ms", r.Latency.Last, r.Ceiling.Last)
	}
	for _, f := range r.Figures {
		fmt.Fprintf(&b, " %s %.4g %s;", f.Name, f.Value, f.Unit)
	}
	return b.String()
}

// print writes two tables in Markdown: latencies beside the ceiling, and all the rest.
func print(w io.Writer, all []row) {
	fmt.Fprintln(w, "\nMilliseconds from the answer to the write until a proxy has acknowledged; \"last\" is the median of the last proxy, and \"from sending\" the same from when the write was sent. Bytes, messages and CPU are per change.")
	fmt.Fprintln(w, "\n| change | proxies | reached | p50 | p99 | max | last | from sending | ceiling last | ratio | KiB | messages | CPU ms | ceiling CPU ms | peak MiB |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|")
	for _, r := range all {
		if r.Latency == nil {
			continue
		}
		l, c := r.Latency, cmp.Or(r.Ceiling, &ceiled{})
		ratio := "–"
		if c.Last > 0 {
			ratio = fmt.Sprintf("%.1f", l.Last/c.Last)
		}
		fmt.Fprintf(w, "| %s | %d | %d | %.1f | %.1f | %.1f | %.1f | %.1f | %.1f | %s | %d | %.0f | %s | %.0f | %s |\n", r.What, r.Proxies, r.Reached,
			l.P50, l.P99, l.Max, l.Last, r.Whole, c.Last, ratio, r.Bytes>>10, r.Messages, shares(r.CPU), c.CPU, shares(r.Memory))
	}
	fmt.Fprintln(w, "\n| what | proxies | figures |")
	fmt.Fprintln(w, "|---|---|---|")
	for _, r := range all {
		if len(r.Figures) == 0 {
			continue
		}
		var parts []string
		for _, f := range r.Figures {
			parts = append(parts, fmt.Sprintf("%s %.4g %s", f.Name, f.Value, f.Unit))
		}
		fmt.Fprintf(w, "| %s | %d | %s |\n", r.What, r.Proxies, strings.Join(parts, "; "))
	}
}

func shares(all []share) string {
	var parts []string
	for _, s := range all {
		parts = append(parts, fmt.Sprintf("%s %.0f", s.Process, s.Amount))
	}
	return strings.Join(parts, ", ")
}
