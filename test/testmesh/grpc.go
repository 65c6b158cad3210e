package testmesh

import (
	"context"
	"net/http"
	"strconv"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
)

// serveGRPC lets an HTTP server answer calls of the standard health service, with its name in a header.
func (a *App) serveGRPC() {
	a.health = health.NewServer()
	a.grpc = grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		if err := grpc.SetHeader(ctx, metadata.Pairs("instance", a.name)); err != nil {
			return nil, err
		}
		return next(ctx, req)
	}))
	healthpb.RegisterHealthServer(a.grpc, a.health)
}

// call answers a call of grpc.
func (a *App) call(w http.ResponseWriter, r *http.Request) {
	if a.fails() { // in the headers, where a proxy sees it before it has passed anything on
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Grpc-Status", strconv.Itoa(int(codes.Unavailable)))
		return
	}
	a.grpc.ServeHTTP(w, r)
}

// fails says whether a call is one of those that are to fail.
func (a *App) fails() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.failures == 0 {
		return false
	}
	a.failures--
	return true
}

func servingStatus(well bool) healthpb.HealthCheckResponse_ServingStatus {
	if well {
		return healthpb.HealthCheckResponse_SERVING
	}
	return healthpb.HealthCheckResponse_NOT_SERVING
}

// A Call is what became of a call of grpc.
type Call struct {
	From string // who answered
	Well bool   // what it said
}

// Caller calls a service of grpc through the own sidecar, over one connection that ends with the test.
type Caller struct{ client healthpb.HealthClient }

// Caller opens a connection for calls to a service of grpc.
func (i *Instance) Caller(t testing.TB, service string) Caller {
	t.Helper()
	c, err := grpc.NewClient("passthrough:///"+i.Address(t, service), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority(service), grpc.WithDisableServiceConfig())
	if err != nil {
		t.Fatalf("call %s: %v", service, err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return Caller{healthpb.NewHealthClient(c)}
}

// Call asks whether the service is well.
func (c Caller) Call(t testing.TB) (Call, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var header metadata.MD
	resp, err := c.client.Check(ctx, &healthpb.HealthCheckRequest{}, grpc.Header(&header), grpc.WaitForReady(true))
	if err != nil {
		return Call{}, err
	}
	out := Call{Well: resp.Status == healthpb.HealthCheckResponse_SERVING}
	if from := header.Get("instance"); len(from) > 0 {
		out.From = from[0]
	}
	return out, nil
}
