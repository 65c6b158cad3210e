package probe

import (
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
)

// Rules say when results change the mind about an ingress. Zero values stand for the defaults.
type Rules struct {
	// Good and Bad are how many results in a row make an ingress well and not well. Defaults 3 and 2.
	Good, Bad int
	// HoldMin and HoldMax bound how long an ingress that is well again has to stay so before it gets traffic. Each time it fails
	// soon after it returned doubles the wait, and every Calm that it served well halves it. Defaults 2s, 1m and 1m.
	HoldMin, HoldMax, Calm time.Duration
	// Forget is how long an opinion outlives the last result. Default 30s.
	Forget time.Duration
}

func (r Rules) withDefaults() Rules {
	if r.Good <= 0 {
		r.Good = 3
	}
	if r.Bad <= 0 {
		r.Bad = 2
	}
	r.HoldMin = orDefault(r.HoldMin, 2*time.Second)
	r.HoldMax = max(r.HoldMin, orDefault(r.HoldMax, time.Minute))
	r.Calm = orDefault(r.Calm, time.Minute)
	r.Forget = orDefault(r.Forget, 30*time.Second)
	return r
}

// A judge makes up its mind about one ingress from results. It has no clock.
type judge struct {
	rules Rules
	state mesh.ReachabilityState
	since time.Time
	until time.Time // when a returning one has stayed well for long enough

	good, bad int // results in a row
	hold      time.Duration
	judged    time.Time
}

func newJudge(r Rules, now time.Time) judge {
	return judge{rules: r, state: mesh.ReachabilityUnknown, since: now}
}

// well takes a good result and says whether the state has changed.
func (j *judge) well(now time.Time) bool {
	j.judged, j.bad = now, 0
	j.good++
	switch j.state {
	case mesh.ReachabilityUnknown:
		return j.become(mesh.ReachabilityUp, now)
	case mesh.ReachabilityDown:
		if j.good < j.rules.Good {
			return false
		}
		j.until = now.Add(j.hold)
		return j.become(mesh.ReachabilityReturning, now)
	case mesh.ReachabilityReturning:
		if now.Before(j.until) {
			return false
		}
		return j.become(mesh.ReachabilityUp, now)
	}
	return false
}

// failed takes a bad result and says whether the state has changed.
func (j *judge) failed(now time.Time) bool {
	j.judged, j.good = now, 0
	j.bad++
	switch j.state {
	case mesh.ReachabilityUnknown, mesh.ReachabilityUp:
		if j.bad < j.rules.Bad {
			return false
		}
		j.lengthen(now)
		return j.become(mesh.ReachabilityDown, now)
	case mesh.ReachabilityReturning:
		return j.become(mesh.ReachabilityDown, now)
	}
	return false
}

// unjudged takes a result that says nothing about the ingress.
func (j *judge) unjudged(now time.Time) bool {
	if j.state == mesh.ReachabilityUnknown || now.Sub(j.judged) < j.rules.Forget {
		return false
	}
	j.good, j.bad = 0, 0
	return j.become(mesh.ReachabilityUnknown, now)
}

// lengthen sets how long the next return takes.
func (j *judge) lengthen(now time.Time) {
	if j.hold == 0 {
		j.hold = j.rules.HoldMin
		return
	}
	if j.state == mesh.ReachabilityUp {
		for calm := now.Sub(j.since); calm >= j.rules.Calm && j.hold > 0; calm -= j.rules.Calm {
			j.hold /= 2
		}
	}
	j.hold = min(max(2*j.hold, j.rules.HoldMin), j.rules.HoldMax)
}

func (j *judge) become(s mesh.ReachabilityState, now time.Time) bool {
	j.state, j.since = s, now
	if s != mesh.ReachabilityReturning {
		j.until = time.Time{}
	}
	return true
}

// down says that nothing is to be sent there.
func (j *judge) down() bool {
	return j.state == mesh.ReachabilityDown || j.state == mesh.ReachabilityReturning
}

func orDefault(d, def time.Duration) time.Duration {
	if d <= 0 {
		return def
	}
	return d
}
