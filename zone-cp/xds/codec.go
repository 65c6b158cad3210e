package xds

import (
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that everything else uses
	"google.golang.org/grpc/mem"
)

// codec sends a Response as the bytes it is and leaves every other message to the ordinary codec,
// so that one gRPC server can offer other services beside ADS.
type codec struct{ encoding.CodecV2 }

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if r, ok := v.(*Response); ok {
		return r.Buffers(), nil
	}
	return c.CodecV2.Marshal(v)
}
