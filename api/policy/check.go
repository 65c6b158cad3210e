package policy

import (
	"slices"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/api/resource"
)

// maxDuration is the longest duration a field takes; what is longer is a slip of the keyboard.
const maxDuration = 10 * 365 * 24 * time.Hour

// CheckPositive reports a duration that is not greater than zero. Absent is fine.
func CheckPositive(at resource.Path, d *Duration) resource.Problems {
	ps := CheckNotNegative(at, d)
	if d != nil && d.Duration == 0 {
		ps.Add(at, "must be greater than 0")
	}
	return ps
}

// CheckNotNegative reports a duration below zero. Absent is fine.
func CheckNotNegative(at resource.Path, d *Duration) resource.Problems {
	var ps resource.Problems
	switch {
	case d == nil:
	case d.Duration < 0:
		ps.Add(at, "must not be negative")
	case d.Duration > maxDuration:
		ps.Add(at, "must not be longer than ten years")
	case d.Duration%time.Millisecond != 0:
		ps.Add(at, "must be a whole number of milliseconds")
	}
	return ps
}

// CheckPercent reports a percentage outside of 0 to 100. Absent is fine.
func CheckPercent(at resource.Path, p *Decimal) resource.Problems {
	var ps resource.Problems
	if p != nil && (p.Float() < 0 || p.Float() > 100) {
		ps.Add(at, "must be between 0 and 100")
	}
	return ps
}

// Check reports what is wrong with a reference to a backend.
func (b BackendRef) Check(at resource.Path) resource.Problems {
	var ps resource.Problems
	kinds := []string{TargetService, TargetExternal, TargetMultiZone}
	if !slices.Contains(kinds, b.Kind) {
		ps.Add(at.Field("kind"), "must be one of %s", strings.Join(kinds, ", "))
	}
	if len(b.Labels) == 0 {
		ps.Add(at.Field("labels"), "must be set")
	}
	ps.Append(resource.CheckLabels(at.Field("labels"), b.Labels))
	ps.Append(checkRemoved(at, TargetRef{Name: b.Name, Namespace: b.Namespace, Tags: b.Tags}))
	if b.Port != nil && (*b.Port == 0 || *b.Port > 65535) {
		ps.Add(at.Field("port"), "must be between 1 and 65535")
	}
	if b.Port != nil && b.SectionName != "" {
		ps.Add(at.Field("port"), "must not be set together with sectionName")
	}
	if b.Kind == TargetMultiZone && b.Port == nil && b.SectionName == "" {
		ps.Add(at.Field("port"), "must be set with kind %s", TargetMultiZone)
	}
	return ps
}
