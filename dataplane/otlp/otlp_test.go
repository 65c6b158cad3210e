package otlp_test

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/causeway-mesh/causeway/dataplane/otlp"
)

// Who says where a collector is: the mesh, the environment, or both with one of them first.
func TestResolve(t *testing.T) {
	mesh := otlp.Settings{Given: true, Address: "collector.local", Port: 4000}
	with := func(s otlp.Settings, edit func(*otlp.Settings)) otlp.Settings { edit(&s); return s }
	endpoint := map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "https://env.local:4444/base", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://traces.local/own"}
	for _, c := range []struct {
		name   string
		s      otlp.Settings
		signal otlp.Signal
		env    map[string]string
		want   string // or a part of the error, after !
	}{
		{"mesh", mesh, otlp.Logs, nil, "grpc://collector.local:4000"},
		{"default port and host", otlp.Settings{Given: true}, otlp.Logs, nil, "grpc://127.0.0.1:4317"},
		{"http", with(mesh, func(s *otlp.Settings) { s.Protocol, s.Path = otlp.HTTP, "/in/" }), otlp.Traces, nil, "http://collector.local:4000/in/v1/traces"},
		{"env disabled", mesh, otlp.Logs, endpoint, "grpc://collector.local:4000"},
		{"mesh first", with(mesh, func(s *otlp.Settings) { s.EnvMode = otlp.Optional }), otlp.Logs, endpoint, "grpc://collector.local:4000"},
		{"env first", with(mesh, func(s *otlp.Settings) { s.EnvMode, s.EnvFirst = otlp.Optional, true }), otlp.Logs, endpoint, "grpc+tls://env.local:4444"},
		{"env fills in", otlp.Settings{EnvMode: otlp.Optional}, otlp.Logs, endpoint, "grpc+tls://env.local:4444"},
		{"own variable is not allowed", otlp.Settings{EnvMode: otlp.Required}, otlp.Traces, endpoint, "grpc+tls://env.local:4444"},
		{"own variable", otlp.Settings{EnvMode: otlp.Required, SignalOverrides: true, Protocol: otlp.HTTP}, otlp.Traces, endpoint, "http://traces.local:4318/own"},
		{"general path", otlp.Settings{EnvMode: otlp.Required, Protocol: otlp.HTTP}, otlp.Metrics, endpoint, "http+tls://env.local:4444/base/v1/metrics"},
		{"protocol of the environment", otlp.Settings{EnvMode: otlp.Optional}, otlp.Logs, map[string]string{
			"OTEL_EXPORTER_OTLP_ENDPOINT": "env.local:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
		}, "http://env.local:1/v1/logs"},
		{"required and absent", with(mesh, func(s *otlp.Settings) { s.EnvMode = otlp.Required }), otlp.Logs, nil, "!set OTEL_EXPORTER_OTLP_ENDPOINT"},
		{"nobody", otlp.Settings{EnvMode: otlp.Optional}, otlp.Logs, nil, "!neither the mesh nor the environment"},
		{"no URL", otlp.Settings{EnvMode: otlp.Optional}, otlp.Logs, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "ftp://x"}, "!no URL"},
		{"headers", with(mesh, func(s *otlp.Settings) { s.EnvMode = otlp.Optional }), otlp.Logs, map[string]string{"OTEL_EXPORTER_OTLP_HEADERS": "key"}, "!OTEL_EXPORTER_OTLP_HEADERS"},
		{"compression", with(mesh, func(s *otlp.Settings) { s.EnvMode = otlp.Optional }), otlp.Logs, map[string]string{"OTEL_EXPORTER_OTLP_COMPRESSION": "zip"}, "!COMPRESSION"},
		{"timeout", with(mesh, func(s *otlp.Settings) { s.EnvMode = otlp.Optional }), otlp.Logs, map[string]string{"OTEL_EXPORTER_OTLP_TIMEOUT": "1s"}, "!TIMEOUT"},
		{"protocol", otlp.Settings{EnvMode: otlp.Optional, Given: true}, otlp.Logs, map[string]string{"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "!PROTOCOL"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.s.Resolve(c.signal, c.env)
			if text, wrong := strings.CutPrefix(c.want, "!"); wrong {
				if err == nil || !strings.Contains(err.Error(), text) {
					t.Errorf("got %v, %v; want an error with %q", got, err, text)
				}
				return
			}
			if err != nil || got.String() != c.want {
				t.Errorf("got %v, %v; want %s", got, err, c.want)
			}
		})
	}
}

// A header may hold a key: neither an error nor the name of a target shows it.
func TestHeadersStaySecret(t *testing.T) {
	s := otlp.Settings{Given: true, EnvMode: otlp.Optional}
	env := map[string]string{"OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20s3cret"}
	target, err := s.Resolve(otlp.Logs, env)
	if err != nil {
		t.Fatal(err)
	}
	if h, err := target.Headers(); err != nil || h["authorization"] != "Bearer s3cret" {
		t.Errorf("got %v, %v", h, err)
	}
	if strings.Contains(target.String(), "s3cret") {
		t.Errorf("%s shows the key", target)
	}
	env["OTEL_EXPORTER_OTLP_HEADERS"] = "bad name=s3cret"
	if _, err := s.Resolve(otlp.Logs, env); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("got %v", err)
	}
}

func settings(t *testing.T, address net.Addr, protocol string, env map[string]string) otlp.Target {
	t.Helper()
	a := address.(*net.TCPAddr)
	target, err := otlp.Settings{
		Given: true, Address: a.IP.String(), Port: uint32(a.Port), Protocol: protocol, EnvMode: otlp.Optional,
	}.Resolve(otlp.Logs, env)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

func send(t *testing.T, target otlp.Target) error {
	t.Helper()
	c, err := otlp.Dial(target)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.Send(t.Context(), []byte{0x0a, 0x00})
}

func refused(err error) bool {
	var r *otlp.Refusal
	return errors.As(err, &r)
}

func TestHTTP(t *testing.T) {
	status, got := http.StatusOK, ""
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in io.Reader = r.Body
		if r.Header.Get("Content-Encoding") == "gzip" {
			in, _ = gzip.NewReader(r.Body)
		}
		body, err := io.ReadAll(in)
		if err != nil {
			t.Error(err)
		}
		got = r.URL.Path + " " + r.Header.Get("Content-Type") + " " + r.Header.Get("Key") + " " + string(body)
		w.WriteHeader(status)
	}))
	defer s.Close()
	env := map[string]string{"OTEL_EXPORTER_OTLP_HEADERS": "key=a%2Cb", "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}
	target := settings(t, s.Listener.Addr(), otlp.HTTP, env)
	if err := send(t, target); err != nil || got != "/v1/logs application/x-protobuf a,b \n\x00" {
		t.Errorf("got %q, %v", got, err)
	}
	status = http.StatusServiceUnavailable
	if err := send(t, target); err == nil || refused(err) {
		t.Errorf("unavailable: %v", err)
	}
	status = http.StatusBadRequest
	if err := send(t, target); !refused(err) {
		t.Errorf("bad request: %v", err)
	}
}

func TestGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	answer, got := codes.OK, ""
	s := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, st grpc.ServerStream) error {
		var m emptypb.Empty
		if err := st.RecvMsg(&m); err != nil {
			return err
		}
		method, _ := grpc.MethodFromServerStream(st)
		got = method + " " + strings.Join(metadata.ValueFromIncomingContext(st.Context(), "key"), "") + string(m.ProtoReflect().GetUnknown())
		if answer != codes.OK {
			return status.Error(answer, "no")
		}
		return st.SendMsg(&emptypb.Empty{})
	}))
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	defer func() {
		s.Stop()
		<-done
	}()
	target := settings(t, l.Addr(), "", map[string]string{"OTEL_EXPORTER_OTLP_HEADERS": "key=x"})
	if err := send(t, target); err != nil || got != "/opentelemetry.proto.collector.logs.v1.LogsService/Export x\n\x00" {
		t.Errorf("got %q, %v", got, err)
	}
	answer = codes.Unavailable
	if err := send(t, target); err == nil || refused(err) {
		t.Errorf("unavailable: %v", err)
	}
	answer = codes.InvalidArgument
	if err := send(t, target); !refused(err) {
		t.Errorf("invalid: %v", err)
	}
	c, err := otlp.Dial(target)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Send(ctx, nil); err == nil || refused(err) {
		t.Errorf("cancelled: %v", err)
	}
}
