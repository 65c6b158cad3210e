package telemetry

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	logsv1 "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/dataplane/otlp"
)

const patient = 30 * time.Second

func text(s string) *commonv1.AnyValue {
	return &commonv1.AnyValue{Value: &commonv1.AnyValue_StringValue{StringValue: s}}
}

func list(v ...*commonv1.AnyValue) *commonv1.AnyValue {
	return &commonv1.AnyValue{Value: &commonv1.AnyValue_ArrayValue{ArrayValue: &commonv1.ArrayValue{Values: v}}}
}

func object(kv ...*commonv1.KeyValue) *commonv1.AnyValue {
	return &commonv1.AnyValue{Value: &commonv1.AnyValue_KvlistValue{KvlistValue: &commonv1.KeyValueList{Values: kv}}}
}

func field(k string, v *commonv1.AnyValue) *commonv1.KeyValue {
	return &commonv1.KeyValue{Key: k, Value: v}
}

func request(t testing.TB, bodies ...*commonv1.AnyValue) []byte {
	t.Helper()
	s := &logsv1.ScopeLogs{}
	for _, b := range bodies {
		s.LogRecords = append(s.LogRecords, &logsv1.LogRecord{Body: b})
	}
	out, err := proto.Marshal(&logsv1.LogsData{ResourceLogs: []*logsv1.ResourceLogs{{ScopeLogs: []*logsv1.ScopeLogs{s}}}})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestLines(t *testing.T) {
	absent := text("-")
	for _, c := range []struct {
		name string
		body *commonv1.AnyValue
		want string
	}{
		{"text", text("GET / 200"), "GET / 200"},
		{"absent stays", text("-"), "-"},
		{"pieces", list(text("a="), absent, text(" b="), text("x")), "a= b=x"},
		{"a dash that is meant", list(text("a"), list(text("-")), text("b")), "a-b"},
		{"object keeps its order", object(field("z", text("1")), field("a", text(`"<&>`))), `{"z":"1","a":"\"<&>"}`},
		{"object with absent values", object(field("a", absent), field("b", list(absent)), field("c", list(text("x"), absent))), `{"a":"-","c":"x"}`},
		{"objects in objects", object(field("a", object(field("b", text("c"))))), `{"a":{"b":"c"}}`},
		{"one line", text("a\nb\rc"), `a\nb\rc`},
		{"nothing", nil, ""},
		{"too long", text(strings.Repeat("x", maxLine+5)), strings.Repeat("x", maxLine)},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := render(request(t, c.body))
			if err != nil || string(got) != c.want+"\n" {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
		})
	}
}

// start runs a forwarder until the test ends.
func start(t *testing.T) *Forwarder {
	t.Helper()
	f := New(nil, slog.New(slog.DiscardHandler))
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	until(t, "the forwarder runs", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.life != nil
	})
	return f
}

func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patient)
	for !holds() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("not within %s: %s", patient, what)
		}
	}
}

func tcp(address string) key {
	return key{mesh.Collector{TCP: address}.Header(), otlp.Logs}
}

// lineReader reads lines of one connection.
func accept(t *testing.T, l net.Listener) (net.Conn, *bufio.Reader) {
	t.Helper()
	if err := l.(*net.TCPListener).SetDeadline(time.Now().Add(patient)); err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(patient)); err != nil {
		t.Fatal(err)
	}
	return c, bufio.NewReader(c)
}

func wantLine(t *testing.T, r *bufio.Reader, want string) {
	t.Helper()
	if got, err := r.ReadString('\n'); err != nil || got != want+"\n" {
		t.Fatalf("got %q, %v; want %q", got, err, want)
	}
}

// Lines reach a collector, also one that restarted in between.
func TestTCPCollector(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f := start(t)
	k := tcp(l.Addr().String())
	if err := f.take(k, request(t, text("one"), text("two"))); err != nil {
		t.Fatal(err)
	}
	c, r := accept(t, l)
	wantLine(t, r, "one")
	wantLine(t, r, "two")
	c.Close()
	out := f.outlets[k].sender.(*lines)
	<-out.gone // the end of the connection has been noticed
	if err := f.take(k, request(t, text("three"))); err != nil {
		t.Fatal(err)
	}
	c, r = accept(t, l)
	defer c.Close()
	wantLine(t, r, "three")
	if n := f.Dropped(); n != 0 {
		t.Errorf("%d dropped", n)
	}
}

// A collector that does not read holds nobody up: what is too much is dropped and counted, and the rest arrives when it reads.
func TestSlowCollector(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f := start(t)
	k, long := tcp(l.Addr().String()), request(t, text(strings.Repeat("x", 60<<10)))
	sent := 0
	until(t, "something is dropped", func() bool {
		if err := f.take(k, long); err != nil {
			t.Fatal(err)
		}
		sent++
		return f.Dropped() > 0
	})
	f.mu.Lock()
	if n := f.outlets[k].queued.Load(); n > maxQueued {
		t.Errorf("%d bytes are queued", n)
	}
	f.mu.Unlock()
	c, r := accept(t, l)
	defer c.Close()
	for range sent - int(f.Dropped()) {
		if _, err := r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
}

// What cannot be meant is refused.
func TestRefused(t *testing.T) {
	f := start(t)
	for _, c := range []struct {
		name string
		k    key
		size int
	}{
		{"no collector", key{"", otlp.Logs}, 0},
		{"not encoded", key{"%", otlp.Logs}, 0},
		{"spans as lines", key{tcp("127.0.0.1:1").collector, otlp.Traces}, 0},
		{"too large", tcp("127.0.0.1:1"), maxRequest + 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := f.take(c.k, make([]byte, c.size)); err == nil {
				t.Error("was taken")
			}
		})
	}
	for i := range maxOutlets {
		if err := f.take(tcp(fmt.Sprintf("127.0.0.1:%d", i+1)), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.take(tcp("127.0.0.1:999"), nil); err == nil {
		t.Error("the number of collectors is not bounded")
	}
}

// A collector that the environment would have to name, and does not, drops what it gets and says so.
func TestNoEndpoint(t *testing.T) {
	f := start(t)
	c := mesh.Collector{OpenTelemetry: &mesh.MeshOpenTelemetryBackend{Env: &mesh.OTelEnv{Mode: otlp.Required}}}
	if err := f.take(key{c.Header(), otlp.Traces}, request(t, text("a"), text("b"))); err != nil {
		t.Fatal(err)
	}
	until(t, "both are dropped", func() bool { return f.Dropped() == 2 })
}

// FuzzRequest hands requests of any content to a forwarder: each record is one line, whatever is in it.
func FuzzRequest(f *testing.F) {
	f.Add(request(f, text("a\nb"), object(field("k", list(text("-"))))))
	f.Add([]byte{0x0a, 0xff})
	f.Add([]byte{0x0a, 0x02, 0x12, 0x00})
	f.Fuzz(func(t *testing.T, raw []byte) {
		n := count(raw)
		out, err := render(raw)
		if err != nil {
			return
		}
		if got := strings.Count(string(out), "\n"); got != n {
			t.Errorf("%d lines for %d records", got, n)
		}
		for line := range strings.Lines(string(out)) {
			if len(line) > maxLine+1 {
				t.Errorf("a line of %d bytes", len(line))
			}
		}
	})
}

// FuzzCollector reads headers of any content.
func FuzzCollector(f *testing.F) {
	f.Add(mesh.Collector{TCP: "a:1"}.Header())
	f.Add(mesh.Collector{OpenTelemetry: &mesh.MeshOpenTelemetryBackend{Endpoint: &mesh.OTelEndpoint{Address: "a"}}}.Header())
	f.Fuzz(func(t *testing.T, header string) {
		c, err := mesh.ParseCollector(header)
		if err != nil {
			return
		}
		again, err := mesh.ParseCollector(c.Header())
		if err != nil || again.TCP != c.TCP {
			t.Errorf("%+v became %+v, %v", c, again, err)
		}
	})
}
