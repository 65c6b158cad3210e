package demo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/api/resource"
)

// The kinds of parts.
const (
	kindGlobal       = "global"
	kindControlPlane = "control-plane"
	kindGateway      = "gateway"
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
			part{z.name + "/" + kindGateway, kindGateway, z, "the ingress of " + z.name, []unit{z.ingress}})
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

// breakPart stops or kills parts, waits until traffic has found its way, and tells both.
func (d *Demo) breakPart(ctx context.Context, name string, kill bool, tell func(string)) error {
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
	verb := "Stopped"
	if kill {
		verb = "Killed"
	}
	return d.whileWatched(ctx, tell, func() error {
		var proxies, planes []unit
		for _, p := range found {
			if p.kind == kindControlPlane || p.kind == kindGlobal {
				planes = append(planes, p.unit...)
			} else {
				proxies = append(proxies, p.unit...)
			}
		}
		if kill {
			stopAll(slices.Concat(proxies, planes), true)
		} else {
			stopAll(proxies, false) // they say goodbye to the control plane
			stopAll(planes, false)
		}
		for _, p := range found {
			tell(fmt.Sprintf("%s %s.", verb, p.what))
		}
		return nil
	})
}

// heal starts what is broken of the parts, waits until traffic has come home, and tells both.
func (d *Demo) heal(ctx context.Context, name string, tell func(string)) error {
	found, err := d.find(name)
	if err != nil {
		return err
	}
	found = slices.DeleteFunc(found, func(p part) bool { return !p.broken() })
	if len(found) == 0 {
		tell("Nothing is broken.")
		return nil
	}
	return d.whileWatched(ctx, tell, func() error {
		for _, planes := range []bool{true, false} {
			start, startCtx := errgroup.WithContext(ctx)
			for _, p := range found {
				if planes != (p.kind == kindControlPlane || p.kind == kindGlobal) {
					continue
				}
				for _, u := range p.unit {
					if !running(u) {
						start.Go(func() error { return u.start(startCtx) })
					}
				}
			}
			if err := start.Wait(); err != nil {
				return err
			}
		}
		for _, p := range found {
			tell(fmt.Sprintf("Started %s.", p.what))
		}
		return nil
	})
}

// whileWatched does something, waits until requests take the way that they should then, and tells what users saw meanwhile.
func (d *Demo) whileWatched(ctx context.Context, tell func(string), do func() error) error {
	w := d.traffic.watch()
	defer w.close()
	if err := do(); err != nil {
		return err
	}
	if err := d.settle(ctx); err != nil {
		return err
	}
	w.close()
	if err := d.until(ctx, "answers to all requests", func() (string, bool) {
		_, open := w.seen()
		return fmt.Sprint(open, " are missing"), open == 0
	}); err != nil {
		return err
	}
	t, _ := w.seen()
	if way := d.expected(); way == "" {
		tell("Nobody is left who could answer.")
	} else {
		tell("Answers now come by " + way + ".")
	}
	tell("Meanwhile: " + t.requests() + ".")
	return nil
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
