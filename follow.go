package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/api/client"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
)

// followEvery is how often a control plane is asked how far a change has come.
const followEvery = 200 * time.Millisecond

var waitStates = []string{string(mesh.PropagationReceived), string(mesh.PropagationComputed), string(mesh.PropagationAcknowledged)}

func checkWait(wait, dryRun string) error {
	switch {
	case wait == "":
		return nil
	case dryRun != "none":
		return usageError{errors.New("--wait has no meaning with --dry-run"), "causeway apply"}
	case slices.Contains(waitStates, wait):
		return nil
	}
	err := fmt.Errorf("--wait is %s, it must be one of %s", resource.Quote(wait), strings.Join(waitStates, ", "))
	if near := resource.Nearest(wait, waitStates); near != "" {
		err = fmt.Errorf("%w; did you mean %s?", err, near)
	}
	return usageError{err, "causeway apply"}
}

// follow shows how far a revision has come in the zones, until it is there in all that are connected.
func (p *program) follow(ctx context.Context, cl *client.Client, revision uint64, until mesh.PropagationState, patience time.Duration) error {
	began := p.now()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	screen := progress{program: p, live: p.colour && p.env("TERM") != "dumb", said: map[string]string{}}
	var last mesh.Propagation
	for {
		st, err := cl.Propagation(ctx, revision)
		switch {
		case err == nil:
			last = st
			screen.show(st)
			if late := notYet(st, until); len(late) == 0 {
				return p.arrived(st, until, p.now().Sub(began))
			}
		case ctx.Err() != nil || errors.Is(err, client.ErrUnreachable) || errors.Is(err, client.ErrTimeout):
			// It is stored; a control plane that is away for a moment tells later.
		case errors.Is(err, resource.ErrNotFound):
			return hintError{fmt.Errorf("it is applied, but how far it has come cannot be told: %w", err), "leave out --wait, or apply at the global control plane"}
		default:
			return fmt.Errorf("it is applied, but how far it has come cannot be told: %w", err)
		}
		select {
		case <-time.After(followEvery):
		case <-ctx.Done():
			return p.late(ctx, last, revision, until, patience)
		}
	}
}

// notYet lists the connected zones that a revision has not come far enough in.
func notYet(st mesh.Propagation, until mesh.PropagationState) []string {
	var out []string
	for _, z := range st.Zones {
		if z.Online && !z.State.Reached(until) {
			out = append(out, z.Zone)
		}
	}
	return out
}

// late says what was not there in time.
func (p *program) late(ctx context.Context, st mesh.Propagation, revision uint64, until mesh.PropagationState, patience time.Duration) error {
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("it is applied; waiting was interrupted: %w", ctx.Err())
	}
	where := "any zone: the control plane did not answer"
	if zones := notYet(st, until); len(zones) > 0 {
		where = "zone " + strings.Join(zones, ", ")
	}
	return hintError{
		fmt.Errorf("revision %d is applied, but after %s not %s in %s: %w", revision, patience, until, where, client.ErrTimeout),
		"wait longer with --timeout, or look at causeway get zones",
	}
}

// arrived tells that a revision is where it should be, or by whom it is refused there.
func (p *program) arrived(st mesh.Propagation, until mesh.PropagationState, took time.Duration) error {
	online := 0
	var refused []string
	for _, z := range st.Zones {
		if z.Online {
			online++
		}
		if z.State != mesh.PropagationRejected {
			continue
		}
		for _, e := range z.Exceptions {
			refused = append(refused, z.Zone+": "+exceptionLine(e))
		}
		if z.MoreExceptions > 0 {
			refused = append(refused, fmt.Sprintf("%s: and %d more", z.Zone, z.MoreExceptions))
		}
	}
	if len(refused) > 0 && until == mesh.PropagationAcknowledged {
		return differencesError{fmt.Sprintf("revision %d is applied, but not everything is in force", st.Revision), refused}
	}
	if online == 0 {
		p.talk("revision %d is stored; no zone is connected", st.Revision)
		return nil
	}
	p.talk("revision %d is %s in %d of %d zones after %s", st.Revision, until, online, len(st.Zones), took.Round(10*time.Millisecond))
	return nil
}

// exceptionLine tells one thing that is not in force.
func exceptionLine(e mesh.PropagationException) string {
	s := e.Type + " " + e.Name
	if e.Dataplane != "" {
		s += " of dataplane " + e.Dataplane
	}
	if e.Mesh != "" {
		s += " in mesh " + e.Mesh
	}
	if e.Reason != "" {
		s += ": " + e.Reason
	}
	if len(e.Policies) > 0 {
		s += " (" + strings.Join(e.Policies, ", ") + ")"
	}
	return printable(s)
}

// progress shows a line per zone: drawn over on a terminal, and otherwise one whenever it changes.
type progress struct {
	program *program
	live    bool
	drawn   int
	said    map[string]string
}

func (g *progress) show(st mesh.Propagation) {
	if g.live && g.drawn > 0 {
		fmt.Fprintf(g.program.stderr, "\x1b[%dA\x1b[J", g.drawn)
	}
	g.drawn = 0
	for _, z := range st.Zones {
		line := zoneLine(z)
		if g.live || g.said[z.Zone] != line {
			g.program.talk("%s", line)
			g.drawn++
		}
		g.said[z.Zone] = line
	}
}

// zoneLine tells how far a revision has come in one zone.
func zoneLine(z mesh.ZonePropagation) string {
	s := z.Zone + ": " + string(z.State)
	switch z.State {
	case mesh.PropagationAway:
		s += "; it gets this when it is back"
	case mesh.PropagationPending:
		s += fmt.Sprintf(", lag %d", z.Lag)
	case mesh.PropagationReceived:
	case mesh.PropagationComputed, mesh.PropagationAcknowledged, mesh.PropagationRejected:
		s += fmt.Sprintf(", %d/%d proxies", z.Proxies.Acknowledged, z.Proxies.Connected)
		if z.State != mesh.PropagationAcknowledged {
			s += " acknowledged"
		}
		if z.Proxies.Pending > 0 {
			s += fmt.Sprintf(", %d pending", z.Proxies.Pending)
		}
		if z.Proxies.Rejected > 0 {
			s += fmt.Sprintf(", %d rejected", z.Proxies.Rejected)
		}
	}
	if !z.Online && z.State != mesh.PropagationAway {
		s += "; it is away now"
	}
	return printable(s)
}
