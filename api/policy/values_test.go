package policy_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/causeway-mesh/causeway/api/policy"
)

func TestDecimal(t *testing.T) {
	for in, want := range map[string]float64{
		`5`: 5, `"5"`: 5, `"99.5"`: 99.5, `0`: 0, `-3`: -3, `"+7"`: 7, `"007"`: 7, `"1000000000000000000000"`: 1e21,
	} {
		var d policy.Decimal
		if err := json.Unmarshal([]byte(in), &d); err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if d.Float() != want {
			t.Errorf("%s is %v, want %v", in, d.Float(), want)
		}
		out, err := json.Marshal(d)
		if err != nil {
			t.Errorf("%s cannot be written: %v", in, err)
			continue
		}
		var again policy.Decimal
		if err := json.Unmarshal(out, &again); err != nil || again.Float() != want {
			t.Errorf("%s is written as %s, which is read as %v (%v)", in, out, again.Float(), err)
		}
	}
	for _, in := range []string{`1.5`, `1e3`, `"1e3"`, `"x"`, `""`, `"NaN"`, `"Inf"`, `"0x1"`, `"1_000"`, `true`, `{}`, `[]`} {
		var d policy.Decimal
		if err := json.Unmarshal([]byte(in), &d); err == nil {
			t.Errorf("%s is read as %v", in, d.Float())
		}
	}
}

// Whatever is read can be written, and is then the same number.
func TestDecimalRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text, err := json.Marshal(rapid.StringMatching(`[+-]?[0-9]{1,9}(\.[0-9]{0,4})?`).Draw(t, "text"))
		if err != nil {
			t.Fatal(err)
		}
		var d, again policy.Decimal
		if err := json.Unmarshal(text, &d); err != nil {
			t.Fatal(err)
		}
		out, err := json.Marshal(d)
		if err != nil {
			t.Fatalf("%s cannot be written: %v", text, err)
		}
		if err := json.Unmarshal(out, &again); err != nil || again.Float() != d.Float() {
			t.Fatalf("%s became %s (%v)", text, out, err)
		}
	})
}

func TestDuration(t *testing.T) {
	for in, want := range map[string]time.Duration{`"5s"`: 5 * time.Second, `"1h30m"`: 90 * time.Minute, `"0s"`: 0, `"-1s"`: -time.Second, `"250ms"`: 250 * time.Millisecond} {
		var d policy.Duration
		if err := json.Unmarshal([]byte(in), &d); err != nil || d.Duration != want {
			t.Errorf("%s is %s (%v), want %s", in, d, err, want)
		}
	}
	for _, in := range []string{`5`, `"5"`, `"soon"`, `""`, `true`} {
		var d policy.Duration
		if err := json.Unmarshal([]byte(in), &d); err == nil || !strings.Contains(err.Error(), `"5s"`) {
			t.Errorf("%s: %v; the message should show how it is done", in, err)
		}
	}
	var none *policy.Duration
	if none.Proto() != nil {
		t.Error("no duration is not zero")
	}
}
