package agents

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/api/agentapi"
	"github.com/causeway-mesh/causeway/api/inquiry"
	"github.com/causeway-mesh/causeway/api/resource"
)

// offer opens a stream on which the agent is asked, until the returned function is called, which says how it ended.
func (a *agent) offer(answer inquiry.Answerer) (end func() error) {
	a.t.Helper()
	conn, err := grpc.NewClient(a.z.addr, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: a.z.roots, Certificates: []tls.Certificate{*a.cert}})))
	if err != nil {
		a.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- inquiry.Serve(ctx, conn, 1, answer) }()
	a.t.Cleanup(func() {
		cancel()
		conn.Close()
	})
	return func() error {
		select {
		case err := <-ended:
			return err
		case <-time.After(5 * time.Second):
			cancel()
			return errors.New("it did not end by itself")
		}
	}
}

func modern(h *agentapi.Hello) { h.Features = append(h.Features, agentapi.FeatureInquiry) }

// Whoever cannot be asked is named with the reason, at once.
func TestWhoCannotBeAsked(t *testing.T) {
	z := newWorld(t).start()
	ask := func(want string) {
		t.Helper()
		_, err := z.Ask(t.Context(), web, &inquiry.Question{What: inquiry.WhatStats})
		if f := (*inquiry.Failure)(nil); !errors.As(err, &f) || !strings.Contains(f.Text, "web-1") || !strings.Contains(f.Text, want) {
			t.Errorf("got %v, want a failure that says %q", err, want)
		}
	}
	ask("no agent of dataplane web-1 has ever connected to zone east")
	a := z.agent("one")
	if _, err := a.enroll(z.token(webToken)); err != nil {
		t.Fatal(err)
	}
	nothing := func(context.Context, *inquiry.Question, io.Writer) error { return nil }
	if err := a.offer(nothing)(); status.Code(err) != codes.Unavailable {
		t.Errorf("without a session: %v", err)
	}
	old := a.open()
	if w := old.welcome(); len(w.GetFeatures()) == 0 || w.GetFeatures()[0] != agentapi.FeatureInquiry {
		t.Errorf("the zone does not say that it asks: %v", w.GetFeatures())
	}
	ask(`has version "0.1", which answers no questions about its Envoy; upgrade it`)
	old.cancel()
	z.until("the session ended", func() bool { return !z.facts(web).Connected })
	ask("is not connected to zone east since 20")

	session := a.open(modern)
	session.welcome()
	ask("takes no questions yet")
	begun := make(chan struct{})
	end := a.offer(func(ctx context.Context, q *inquiry.Question, w io.Writer) error {
		if q.GetWhat() == inquiry.WhatDump {
			close(begun)
			<-ctx.Done()
		}
		_, err := io.WriteString(w, q.GetMesh()+"/"+q.GetName()+"/"+q.GetWhat())
		return err
	})
	z.until("it takes questions", func() bool { return z.desks.of(web) != nil })
	q := &inquiry.Question{What: inquiry.WhatStats, Mesh: web.Mesh, Name: web.Name}
	if b, err := z.Ask(t.Context(), web, q); err != nil || string(b) != "default/web-1/stats" {
		t.Errorf("%q, %v", b, err)
	}
	// The session ends while an answer is on its way, and the stream with it.
	go func() {
		<-begun
		session.cancel()
	}()
	_, err := z.Ask(t.Context(), web, &inquiry.Question{What: inquiry.WhatDump})
	if f := (*inquiry.Failure)(nil); !errors.As(err, &f) || !strings.Contains(f.Text, "went away") {
		t.Errorf("got %v", err)
	}
	if err := end(); status.Code(err) != codes.Canceled {
		t.Errorf("the stream outlived its session: %v", err)
	}
	if d := z.desks.of(web); d != nil {
		t.Error("it is still to be asked")
	}
}

// An agent answers for its own dataplane only, whatever it says.
func TestAnAgentAnswersForItself(t *testing.T) {
	z := newWorld(t).start()
	a := z.agent("one")
	if _, err := a.enroll(z.token(webToken)); err != nil {
		t.Fatal(err)
	}
	a.open(modern).welcome()
	a.offer(func(context.Context, *inquiry.Question, io.Writer) error { return nil })
	z.until("it takes questions", func() bool { return z.desks.of(web) != nil })
	if d := z.desks.of(resource.Key{Type: web.Type, Mesh: "default", Name: "db-1"}); d != nil {
		t.Error("it is asked about another dataplane")
	}
}
