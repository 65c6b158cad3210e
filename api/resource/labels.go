package resource

import (
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// Labels that control planes compute or read. The kuma.io ones are those of the Kuma 3 API.
const (
	LabelMesh           = "kuma.io/mesh"
	LabelDisplayName    = "kuma.io/display-name"
	LabelOrigin         = "kuma.io/origin"
	LabelZone           = "kuma.io/zone"
	LabelEnv            = "kuma.io/env"
	LabelNamespace      = "k8s.kuma.io/namespace"
	LabelPolicyRole     = "kuma.io/policy-role"
	LabelWorkload       = "kuma.io/workload"
	LabelServiceAccount = "k8s.kuma.io/service-account"
	LabelManagedBy      = "kuma.io/managed-by"
	LabelEffect         = "kuma.io/effect"
	LabelKDSSync        = "kuma.io/kds-sync"
	LabelGraceStarted   = "kuma.io/deletion-grace-period-started-at"
	LabelZoneIngress    = "kuma.io/listener-zoneingress"
	LabelZoneEgress     = "kuma.io/listener-zoneegress"
)

// Values of well-known labels.
const (
	OriginGlobal = "global"
	OriginZone   = "zone"
	EffectShadow = "shadow"
)

// A Selector matches resources that carry all its labels with equal values; the empty one matches all.
type Selector map[string]string

// Matches says whether labels satisfy the selector.
func (s Selector) Matches(labels map[string]string) bool {
	for k, v := range s {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// String renders a selector in a canonical order: "a=1,b=2".
func (s Selector) String() string {
	var b strings.Builder
	for i, k := range slices.Sorted(maps.Keys(s)) {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(k + "=" + s[k])
	}
	return b.String()
}

// CheckLabels reports keys and values that are not valid Kubernetes labels.
func CheckLabels(at Path, labels map[string]string) Problems {
	var ps Problems
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		for _, msg := range validation.IsQualifiedName(k) {
			ps.Add(at.Key(k), "is not a valid label key: %s", msg)
		}
		for _, msg := range validation.IsValidLabelValue(labels[k]) {
			ps.Add(at.Key(k), "has an invalid value %s: %s", Quote(labels[k]), msg)
		}
	}
	return ps
}

// A NameRule is the grammar that names of a kind follow.
type NameRule int

// The two grammars of the Kuma API.
const (
	RFC1123Subdomain NameRule = iota // up to 253 characters of [a-z0-9.-]
	RFC1035Label                     // up to 63 characters of [a-z0-9-], starting with a letter
)

// CheckName reports why name does not follow the rule.
func CheckName(at Path, rule NameRule, name string) Problems {
	var ps Problems
	if name == "" {
		ps.Add(at, "must be set")
		return ps
	}
	msgs := validation.IsDNS1123Subdomain(name)
	if rule == RFC1035Label {
		msgs = validation.IsDNS1035Label(name)
	}
	for _, msg := range msgs {
		ps.Add(at, "%s is not a valid name: %s", Quote(name), msg)
	}
	return ps
}
