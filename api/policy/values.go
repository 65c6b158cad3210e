package policy

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
)

// A Duration is written like "5s" or "1h30m".
type Duration struct{ time.Duration }

// MarshalJSON writes the duration as users do.
func (d Duration) MarshalJSON() ([]byte, error) { return mesh.Duration(d).MarshalJSON() }

// UnmarshalJSON reads a Go duration string.
func (d *Duration) UnmarshalJSON(b []byte) error { return (*mesh.Duration)(d).UnmarshalJSON(b) }

// Proto is d as Envoy wants it, nil for nil.
func (d *Duration) Proto() *durationpb.Duration {
	if d == nil {
		return nil
	}
	return durationpb.New(d.Duration)
}

// A Decimal is a number written as an integer or as a decimal string such as "99.5".
type Decimal struct{ text string }

// MarshalJSON writes an integer as a number and anything else as a string.
func (d Decimal) MarshalJSON() ([]byte, error) {
	if d.text == "" {
		return []byte("0"), nil
	}
	if n, err := strconv.ParseInt(d.text, 10, 64); err == nil {
		return strconv.AppendInt(nil, n, 10), nil // JSON knows no "+7" and no "007"
	}
	return json.Marshal(d.text)
}

// UnmarshalJSON reads an integer or a decimal string.
func (d *Decimal) UnmarshalJSON(b []byte) error {
	s := strings.TrimSpace(string(b))
	if len(s) > 0 && s[0] == '"' {
		if err := json.Unmarshal(b, &s); err != nil {
			return fmt.Errorf("must be a number or a decimal string such as \"99.5\"")
		}
	} else if strings.ContainsAny(s, ".eE") {
		return fmt.Errorf("must be a whole number or a decimal string such as \"99.5\"; quote %s", resource.Quote(s))
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) || strings.ContainsAny(s, "xXpPeE_") {
		return fmt.Errorf("%s is not a number", resource.Quote(s))
	}
	d.text = s
	return nil
}

// Float is the value as a number.
func (d Decimal) Float() float64 {
	v, _ := strconv.ParseFloat(d.text, 64)
	return v
}

// DecimalOf makes a Decimal of a whole number.
func DecimalOf(n int) Decimal { return Decimal{strconv.Itoa(n)} }
