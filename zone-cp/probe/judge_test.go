package probe

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
)

// TestJudge plays results at given seconds: "+" well, "-" failed, "?" unjudged, and writes down each change of state.
func TestJudge(t *testing.T) {
	for _, tc := range []struct{ name, results, want string }{
		{"the first answer is enough to know", "0+", "0 Up"},
		{"one failure changes nothing", "0+ 1- 2+ 3- 4+", "0 Up"},
		{"two failures do", "0+ 1- 2-", "0 Up, 2 Down"},
		{"what never answered is down after two failures", "0- 1-", "1 Down"},
		{"three answers and two seconds bring it back", "0- 1- 2+ 3+ 4+ 5+ 6+", "1 Down, 4 Returning, 6 Up"},
		{"two answers do not", "0- 1- 2+ 3+ 4- 5+ 6+", "1 Down"},
		{"a failure while it returns begins anew", "0- 1- 2+ 3+ 4+ 5- 6+ 7+ 8+ 10+", "1 Down, 4 Returning, 5 Down, 8 Returning, 10 Up"},
		{
			"who fails soon after it returned waits twice as long",
			"0- 1- 2+ 3+ 4+ 6+ 7- 8- 9+ 10+ 11+ 13+ 14+ 15+", "1 Down, 4 Returning, 6 Up, 8 Down, 11 Returning, 15 Up",
		},
		{
			"time served well is forgiving",
			"0- 1- 2+ 3+ 4+ 6+ 7- 8- 9+ 10+ 11+ 15+ 200- 201- 202+ 203+ 204+ 206+",
			"1 Down, 4 Returning, 6 Up, 8 Down, 11 Returning, 15 Up, 201 Down, 204 Returning, 206 Up",
		},
		{"what cannot be judged stays as it was for a while", "0+ 1- 2- 3? 31? 32?", "0 Up, 2 Down, 32 Unknown"},
		{"unjudged results do not come between", "0+ 1- 2? 3-", "0 Up, 3 Down"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
			j := newJudge(Rules{}.withDefaults(), start)
			var got []string
			for f := range strings.FieldsSeq(tc.results) {
				var second int
				var what string
				if _, err := fmt.Sscanf(f, "%d%s", &second, &what); err != nil {
					t.Fatal(err)
				}
				now := start.Add(time.Duration(second) * time.Second)
				if map[string]func(time.Time) bool{"+": j.well, "-": j.failed, "?": j.unjudged}[what](now) {
					got = append(got, fmt.Sprintf("%d %s", second, j.state))
				}
			}
			if got := strings.Join(got, ", "); got != tc.want {
				t.Errorf("%s gave %s, want %s", tc.results, got, tc.want)
			}
		})
	}
}

// TestFlapping holds back who comes and goes for longer and longer, up to a limit.
func TestFlapping(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	j := newJudge(Rules{}.withDefaults(), now)
	var holds []time.Duration
	for range 8 {
		for j.state != mesh.ReachabilityDown {
			now = now.Add(time.Second)
			j.failed(now)
		}
		for j.state != mesh.ReachabilityUp {
			now = now.Add(time.Second)
			if j.well(now) && j.state == mesh.ReachabilityReturning {
				holds = append(holds, j.until.Sub(now))
			}
		}
	}
	if got, want := fmt.Sprint(holds), "[2s 4s 8s 16s 32s 1m0s 1m0s 1m0s]"; got != want {
		t.Errorf("held back for %s, want %s", got, want)
	}
}
