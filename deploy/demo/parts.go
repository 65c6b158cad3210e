package demo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/api/resource"
)

// The kinds of parts.
const (
	kindGlobal       = "global"
	kindControlPlane = "control-plane"
	kindGateway      = "gateway"
	kindEgress       = "egress"
	kindService      = "service"
)

// A part is what can be broken and healed by a name of its own, such as east/catalog.
type part struct {
	name string
	kind string
	zone *zone // nil for global
	what string
	unit []unit // never empty
}

// parts lists all of them, in the order in which they are started.
func (d *Demo) parts() []part {
	out := []part{}
	if d.global != nil {
		out = append(out, part{kindGlobal, kindGlobal, nil, "the global control plane", []unit{d.global}})
	}
	for _, z := range d.zones {
		out = append(out,
			part{z.name + "/" + kindControlPlane, kindControlPlane, z, "the control plane of " + z.name, []unit{z.plane}},
			part{z.name + "/" + kindGateway, kindGateway, z, "the ingress gateway of " + z.name, []unit{z.ingress}},
			part{z.name + "/" + kindEgress, kindEgress, z, "the egress of " + z.name, []unit{z.egress}})
		for _, s := range services {
			p := part{name: z.name + "/" + s, kind: kindService, zone: z, what: fmt.Sprintf("both instances of %s in %s", s, z.name)}
			for _, i := range z.service(s) {
				p.unit = append(p.unit, i)
			}
			out = append(out, p)
		}
	}
	return out
}

func (p part) running() int {
	n := 0
	for _, u := range p.unit {
		if running(u) {
			n++
		}
	}
	return n
}

func (p part) broken() bool { return p.running() < len(p.unit) }

// errUnknown is a name of a part that does not exist.
var errUnknown = errors.New("the demo has no such part")

// find lists the parts that a name stands for: one part, a whole zone, or with no name all of them.
func (d *Demo) find(name string) ([]part, error) {
	all := d.parts()
	if name == "" {
		return all, nil
	}
	var out []part
	var names []string
	for _, p := range all {
		if p.name == name || p.zone != nil && p.zone.name == name {
			out = append(out, p)
		}
		names = append(names, p.name)
	}
	if len(out) > 0 {
		return out, nil
	}
	err := fmt.Errorf("%s: %w", resource.Quote(name), errUnknown)
	if near := resource.Nearest(name, names); near != "" {
		return nil, fmt.Errorf("%w; did you mean %s?", err, near)
	}
	return nil, fmt.Errorf("%w; there are %s, and whole zones", err, strings.Join(names, ", "))
}

// told names parts for people, a whole zone as one.
func told(parts []part) string {
	of := map[*zone]int{}
	for _, p := range parts {
		of[p.zone]++
	}
	var out []string
	for _, p := range parts {
		switch all := 3 + len(services); {
		case p.zone == nil || of[p.zone] < all:
			out = append(out, p.what)
		case p.kind == kindControlPlane: // the first part of a zone
			out = append(out, "all of zone "+p.zone.name)
		}
	}
	return strings.Join(out, ", ")
}

// apart are the processes of parts: proxies, and control planes.
func apart(parts []part) (proxies, planes []unit) {
	for _, p := range parts {
		if p.kind == kindControlPlane || p.kind == kindGlobal {
			planes = append(planes, p.unit...)
		} else {
			proxies = append(proxies, p.unit...)
		}
	}
	return proxies, planes
}

// breakParts stops or kills parts, waits until traffic has found its way, and tells both.
func (d *Demo) breakParts(ctx context.Context, name string, kill bool, tell func(string)) error {
	if name == "" {
		return errors.New("say what to break")
	}
	found, err := d.find(name)
	if err != nil {
		return err
	}
	found = slices.DeleteFunc(found, func(p part) bool { return p.running() == 0 })
	if len(found) == 0 {
		tell(name + " is broken already.")
		return nil
	}
	proxies, planes := apart(found)
	return d.whileWatched(ctx, tell, func() error {
		if kill {
			tell("Killing " + told(found) + " …")
			stopAll(slices.Concat(proxies, planes), true)
			return nil
		}
		tell("Stopping " + told(found) + " …")
		for _, u := range proxies {
			u.process().stop(false)
		}
		if len(planes) > 0 {
			stopAll(proxies, false) // they say goodbye to the control plane
			stopAll(planes, false)
		}
		return nil
	}, func() { stopAll(proxies, kill) })
}

// heal starts what is broken of the parts, with no name also restores what was declared, waits until traffic has come home, and tells both.
func (d *Demo) heal(ctx context.Context, name string, tell func(string)) error {
	found, err := d.find(name)
	if err != nil {
		return err
	}
	found = slices.DeleteFunc(found, func(p part) bool { return !p.broken() })
	proxies, planes := apart(found)
	return d.whileWatched(ctx, tell, func() error {
		if len(found) > 0 {
			tell("Starting " + told(found) + " …")
		} else {
			tell("Everything runs.")
		}
		for _, units := range [][]unit{planes, proxies} {
			start, startCtx := errgroup.WithContext(ctx)
			for _, u := range units {
				if !running(u) {
					start.Go(func() error { return u.start(startCtx) })
				}
			}
			if err := start.Wait(); err != nil {
				return err
			}
		}
		if name == "" {
			return d.restore(ctx, tell)
		}
		return nil
	}, func() {})
}

// restore writes anew what the demo declared at global, in case somebody tried what happens without it.
func (d *Demo) restore(ctx context.Context, tell func(string)) error {
	n, err := d.global.apply(ctx, d.declarations())
	if n > 0 {
		tell(fmt.Sprintf("Restored what the demo declared at global (%d of its resources had been changed or deleted).", n))
	}
	return err
}

// whileWatched does something, waits until requests take the way that they should then, finishes, and tells what users saw meanwhile.
func (d *Demo) whileWatched(ctx context.Context, tell func(string), do func() error, finish func()) error {
	w := d.traffic.watch()
	defer w.close()
	err := do()
	if err == nil {
		err = d.follow(ctx, tell)
	}
	finish()
	w.close()
	if err != nil {
		return err
	}
	if err := d.until(ctx, "answers to all requests", w.complete); err != nil {
		return err
	}
	t, _ := w.seen()
	tell("Meanwhile: " + t.requests() + ".")
	return nil
}

// hintAfter and giveUpAfter are when somebody who waits for traffic is told why: policies of their own may send it elsewhere.
const (
	hintAfter   = 5 * time.Second
	giveUpAfter = 30 * time.Second
)

// follow waits until requests take the way that they should, and tells which one it is.
func (d *Demo) follow(ctx context.Context, tell func(string)) error {
	want := d.expected()
	ctx, cancel := context.WithTimeout(ctx, giveUpAfter)
	defer cancel()
	hint := time.AfterFunc(hintAfter, func() {
		t := d.traffic.last(time.Second)
		tell(fmt.Sprintf("Waiting for requests to take the way %s; now: %s", orNobody(want), &t))
	})
	err := d.settle(ctx)
	hint.Stop()
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		t := d.traffic.last(recently)
		tell(fmt.Sprintf("Not within %s: %s. Policies of yours may send requests elsewhere, and a gateway that fails often returns late.", giveUpAfter, &t))
	case err != nil:
		return err
	case want == "":
		tell("Nobody is left who could answer.")
	default:
		tell("Answers now come by " + want + ".")
	}
	return nil
}

func orNobody(way string) string {
	if way == "" {
		return "to nobody"
	}
	return way
}

// expected is the way that requests should take with what runs now; empty when there is none.
func (d *Demo) expected() string {
	at := d.entry(0).zone
	if !anyRuns(at.service(services[0])) {
		return ""
	}
	ways := []string{at.name}
	for _, s := range services[1:] {
		if at = d.serves(s, at); at == nil {
			return ""
		}
		ways = append(ways, at.name)
	}
	return route(ways...)
}

// serves is the zone whose instances should answer a caller in a zone: its own, or else one that can be reached.
func (d *Demo) serves(service string, from *zone) *zone {
	if anyRuns(from.service(service)) {
		return from
	}
	for _, z := range d.zones {
		// Nobody answers for an ingress whose control plane is gone, and it is not used.
		if z != from && anyRuns(z.service(service)) && running(z.ingress) && running(z.plane) {
			return z
		}
	}
	return nil
}

func anyRuns(is []*instance) bool {
	return slices.ContainsFunc(is, func(i *instance) bool { return running(i) })
}

// settle waits until some requests in a row take the expected way and no other.
func (d *Demo) settle(ctx context.Context) error {
	want := d.expected()
	enough := max(3, d.opts.Rate/2)
	w := d.traffic.watch()
	defer w.close()
	what := "requests to take the way " + want
	if want == "" {
		what = "requests to fail, as nobody can answer"
	}
	return d.until(ctx, what, func() (string, bool) {
		t, _ := w.seen()
		well := t.routes[want]
		if want == "" {
			well = t.failed
		}
		if well < t.total {
			w.restart()
		}
		return t.String(), well == t.total && well >= enough
	})
}
