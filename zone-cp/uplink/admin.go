package uplink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/zonesync"
)

// An Inspector tells what a proxy of this zone gets.
type Inspector interface {
	Config(ctx context.Context, dataplane resource.Resource) (json.RawMessage, error)
}

const (
	partSize   = 64 << 10
	maxAnswers = 4 // that are worked on at a time
)

// answerQuestions serves global's questions on a stream of its own until the link ends. That it fails is no reason to end the link:
// a global that does not ask is an older one.
func (u *Uplink) answerQuestions(ctx context.Context, conn *grpc.ClientConn) {
	stream, err := zonesync.NewLinkClient(conn).Admin(ctx)
	if err != nil {
		u.cfg.Log.Debug("global asks no questions", "err", err)
		return
	}
	var sending sync.Mutex
	send := func(a *zonesync.Answer) error {
		sending.Lock()
		defer sending.Unlock()
		return stream.Send(a)
	}
	if send(&zonesync.Answer{}) != nil {
		return // Recv says why
	}
	var work sync.WaitGroup
	defer work.Wait()
	free := make(chan struct{}, maxAnswers)
	for {
		q, err := stream.Recv()
		if err != nil {
			u.cfg.Log.Debug("global asks no more questions", "err", err)
			return
		}
		select {
		case free <- struct{}{}:
		case <-ctx.Done():
			return
		}
		work.Go(func() {
			defer func() { <-free }()
			u.answer(ctx, q, send)
		})
	}
}

func (u *Uplink) answer(ctx context.Context, q *zonesync.Question, send func(*zonesync.Answer) error) {
	ctx, cancel := context.WithTimeout(ctx, min(max(time.Duration(q.GetTimeoutMs())*time.Millisecond, time.Second), time.Minute))
	defer cancel()
	data, err := u.inspect(ctx, q)
	if err != nil {
		_ = send(&zonesync.Answer{Id: q.GetId(), Last: true, Error: err.Error(), NotFound: errors.Is(err, resource.ErrNotFound)}) // Recv notices
		return
	}
	for {
		part := data[:min(len(data), partSize)]
		data = data[len(part):]
		if send(&zonesync.Answer{Id: q.GetId(), Part: part, Last: len(data) == 0}) != nil || len(data) == 0 {
			return
		}
	}
}

func (u *Uplink) inspect(ctx context.Context, q *zonesync.Question) ([]byte, error) {
	if q.GetWhat() != zonesync.AskConfig || u.cfg.Inspector == nil {
		return nil, fmt.Errorf("this zone does not know what %s is; upgrade it", resource.Quote(q.GetWhat()))
	}
	r, ok := u.cfg.Catalog.Snapshot().Get(resource.Key{Type: "Dataplane", Mesh: q.GetMesh(), Name: q.GetName()})
	if !ok {
		return nil, resource.ErrNotFound
	}
	return u.cfg.Inspector.Config(ctx, r)
}
