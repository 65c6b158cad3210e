package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
)

func (d *Demo) introduce() {
	d.say(`
Ready after %[1]s: %[2]d requests per second go to %[3]s

Try in another terminal:
  %[4]s demo break east/catalog            # both instances stop: west answers, no request fails
  %[4]s demo status                        # what runs, and who answers
  %[4]s demo trace                         # one request, as each proxy on its way saw it
  %[4]s demo heal                          # everything is as it was, traffic comes home
  curl http://%[10]s/rates            # stock asks outside of the mesh, through the egress
  %[4]s demo break global                  # traffic goes on: zones need global for changes only
  %[4]s demo break west --whole-zone --kill
Look into it, with global as the control plane that you talk to:
  %[4]s context add demo --server https://%[5]s \
    --ca-file %[6]s --token-file %[7]s
  %[4]s get zones
  %[4]s get dataplanes
  %[4]s delete meshtrafficpermission web-to-catalog     # refused in both zones at once; heal gives it back
  %[4]s apply -f %[9]s --wait   # a canary: one in four calls goes to version 2 of catalog

Ctrl-C or "%[4]s demo down" takes everything down. Logs are in %[8]s.
`, time.Since(d.began).Round(100*time.Millisecond), d.opts.Rate, d.doorURL(), d.opts.Name, d.global.api, d.global.caFile(), d.global.tokenFile(), d.dir, d.canaryFile(),
		d.zones[0].service(services[len(services)-1])[0].at(appPort))
}

// A step of the story is a sentence and what happens under load.
type step struct {
	what string
	do   func(context.Context) error
	// rough says that requests may fail meanwhile, as nobody is left who could answer, or nobody may.
	rough bool
}

// check plays the story. What breaks and heals parts are the commands that people use.
func (d *Demo) check(ctx context.Context) error {
	n := 0
	for _, s := range slices.Concat(d.peace(), d.failover(), d.policy(), d.controlPlanes()) {
		if err := d.play(ctx, s); err != nil {
			return fmt.Errorf("demo: %s: %w", s.what, err)
		}
		d.say("✓ %s", s.what)
		n++
	}
	if err := d.goodbye(ctx); err != nil {
		return fmt.Errorf("demo: down: %w", err)
	}
	d.say("All %d steps went as told.", n+1)
	return nil
}

func (d *Demo) peace() []step {
	east := d.zones[0]
	return []step{
		{
			"requests stay in east, and both instances of every service answer",
			d.then(d.untilAnswered("catalog-1@east", "catalog-2@east", "stock-1@east", "stock-2@east"), d.settle), false,
		},
		{"every service sees the identity of its caller", d.untilSeen(east, east, east), false},
		{"web may not ask stock directly: what nobody permits is refused", d.checkShortcut, false},
		{"stock asks a service outside of the mesh, through the egress of its zone and over TLS; web may not", d.then(
			d.untilOutside(services[2], http.StatusOK, d.zones...), d.untilOutside(services[0], http.StatusForbidden, d.zones...)), false},
		{"the egress of east stops: nothing gets out there, and nothing goes another way", d.then(
			d.run("break", "east/egress"), d.untilOutside(services[2], http.StatusServiceUnavailable, east), d.untilOutside(services[2], http.StatusOK, d.zones[1])), false},
		{"it is healed: the way is open again", d.then(d.run("heal"), d.untilOutside(services[2], http.StatusOK, d.zones...)), false},
		{"a second demo is refused", d.checkSecond, false},
	}
}

func (d *Demo) failover() []step {
	east, west := d.zones[0], d.zones[1]
	return []step{
		{"catalog stops in east: west answers", d.then(d.run("break", "east/catalog"), d.settle, d.untilAnswered("catalog-1@west", "catalog-2@west")), false},
		{"identities hold across zones", d.untilSeen(east, west, west), false},
		{"a trace crosses zones, as the proxies of both see it", d.checkTrace, false},
		{"the status says what is broken", d.checkStatus("east/catalog"), false},
		{"catalog is healed: traffic comes home", d.then(d.run("heal"), d.settle, d.untilAnswered("catalog-1@east", "catalog-2@east")), false},
		{"catalog is killed in east: west answers", d.then(d.run("break", "east/catalog", "--kill"), d.settle), false},
		{
			"the gateway of west is killed, too: it is withdrawn, and nobody can answer",
			d.then(d.run("break", "west", "--gateway", "--kill"), d.untilWithdrawn, d.settle), true,
		},
		{"the gateway is healed: west answers again", d.then(d.run("heal", "west", "--gateway"), d.settle), true},
		{"catalog is healed: traffic comes home", d.then(d.run("heal"), d.settle), false},
	}
}

func (d *Demo) policy() []step {
	return []step{
		{"a canary written at global: one in four calls of catalog goes to version 2, and none leaves the zone", d.checkCanary, false},
		{"the canary is deleted: both versions answer alike", d.then(d.removing("MeshHTTPRoute", canaried+"-canary"), d.untilShare(0.5)), false},
		{"a policy written at global spreads calls of stock over both zones", d.checkSpread, false},
		{"the gateway of west stops: all calls stay in east", d.then(d.run("break", "west", "--gateway"), d.settle), false},
		{"it is healed: west answers its part again", d.then(d.run("heal"), d.untilAnswered("stock-1@west", "stock-2@west")), false},
		{"the policy is deleted: traffic comes home", d.then(d.removing("MeshLoadBalancingStrategy", "spread-stock"), d.settle), false},
	}
}

func (d *Demo) controlPlanes() []step {
	west := d.zones[1]
	return []step{
		{"global is killed: traffic goes on", d.then(d.run("break", "global", "--kill"), d.untilMore, d.settle), false},
		{"zones fail over without global", d.then(d.run("break", "east/catalog"), d.settle), false},
		{"and traffic comes home without it", d.then(d.run("heal", "east/catalog"), d.settle), false},
		{
			"global is healed: a permission that is taken away is in force in both zones",
			d.then(d.run("heal", "global"), d.removing("MeshTrafficPermission", "web-to-catalog"), d.untilEverybody(http.StatusForbidden)), true,
		},
		{"and so is the one that heal gives back", d.then(d.run("heal"), d.untilEverybody(http.StatusOK), d.settle), true},
		{"the control plane of east is killed: traffic goes on", d.then(d.run("break", "east", "--control-plane", "--kill"), d.untilMore, d.settle), false},
		{"it is healed: nobody notices", d.then(d.run("heal"), d.untilMore, d.settle), false},
		{"all of west is killed: east goes on", d.then(d.run("break", "west", "--whole-zone", "--kill"), d.untilMore, d.settle), false},
		{
			"west is healed and answers",
			d.then(d.run("heal", "west"), func(ctx context.Context) error { return d.untilAnswers(ctx, west) }, d.untilReachable), false,
		},
		{"nothing is broken any more", d.checkStatus(""), false},
	}
}

// goodbye gives the command that ends the demo. It returns when the demo is told to end; the command returns when it has.
func (d *Demo) goodbye(ctx context.Context) error {
	d.farewell = make(chan error, 1)
	go func() {
		out, err := d.command(context.WithoutCancel(ctx), "down")
		d.say("  $ causeway demo down\n    %s", out)
		d.farewell <- err
	}()
	select {
	case <-ctx.Done():
		return nil
	case err := <-d.farewell:
		return fmt.Errorf("it did not end the demo: %w", err)
	}
}

// play does a step. Unless it is a rough one, no request that is sent meanwhile may fail.
func (d *Demo) play(ctx context.Context, s step) error {
	w := d.traffic.watch()
	defer w.close()
	err := s.do(ctx)
	w.close()
	if err == nil {
		err = d.until(ctx, "answers to all requests", w.complete)
	}
	t, _ := w.seen()
	if err == nil && !s.rough && t.failed > 0 {
		err = errors.New("requests failed")
	}
	if err != nil {
		return fmt.Errorf("%w: %s, %s", err, &t, t.requests())
	}
	return nil
}

type act = func(context.Context) error

// then does one thing after the other.
func (d *Demo) then(acts ...act) act {
	return func(ctx context.Context) error {
		for _, do := range acts {
			if err := do(ctx); err != nil {
				return err
			}
		}
		return nil
	}
}

// run is a command that a person would give.
func (d *Demo) run(args ...string) act {
	return func(ctx context.Context) error {
		out, err := d.command(ctx, args...)
		d.say("  $ causeway demo %s\n    %s", strings.Join(args, " "), strings.ReplaceAll(out, "\n", "\n    "))
		return err
	}
}

func (d *Demo) command(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, d.opts.Binary, append([]string{"demo"}, args...)...)
	cmd.Env = append(environ(d.opts.Environ), "XDG_RUNTIME_DIR="+filepath.Dir(d.opts.Dir))
	out, err := cmd.CombinedOutput()
	text := strings.TrimSpace(string(bytes.ToValidUTF8(out, nil)))
	if err != nil {
		return text, fmt.Errorf("causeway demo %s: %w: %s", strings.Join(args, " "), err, text)
	}
	return text, nil
}

func (d *Demo) removing(typ, name string) act {
	return func(ctx context.Context) error { return d.global.remove(ctx, typ, name) }
}

// untilAnswered waits until every one of the instances has answered.
func (d *Demo) untilAnswered(instances ...string) act {
	return func(ctx context.Context) error {
		w := d.traffic.watch()
		defer w.close()
		return d.until(ctx, "answers of "+strings.Join(instances, ", "), func() (string, bool) {
			t, _ := w.seen()
			missing := slices.DeleteFunc(slices.Clone(instances), func(i string) bool { return t.by[i] > 0 })
			return "none of " + strings.Join(missing, ", "), len(missing) == 0
		})
	}
}

// untilMore waits until so many more requests are answered that a fault would show.
func (d *Demo) untilMore(ctx context.Context) error {
	w := d.traffic.watch()
	defer w.close()
	return d.until(ctx, "more requests", func() (string, bool) {
		t, _ := w.seen()
		return t.String(), t.total >= 3*d.opts.Rate
	})
}

// untilSeen waits for requests that take the way over the zones, and checks whom each service sees as its caller.
func (d *Demo) untilSeen(way ...*zone) act {
	return func(ctx context.Context) error {
		if err := d.settle(ctx); err != nil {
			return err
		}
		w := d.traffic.watch()
		defer w.close()
		if err := d.until(ctx, "requests", func() (string, bool) {
			t, _ := w.seen()
			return t.String(), t.total >= d.opts.Rate
		}); err != nil {
			return err
		}
		t, _ := w.seen()
		for n := range services[1:] {
			at := services[n+1] + "@" + way[n+1].name
			want := spiffeID(way[n].name, services[n])
			if seen := t.callers[at]; len(seen) != 1 || seen[want] == 0 {
				return fmt.Errorf("%s saw %v, want %s alone", at, seen, want)
			}
		}
		return nil
	}
}

// untilEverybody waits until catalog answers web with a status in both zones.
func (d *Demo) untilEverybody(status int) act {
	return func(ctx context.Context) error {
		return d.until(ctx, fmt.Sprintf("catalog to answer web with %d in both zones", status), func() (string, bool) {
			var said []string
			all := true
			for _, z := range d.zones {
				for _, i := range z.service(services[0]) {
					a := i.ask(ctx)
					said = append(said, a.String())
					all = all && a.Next != nil && a.Next.Status == status
				}
			}
			return strings.Join(said, ", "), all
		})
	}
}

// untilWithdrawn waits until global has heard from east that the ingress of west is down.
func (d *Demo) untilWithdrawn(ctx context.Context) error {
	return d.until(ctx, "the ingress of west to be withdrawn", func() (string, bool) {
		seen, err := d.reachable(ctx)
		return fmt.Sprint(seen, err), seen["east to west"] == mesh.ReachabilityDown
	})
}

// checkSpread wants answers of stock in both zones, whoever asks.
// checkCanary applies the file that people find in the demo's directory.
func (d *Demo) checkCanary(ctx context.Context) error {
	text, err := os.ReadFile(d.canaryFile())
	if err != nil {
		return err
	}
	if _, err := d.global.apply(ctx, string(text)); err != nil {
		return err
	}
	return d.then(d.untilShare(0.25), d.settle)(ctx)
}

// untilShare waits until version 2 answers about such a share of the calls of the canaried service.
func (d *Demo) untilShare(share float64) act {
	const tolerance, enough = 0.1, 60
	return func(ctx context.Context) error {
		w := d.traffic.watch()
		defer w.close()
		return d.until(ctx, fmt.Sprintf("version 2 of %s to answer %.0f%%", canaried, 100*share), func() (string, bool) {
			t, _ := w.seen()
			var all, second int
			for by, n := range t.by {
				for v := 1; v <= instancesEach; v++ {
					if strings.HasPrefix(by, fmt.Sprintf("%s-%d@", canaried, v)) {
						all += n
						if version(v) == "v2" {
							second += n
						}
					}
				}
			}
			got := float64(second) / float64(max(all, 1))
			if all >= enough && math.Abs(got-share) > tolerance {
				w.restart()
			}
			return fmt.Sprintf("%d of %d", second, all), all >= enough && math.Abs(got-share) <= tolerance
		})
	}
}

func (d *Demo) checkSpread(ctx context.Context) error {
	if _, err := d.global.apply(ctx, spread); err != nil {
		return err
	}
	if err := d.untilAnswered("stock-1@east", "stock-2@east", "stock-1@west", "stock-2@west")(ctx); err != nil {
		return err
	}
	seen := map[string]bool{}
	west := d.zones[1].service(services[0])
	return d.until(ctx, "answers of stock in both zones to web in west", func() (string, bool) {
		for _, i := range west {
			if a := i.ask(ctx); a.complete() {
				seen[a.Next.Next.Zone] = true
			}
		}
		return fmt.Sprint(seen), len(seen) == len(d.zones)
	})
}

// checkTrace gives the command that shows a trace while requests are answered by the other zone.
func (d *Demo) checkTrace(ctx context.Context) error {
	if err := d.run("trace")(ctx); err != nil {
		return err
	}
	zones, err := d.traceOnce(ctx, func(string) {})
	if err == nil && !slices.Equal(zones, zoneNames) {
		err = fmt.Errorf("the request was seen in %v, want %v", zones, zoneNames)
	}
	return err
}

func (d *Demo) checkShortcut(ctx context.Context) error {
	a := call(ctx, "http://"+d.zones[0].service(services[0])[0].at(appPort)+"/shortcut", nil)
	if a.Next == nil || a.Next.Status != http.StatusForbidden {
		return fmt.Errorf("got %s, want a refusal with 403", a)
	}
	return nil
}

func (d *Demo) checkSecond(ctx context.Context) error {
	out, err := d.command(ctx, "up")
	switch {
	case err == nil:
		return fmt.Errorf("it ran and said %q", out)
	case !strings.Contains(out, ErrRunning.Error()):
		return err
	}
	return nil
}

// checkStatus wants the part, and no other, to be told as broken.
func (d *Demo) checkStatus(broken string) act {
	return func(ctx context.Context) error {
		s, err := Find(d.opts.Dir).Status(ctx)
		if err != nil {
			return err
		}
		out, err := d.command(ctx, "status")
		if err != nil {
			return err
		}
		d.say("  $ causeway demo status\n    %s", strings.ReplaceAll(out, "\n", "\n    "))
		for _, p := range s.Parts {
			if want := p.Of; (p.Name == broken) != (p.Running < want) {
				return fmt.Errorf("%s: %d of %d run", p.Name, p.Running, p.Of)
			}
		}
		if told := "Broken: " + broken + "."; broken != "" && !strings.Contains(out, told) {
			return fmt.Errorf("the status does not say %q", told)
		}
		return nil
	}
}
