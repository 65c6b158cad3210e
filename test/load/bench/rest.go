package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/api/client"
)

// rest measures the API of a global control plane alone, over HTTPS.
func rest(ctx context.Context, o options, dir, store string, args []string, note func(row)) error {
	g, err := startGlobal(ctx, o.binary, dir, args...)
	if err != nil {
		return err
	}
	defer g.kill()
	r := row{What: "REST writes on " + store}
	for _, writers := range []int{1, 8, 64} {
		for round, name := range []string{"create", "update"} {
			n := o.writes
			if writers == 1 {
				n /= 4
			}
			rate, err := writing(ctx, g, writers, n, round)
			if err != nil {
				return err
			}
			r.Figures = append(r.Figures, figure{fmt.Sprintf("%s by %d", name, writers), rate, "/s"})
		}
	}
	const inBatches = 10_000
	begin := time.Now()
	if err := fill(ctx, g, "first", 0, inBatches); err != nil {
		return err
	}
	r.Figures = append(r.Figures, figure{"in batches of 500", inBatches / time.Since(begin).Seconds(), "/s"})
	note(r)
	// The lists are of a mesh of their own, so that their lengths are what they say.
	have := 0
	for _, total := range []int{1_000, 10_000, 100_000} {
		if err := fill(ctx, g, "batch", have, total); err != nil {
			return err
		}
		have = total
		r, err := lists(ctx, g, store, total)
		if err != nil {
			return err
		}
		note(r)
	}
	return nil
}

// writing puts n objects one by one and returns how many a second.
func writing(ctx context.Context, g *plane, writers, n, round int) (float64, error) {
	var next atomic.Int64
	begin := time.Now()
	var all errgroup.Group
	for range writers {
		all.Go(func() error {
			for {
				i := int(next.Add(1))
				if i > n {
					return nil
				}
				name := fmt.Sprintf("w%d-%d", writers, i)
				_, err := g.Do(ctx, client.Request{Method: http.MethodPut, Path: "/meshes/default/meshtimeouts/" + name, Body: policy(name, round)})
				if err != nil {
					return err
				}
			}
		})
	}
	err := all.Wait()
	return float64(n) / time.Since(begin).Seconds(), err
}

// lists measures a page of 100, alone and with 50 readers while one writes.
func lists(ctx context.Context, g *plane, store string, total int) (row, error) {
	page := func(ctx context.Context, query url.Values) (time.Duration, error) {
		begin := time.Now()
		resp, err := g.Do(ctx, client.Request{Method: http.MethodGet, Path: "/meshes/default/meshtimeouts", Query: query})
		took := time.Since(begin)
		var list struct{ Items []json.RawMessage }
		if err == nil {
			err = json.Unmarshal(resp.Body, &list)
		}
		if err == nil && len(list.Items) == 0 {
			err = fmt.Errorf("page %v is empty", query)
		}
		return took, err
	}
	r := row{What: fmt.Sprintf("list of %d on %s", total, store)}
	middle := url.Values{"size": {"100"}, "offset": {fmt.Sprint(total / 2)}}
	named := url.Values{"size": {"100"}, "name": {fmt.Sprintf("batch-%d", total/2)}}
	for _, q := range []struct {
		name  string
		query url.Values
	}{{"page of 100", middle}, {"filter by name", named}} {
		var alone []time.Duration
		for range 50 {
			took, err := page(ctx, q.query)
			if err != nil {
				return r, err
			}
			alone = append(alone, took)
		}
		slices.Sort(alone)
		r.Figures = append(r.Figures, figure{q.name + ", p50", quantile(alone, 0.5), "ms"}, figure{"p99", quantile(alone, 0.99), "ms"})
	}
	const readers, each = 50, 20
	var mu sync.Mutex
	var busy []time.Duration
	var reading errgroup.Group
	var writes atomic.Int64
	end := background(ctx, func(ctx context.Context) error {
		for i := 0; ctx.Err() == nil; i++ {
			if _, err := g.Do(ctx, client.Request{Method: http.MethodPut, Path: "/meshes/default/meshtimeouts/busy", Body: policy("busy", i)}); err == nil {
				writes.Add(1)
			}
		}
		return nil
	})
	begin := time.Now()
	for range readers {
		reading.Go(func() error {
			for range each {
				took, err := page(ctx, middle)
				if err != nil {
					return err
				}
				mu.Lock()
				busy = append(busy, took)
				mu.Unlock()
			}
			return nil
		})
	}
	err := reading.Wait()
	long := time.Since(begin).Seconds()
	end()
	slices.Sort(busy)
	r.Figures = append(r.Figures, figure{"50 readers beside a writer, p50", quantile(busy, 0.5), "ms"}, figure{"p99", quantile(busy, 0.99), "ms"},
		figure{"pages", float64(len(busy)) / long, "/s"}, figure{"writes", float64(writes.Load()) / long, "/s"})
	return r, err
}
