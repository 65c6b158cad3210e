package inquiry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/causeway-mesh/causeway/api/resource"
)

// side is who asks: a server with the desk of the one peer that has opened a stream.
type side struct {
	UnimplementedInquiryServer
	budget   *Budget
	desks    chan *Desk
	patience time.Duration
}

func (s *side) Answer(stream grpc.BidiStreamingServer[Part, Question]) error {
	d := NewDesk(s.budget, s.patience)
	s.desks <- d
	return d.Serve(stream.Context(), stream)
}

// connect gives the desk of a peer that answers so, and a function that ends the peer and returns how it ended.
func connect(t *testing.T, b *Budget, atOnce int, answer Answerer) (*Desk, func() error) {
	t.Helper()
	return connectFor(t, b, 0, atOnce, answer)
}

// connectFor does with a desk that has only so much patience.
func connectFor(t *testing.T, b *Budget, patience time.Duration, atOnce int, answer Answerer) (*Desk, func() error) {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	server := grpc.NewServer()
	s := &side{budget: b, patience: patience, desks: make(chan *Desk, 1)}
	RegisterInquiryServer(server, s)
	var work sync.WaitGroup
	work.Go(func() { _ = server.Serve(l) })
	conn, err := grpc.NewClient("passthrough:peer", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	work.Go(func() { ended <- Serve(ctx, conn, atOnce, answer) })
	stop := sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() {
		_ = stop()
		conn.Close()
		server.Stop()
		work.Wait()
	})
	return <-s.desks, stop
}

func failsWith(t *testing.T, err error, part string) {
	t.Helper()
	if f := (*Failure)(nil); !errors.As(err, &f) || !strings.Contains(f.Text, part) {
		t.Errorf("got %v, want a failure with %q", err, part)
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	large := bytes.Repeat([]byte("0123456789abcdef"), 3*partSize/16+5)
	d, _ := connect(t, NewBudget(MaxAnswer), 4, func(_ context.Context, q *Question, w io.Writer) error {
		switch q.GetWhat() {
		case "large":
			for rest := large; len(rest) > 0; rest = rest[min(1000, len(rest)):] {
				if _, err := w.Write(rest[:min(1000, len(rest))]); err != nil {
					return err
				}
			}
			return nil
		case "missing":
			return resource.ErrNotFound
		case "broken":
			if _, err := w.Write(large); err != nil {
				return err
			}
			return errors.New("it broke off")
		}
		_, err := io.WriteString(w, q.GetMesh()+"/"+q.GetName())
		return err
	})
	if b, err := d.Ask(t.Context(), &Question{What: "large"}); err != nil || !bytes.Equal(b, large) {
		t.Errorf("%d bytes of %d, %v", len(b), len(large), err)
	}
	if _, err := d.Ask(t.Context(), &Question{What: "missing"}); !errors.Is(err, resource.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	_, err := d.Ask(t.Context(), &Question{What: "broken"})
	failsWith(t, err, "it broke off")
	// Whatever happened before, the next question is answered.
	if b, err := d.Ask(t.Context(), &Question{Mesh: "default", Name: "web"}); err != nil || string(b) != "default/web" {
		t.Errorf("%q, %v", b, err)
	}
}

// A desk closes when nobody asks, not while somebody waits; who comes too late is told so.
func TestDeskCloses(t *testing.T) {
	t.Parallel()
	slow := make(chan struct{})
	d, _ := connectFor(t, NewBudget(MaxAnswer), 10*time.Millisecond, 1, func(ctx context.Context, q *Question, w io.Writer) error {
		if q.GetWhat() != "slow" {
			return nil
		}
		// Several times the patience of the desk.
		timer := time.NewTimer(100 * time.Millisecond)
		defer timer.Stop()
		<-timer.C
		close(slow)
		_, err := io.WriteString(w, "done")
		return err
	})
	if b, err := d.Ask(t.Context(), &Question{What: "slow"}); err == nil {
		if <-slow; string(b) != "done" {
			t.Errorf("got %q", b)
		}
	} else if !errors.Is(err, ErrClosed) { // this machine was slower than the desk had patience
		t.Fatal(err)
	}
	<-d.ended
	if _, err := d.Ask(t.Context(), &Question{}); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestAnswersAreBounded(t *testing.T) {
	t.Parallel()
	var sent, most int
	var last *Part
	err := write(t.Context(), &Question{Id: 3}, func(_ context.Context, _ *Question, w io.Writer) error {
		for piece := make([]byte, 5*partSize+1); ; {
			if _, err := w.Write(piece); err != nil {
				return err
			}
		}
	}, func(p *Part) error {
		sent, most, last = sent+len(p.GetData()), max(most, len(p.GetData())), p
		return nil
	})
	if err != nil || sent > MaxAnswer || most != partSize || !last.GetLast() || last.GetId() != 3 {
		t.Errorf("%d bytes in parts of up to %d, the last %v, %v", sent, most, last, err)
	}
	failsWith(t, last.err(), "more than")
	// Who receives does not rely on that.
	d := NewDesk(NewBudget(2*MaxAnswer), 0)
	q := &pending{done: make(chan error, 1)}
	d.waiting[1] = q
	for n := 0; n <= MaxAnswer; n += 1 << 20 {
		d.take(&Part{Id: 1, Data: make([]byte, 1<<20)})
	}
	failsWith(t, <-q.done, "more than")
	if ids := d.toWithdraw(); len(ids) != 1 || ids[0] != 1 {
		t.Errorf("withdrawn: %v", ids)
	}
}

// Many large answers at a time do not take more memory than there is for them.
func TestBudget(t *testing.T) {
	t.Parallel()
	b := NewBudget(4 * partSize)
	d, _ := connect(t, b, MaxWaiting, func(_ context.Context, q *Question, w io.Writer) error {
		_, err := w.Write(make([]byte, len(q.GetName())*partSize))
		return err
	})
	if a, err := d.Ask(t.Context(), &Question{Name: "1234"}); err != nil || len(a) != 4*partSize {
		t.Errorf("%d bytes, %v", len(a), err)
	}
	_, err := d.Ask(t.Context(), &Question{Name: "12345"})
	failsWith(t, err, "try again")
	if a, err := d.Ask(t.Context(), &Question{Name: "1234"}); err != nil || len(a) != 4*partSize {
		t.Errorf("%d bytes, %v", len(a), err)
	}
	if left := b.left.Load(); left != 4*partSize {
		t.Errorf("%d bytes are left of %d when nobody waits", left, 4*partSize)
	}
}

// A question that nobody waits for any more is given up where it is worked on.
func TestWithdrawn(t *testing.T) {
	t.Parallel()
	begun, given := make(chan struct{}), make(chan error, 1)
	d, _ := connect(t, NewBudget(MaxAnswer), 1, func(ctx context.Context, q *Question, w io.Writer) error {
		if q.GetWhat() != "slow" {
			return nil
		}
		close(begun)
		<-ctx.Done()
		given <- ctx.Err()
		return ctx.Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-begun
		cancel()
	}()
	if _, err := d.Ask(ctx, &Question{What: "slow"}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := <-given; !errors.Is(err, context.Canceled) {
		t.Errorf("the work ended with %v", err)
	}
	if _, err := d.Ask(t.Context(), &Question{}); err != nil { // there is only one place to work at, and it is free
		t.Error(err)
	}
}

// Who is too slow says so himself, before the patience of who asks is at its end.
func TestSlow(t *testing.T) {
	t.Parallel()
	d, _ := connect(t, NewBudget(MaxAnswer), 1, func(ctx context.Context, _ *Question, _ io.Writer) error {
		<-ctx.Done()
		return ctx.Err()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 3*margin)
	defer cancel()
	_, err := d.Ask(ctx, &Question{})
	failsWith(t, err, "no answer within")
	if ctx.Err() != nil {
		t.Error("the reason came too late")
	}
}

func TestTooMany(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	d, _ := connect(t, NewBudget(MaxAnswer), 2, func(ctx context.Context, _ *Question, w io.Writer) error {
		select {
		case <-release:
		case <-ctx.Done():
		}
		return ctx.Err()
	})
	var work sync.WaitGroup
	for range MaxWaiting {
		work.Go(func() {
			if _, err := d.Ask(t.Context(), &Question{}); err != nil {
				t.Error(err)
			}
		})
	}
	for full := false; !full; {
		d.mu.Lock()
		full = len(d.waiting) == MaxWaiting
		d.mu.Unlock()
	}
	_, err := d.Ask(t.Context(), &Question{})
	failsWith(t, err, "16 questions")
	close(release)
	work.Wait()
}

func TestAway(t *testing.T) {
	t.Parallel()
	begun := make(chan struct{})
	d, stop := connect(t, NewBudget(MaxAnswer), 1, func(ctx context.Context, _ *Question, _ io.Writer) error {
		close(begun)
		<-ctx.Done()
		return ctx.Err()
	})
	go func() {
		<-begun
		_ = stop()
	}()
	if _, err := d.Ask(t.Context(), &Question{}); !errors.Is(err, ErrAway) {
		t.Errorf("got %v from who went away", err)
	}
	if _, err := d.Ask(t.Context(), &Question{}); !errors.Is(err, ErrAway) {
		t.Errorf("got %v from who is gone", err)
	}
}

// A peer cannot make somebody else's answer, nor hold memory, with parts that nobody asked for.
func TestPartsThatNobodyAskedFor(t *testing.T) {
	t.Parallel()
	b := NewBudget(MaxAnswer)
	d := NewDesk(b, 0)
	d.take(&Part{Id: 7, Data: make([]byte, 1000)})
	d.take(&Part{Id: 0, Last: true, Failure: "x"})
	if left := b.left.Load(); left != MaxAnswer || len(d.waiting) != 0 {
		t.Errorf("%d bytes left, %d waiting", left, len(d.waiting))
	}
}

func TestTimes(t *testing.T) {
	t.Parallel()
	for _, ms := range []int64{-5, 0, 1, 700, 2000, 1 << 50} {
		ctx, cancel := (&Question{TimeoutMs: ms}).bounded(t.Context())
		until, ok := ctx.Deadline()
		if left := time.Until(until); !ok || left > Timeout {
			t.Errorf("%d ms: %s", ms, left)
		}
		cancel()
	}
}
