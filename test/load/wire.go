package load

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that requests are encoded with
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/causeway-mesh/causeway/api/envoy"
)

// A frame is a response as it came.
type frame struct{ buffer mem.Buffer }

// raw is a message that is encoded already.
type raw []mem.Buffer

// codec keeps responses undecoded and sends raw messages as they are.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2("proto")} }

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if b, ok := v.(raw); ok {
		return mem.BufferSlice(b), nil
	}
	return c.CodecV2.Marshal(v)
}

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if f, ok := v.(*frame); ok {
		f.buffer = data.MaterializeToBuffer(mem.DefaultBufferPool())
		return nil
	}
	return c.CodecV2.Unmarshal(data, v)
}

// DialOptions make connections cheap enough for a thousand in one process, and as quick to come back as Envoy's are;
// proxies need them.
func DialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithReadBufferSize(0), grpc.WithWriteBufferSize(4 << 10),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: 0.5, MaxDelay: 200 * time.Millisecond},
			MinConnectTimeout: 10 * time.Second,
		}),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(newCodec()), grpc.MaxCallRecvMsgSize(64<<20)),
	}
}

// A response is what a proxy reads of a DeltaDiscoveryResponse.
type response struct {
	typ       envoy.Type
	known     bool
	nonce     string
	version   uint64
	resources []byteResource
	removed   []string
}

type byteResource struct{ name, version, body []byte }

// parse reads a response; what it returns shares memory with the message.
func parse(msg []byte, r *response) {
	*r = response{resources: r.resources[:0], removed: r.removed[:0]}
	fields(msg, func(num protowire.Number, v []byte) bool {
		switch num {
		case 1:
			r.version = number(v)
		case 2:
			var x byteResource
			fields(v, func(num protowire.Number, v []byte) bool {
				switch num {
				case 1:
					x.version = v
				case 2:
					x.body = field(v, 2)
				case 3:
					x.name = v
				}
				return true
			})
			r.resources = append(r.resources, x)
		case 4:
			r.typ, r.known = typeOf(v)
		case 5:
			r.nonce = string(v)
		case 6:
			r.removed = append(r.removed, string(v))
		}
		return true
	})
}

func typeOf(url []byte) (envoy.Type, bool) {
	for t := range envoy.NumTypes {
		if string(url) == t.URL() {
			return t, true
		}
	}
	return 0, false
}

func number(b []byte) (n uint64) {
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0
		}
		n = n*10 + uint64(c-'0')
	}
	return n
}

// acknowledgement is a request that only answers a response.
func acknowledgement(t envoy.Type, nonce string) raw {
	b := protowire.AppendTag(make([]byte, 0, 96), 2, protowire.BytesType)
	b = protowire.AppendString(b, t.URL())
	b = protowire.AppendTag(b, 6, protowire.BytesType)
	return raw{mem.SliceBuffer(protowire.AppendString(b, nonce))}
}
