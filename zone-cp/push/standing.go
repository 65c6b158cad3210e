package push

import (
	"context"
	"math"
)

// A Standing says how the connected proxies are to what has been computed.
type Standing struct {
	Progress
	// Connected counts the proxies with a stream, Acknowledged those that are at the computed sequence.
	Connected, Acknowledged uint64
	// Least is the sequence that every connected proxy is at; without proxies the computed one.
	Least uint64
}

// Standing looks at every connected proxy, so it is for now and then.
func (e *Engine) Standing(ctx context.Context) (Standing, error) {
	out := Standing{Progress: e.Progress(), Least: math.MaxUint64}
	err := e.do(ctx, func(s *state) {
		out.Progress = e.Progress()
		for _, p := range s.proxies {
			for sess := range p.sessions {
				applied := sess.Applied()
				out.Connected++
				if applied >= out.Sequence {
					out.Acknowledged++
				}
				out.Least = min(out.Least, applied)
			}
		}
	})
	out.Least = min(out.Least, out.Sequence)
	return out, err
}

// Progressed is closed at the next progress of the engine or of a proxy. Take it before looking.
func (e *Engine) Progressed() <-chan struct{} { return e.listen() }
