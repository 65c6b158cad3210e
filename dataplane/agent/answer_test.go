package agent

import (
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/api/inquiry"
)

// What comes from the zone chooses among what may be asked of Envoy, and becomes no part of a path.
func TestWhatEnvoyIsAsked(t *testing.T) {
	for q, want := range map[*inquiry.Question]string{
		{What: inquiry.WhatDump}:                                 "/config_dump?",
		{What: inquiry.WhatDump, Endpoints: true}:                "/config_dump?include_eds",
		{What: inquiry.WhatStats}:                                "/stats?usedonly",
		{What: inquiry.WhatStats, Unused: true, Json: true}:      "/stats?format=json",
		{What: inquiry.WhatStats, Json: true, Name: "&x=/../y"}:  "/stats?usedonly&format=json",
		{What: inquiry.WhatClusters}:                             "/clusters?",
		{What: inquiry.WhatClusters, Json: true, Element: "kri"}: "/clusters?format=json",
	} {
		if got, err := adminPath(q); err != nil || got != want {
			t.Errorf("%v: %q, %v, want %q", q, got, err, want)
		}
	}
	for _, what := range []string{"", "quitquitquit", "/config_dump", "config_dump?x", inquiry.WhatConfig} {
		if got, err := adminPath(&inquiry.Question{What: what}); err == nil || !strings.Contains(err.Error(), "upgrade") {
			t.Errorf("%q: %q, %v", what, got, err)
		}
	}
}
