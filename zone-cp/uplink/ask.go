package uplink

import (
	"context"
	"fmt"
	"io"

	"google.golang.org/grpc"

	"github.com/causeway-mesh/causeway/api/inquiry"
	"github.com/causeway-mesh/causeway/api/resource"
)

// An Inspector tells what a proxy of this zone gets and does.
type Inspector interface {
	Inspect(ctx context.Context, dataplane resource.Resource, q *inquiry.Question) ([]byte, error)
}

// maxAnswers is how many of global's questions are worked on at a time.
const maxAnswers = 4

// answerQuestions serves global's questions on a stream of its own until the link ends. That it fails is no reason to end the link:
// a global that does not ask is an older one.
func (u *Uplink) answerQuestions(ctx context.Context, conn *grpc.ClientConn) {
	err := inquiry.Serve(ctx, conn, maxAnswers, u.answer)
	u.cfg.Log.Debug("global asks no more questions", "err", err)
}

func (u *Uplink) answer(ctx context.Context, q *inquiry.Question, w io.Writer) error {
	if u.cfg.Inspector == nil {
		return inquiry.Failf("this zone answers no questions")
	}
	r, ok := u.cfg.Catalog.Snapshot().Get(resource.Key{Type: "Dataplane", Mesh: q.GetMesh(), Name: q.GetName()})
	if !ok {
		return resource.ErrNotFound
	}
	b, err := u.cfg.Inspector.Inspect(ctx, r, q)
	if err != nil {
		return err
	}
	if _, err := w.Write(b); err != nil {
		return fmt.Errorf("answer a question of global: %w", err)
	}
	return nil
}
