package hosting_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/hosting"
	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
)

func TestAPortInUseIsNamedByItsSetting(t *testing.T) {
	var first, second, off net.Listener
	if err := hosting.Listen(t.Context(), hosting.Port{Setting: "api.address", Address: "127.0.0.1:0", Into: &first}); err != nil {
		t.Fatal(err)
	}
	defer func() { hosting.Close(first, second, off) }()
	err := hosting.Listen(t.Context(),
		hosting.Port{Setting: "diagnostics.address", Address: "", Into: &off},
		hosting.Port{Setting: "zones.address", Address: first.Addr().String(), Into: &second})
	if err == nil || !strings.Contains(err.Error(), "zones.address") || off != nil {
		t.Errorf("got %v and %v, want a problem with zones.address and no port that is turned off", err, off)
	}
}

func TestRequestsInFlightFinishWhenServingEnds(t *testing.T) {
	var l net.Listener
	if err := hosting.Listen(t.Context(), hosting.Port{Setting: "api.address", Address: "127.0.0.1:0", Into: &l}); err != nil {
		t.Fatal(err)
	}
	begun, finish := make(chan struct{}), make(chan struct{})
	srv := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(begun)
		<-finish
		_, _ = io.WriteString(w, "done")
	})}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- hosting.ServeHTTP(ctx, srv, func() error { return srv.Serve(l) }) }()
	answered := make(chan string, 1)
	go func() {
		res, err := http.Get("http://" + l.Addr().String())
		if err != nil {
			answered <- err.Error()
			return
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		answered <- string(b)
	}()
	<-begun
	stop()
	close(finish)
	if got := <-answered; got != "done" {
		t.Errorf("a request in flight got %q", got)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestHostsOfAGeneratedCertificate(t *testing.T) {
	got := hosting.Hosts([]string{"global.example.com"}, "0.0.0.0:5682", "10.1.2.3:5685", "localhost:1", "[::]:1")
	for _, want := range []string{"localhost", "127.0.0.1", "global.example.com", "10.1.2.3"} {
		if !slices.Contains(got, want) {
			t.Errorf("%v lacks %s", got, want)
		}
	}
	for _, bad := range []string{"0.0.0.0", "::", ""} {
		if slices.Contains(got, bad) {
			t.Errorf("%v has %q, which is no name of a host", got, bad)
		}
	}
}

func TestCommonSettingsNameTheirProblems(t *testing.T) {
	var ps resource.Problems
	hosting.CheckCommon(&ps, "", hosting.API{Address: "x"}, hosting.Diagnostics{Address: "y"}, hosting.TLS{KeyFile: "k"}, hosting.Log{Level: "loud", Format: "xml"})
	var fields []string
	for _, p := range ps {
		fields = append(fields, p.Field)
	}
	if want := []string{"workDir", "api.address", "diagnostics.address", "tls", "log.level", "log.format"}; !slices.Equal(fields, want) {
		t.Errorf("problems with %v, want %v", fields, want)
	}
}

func TestAMeshBringsItsPoliciesAndTokenKey(t *testing.T) {
	in := func(skip ...string) []string {
		rs, err := hosting.MeshDefaults(resource.Resource{Meta: resource.Meta{Type: mesh.TypeMesh, Name: "pay"}, Spec: &mesh.Mesh{SkipCreatingInitialPolicies: skip}})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, r := range rs {
			names = append(names, r.Name)
		}
		return names
	}
	const key = "dataplane-token-signing-key-pay-1"
	if got := in(); !slices.Contains(got, key) || !slices.Contains(got, "mesh-retry-all-pay") {
		t.Errorf("a mesh brings %v", got)
	}
	if got := in("*"); !slices.Equal(got, []string{key}) {
		t.Errorf("a mesh that skips all policies brings %v, want its key alone", got)
	}
}
