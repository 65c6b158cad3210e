package rest_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// BenchmarkPage is a page of 100 out of 10,000, without the network.
func BenchmarkPage(b *testing.B) {
	p := newPlane(b, nil)
	p.mustPut("/meshes/default", bareMesh)
	p.fill(10_000)
	for b.Loop() {
		if rec := p.serve("GET", "/meshes/default/meshtimeouts?offset=5000", "", false); rec.Code != http.StatusOK {
			b.Fatal(rec.Body)
		}
	}
}

// BenchmarkPut is one write after the other on the memory store, which shows what the API itself costs.
func BenchmarkPut(b *testing.B) {
	p := newPlane(b, nil)
	p.mustPut("/meshes/default", bareMesh)
	i := 0
	for b.Loop() {
		body := fmt.Sprintf(`{"type":"MeshTimeout","name":"t","spec":{"to":[{"default":{"idleTimeout":"%ds"}}]}}`, i)
		if rec := p.serve("PUT", "/meshes/default/meshtimeouts/t", body, false); rec.Code >= 300 {
			b.Fatal(rec.Body)
		}
		i++
	}
}

// BenchmarkBatch500 is a batch of 500 resources on the memory store.
func BenchmarkBatch500(b *testing.B) {
	p := newPlane(b, nil)
	p.mustPut("/meshes/default", bareMesh)
	i := 0
	for b.Loop() {
		p.fillBatch(b, 500, i)
		i++
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/500, "µs/object")
}

func (p *plane) fillBatch(b *testing.B, n, seed int) {
	items := make([]string, n)
	for j := range items {
		items[j] = fmt.Sprintf(`{"type":"MeshTimeout","mesh":"default","name":"t%d","spec":{"to":[{"default":{"idleTimeout":"%ds"}}]}}`, j, seed)
	}
	if rec := p.serve("POST", "/batch", "["+strings.Join(items, ",")+"]", false); rec.Code != http.StatusOK {
		b.Fatal(rec.Body)
	}
}
