package agents

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
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

func inquired(m *agentapi.ZoneMessage) bool { return m.GetInquire() != nil }

func modern(h *agentapi.Hello) { h.Features = append(h.Features, agentapi.FeatureInquiry) }

// Whoever cannot be asked is named with the reason, at once; an agent of an older version has its session all the same.
//
// Acceptance: U compatibility: an agent that lacks a feature is served, and what it cannot do is said
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
	begun := make(chan struct{})
	answer := func(ctx context.Context, q *inquiry.Question, w io.Writer) error {
		if q.GetWhat() == inquiry.WhatDump {
			close(begun)
			<-ctx.Done()
		}
		_, err := io.WriteString(w, q.GetMesh()+"/"+q.GetName()+"/"+q.GetWhat())
		return err
	}
	if d := z.desks.of(web); d != nil {
		t.Error("there is a stream though nobody asks")
	}
	called := make(chan func() error, 1)
	go func() {
		session.next("the question is announced", inquired)
		called <- a.offer(answer)
	}()
	q := &inquiry.Question{What: inquiry.WhatStats, Mesh: web.Mesh, Name: web.Name}
	if b, err := z.Ask(t.Context(), web, q); err != nil || string(b) != "default/web-1/stats" {
		t.Errorf("%q, %v", b, err)
	}
	end := <-called
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
	session := a.open(modern)
	session.welcome()
	a.offer(func(context.Context, *inquiry.Question, io.Writer) error { return nil })
	z.until("it takes questions", func() bool { return z.desks.of(web) != nil })
	if d := z.desks.of(resource.Key{Type: web.Type, Mesh: "default", Name: "db-1"}); d != nil {
		t.Error("it is asked about another dataplane")
	}
}

// An agent is called once for all who wait, and again when it has been let go.
func TestAgentsAreCalled(t *testing.T) {
	w := newWorld(t)
	z := w.start()
	z.desks.patience = 20 * time.Millisecond
	a := z.agent("one")
	if _, err := a.enroll(z.token(webToken)); err != nil {
		t.Fatal(err)
	}
	session := a.open(modern)
	session.welcome()
	ask := func(ctx context.Context) error {
		b, err := z.Ask(ctx, web, &inquiry.Question{What: inquiry.WhatStats})
		if err == nil && string(b) != "fine" {
			err = fmt.Errorf("got %q", b)
		}
		return err
	}
	// Who gives up before the agent comes is no reason not to call it again.
	given, giveUp := context.WithCancel(t.Context())
	var waiting sync.WaitGroup
	waiting.Go(func() {
		if err := ask(given); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	session.next("a question is announced", inquired)
	giveUp()
	waiting.Wait()
	go func() {
		for {
			m, err := session.Recv()
			if err != nil {
				return
			}
			if inquired(m) {
				a.offer(func(_ context.Context, _ *inquiry.Question, w io.Writer) error {
					_, err := io.WriteString(w, "fine")
					return err
				})
			}
		}
	}()
	for range 2 {
		for range 3 {
			waiting.Go(func() {
				if err := ask(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		waiting.Wait()
		z.until("the stream that nobody needs has ended", func() bool { return z.desks.of(web) == nil })
	}
}

// Which instance has the session is said by those that have not.
func TestAnAgentOfAnotherInstance(t *testing.T) {
	z := newWorld(t).start()
	z.registry.update(web, func(f *Facts) {
		f.Connected, f.ControlPlane, f.Features = true, "zone-2", []string{agentapi.FeatureInquiry}
	})
	_, err := z.Ask(t.Context(), web, &inquiry.Question{What: inquiry.WhatStats})
	if f := (*inquiry.Failure)(nil); !errors.As(err, &f) || !strings.Contains(f.Text, "connected to instance zone-2 of zone east") {
		t.Errorf("got %v", err)
	}
}
