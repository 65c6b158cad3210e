package tls_test

import (
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/api"
)

func TestProblems(t *testing.T) {
	for conf, want := range map[string]string{
		`{mode: Strict}`:                              "",
		`{mode: Permissive}`:                          "",
		`{tlsVersion: {min: TLS13}}`:                  "",
		`{tlsVersion: {min: TLS12, max: TLS13}}`:      "",
		`{tlsCiphers: [ECDHE-RSA-AES128-GCM-SHA256]}`: "",
		`{mode: Loose}`:                               "spec.rules[0].default.mode",
		`{tlsVersion: {min: TLS14}}`:                  "spec.rules[0].default.tlsVersion.min",
		`{tlsVersion: {max: TLS11}}`:                  "spec.rules[0].default.tlsVersion.max",
		`{tlsVersion: {min: TLS13, max: TLS12}}`:      "spec.rules[0].default.tlsVersion.min",
		`{tlsCiphers: [RC4]}`:                         "spec.rules[0].default.tlsCiphers[0]",
	} {
		check(t, "", conf, want)
	}
	check(t, "  targetRef: {kind: Dataplane}\n", `{tlsVersion: {min: TLS13}}`, "spec.rules[0].default.tlsVersion")
	check(t, "  targetRef: {kind: Dataplane}\n", `{tlsCiphers: [ECDHE-RSA-AES128-GCM-SHA256]}`, "spec.rules[0].default.tlsCiphers")
	check(t, "  targetRef: {kind: Dataplane, sectionName: http}\n", `{mode: Permissive}`, "")
}

func check(t *testing.T, target, conf, want string) {
	t.Helper()
	ds, err := api.Kinds().DecodeYAML([]byte("type: MeshTLS\nmesh: default\nname: t\nspec:\n"+target+"  rules: [{default: "+conf+"}]\n"), true)
	if err != nil {
		t.Fatal(err)
	}
	k, _ := api.Kinds().ByName("MeshTLS")
	ps := k.Validate(ds[0].Resource)
	switch {
	case want == "" && len(ps) > 0:
		t.Errorf("%s: %v", conf, ps)
	case want != "" && (len(ps) != 1 || !strings.HasPrefix(ps[0].Field, want)):
		t.Errorf("%s: %v, want a problem at %s", conf, ps, want)
	}
}
