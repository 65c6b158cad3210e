package xds

import (
	"hash/maphash"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"weak"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/causeway-mesh/causeway/api/envoy"
)

// Fields of envoy.service.discovery.v3.DeltaDiscoveryResponse; resources (2) are the fragments' chunks.
const (
	fieldSystemVersion = 1
	fieldTypeURL       = 4
	fieldNonce         = 5
	fieldRemoved       = 6
)

// A Response is one DeltaDiscoveryResponse, most of it bytes that other streams send too.
type Response struct {
	Type    envoy.Type
	Nonce   string
	Version uint64 // the sequence of the table it was made from
	flight  *flight
}

// Len is the number of resources.
func (r *Response) Len() int { return r.flight.len() }

// Fragments calls yield for each resource.
func (r *Response) Fragments(yield func(*envoy.Fragment) bool) { r.flight.fragments(yield) }

// Removed lists the names of removed resources.
func (r *Response) Removed() []string { return r.flight.removed }

// Size is the number of bytes of its resources.
func (r *Response) Size() int {
	n := 0
	if r.flight.shared != nil {
		n = r.flight.shared.buffers.Len()
	}
	for _, f := range r.flight.own {
		n += f.Size()
	}
	return n
}

// Buffers is the encoded message. Fields of a message may come in any order, so what is shared stands first, untouched,
// and what belongs to the stream follows.
func (r *Response) Buffers() mem.BufferSlice {
	out := make(mem.BufferSlice, 0, 2+len(r.flight.own))
	if r.flight.shared != nil {
		out = append(out, r.flight.shared.buffers...)
	}
	for _, f := range r.flight.own {
		for _, chunk := range f.Chunks {
			out = append(out, mem.SliceBuffer(chunk))
		}
	}
	return append(out, mem.SliceBuffer(r.tail()))
}

func (r *Response) tail() []byte {
	url := r.Type.URL()
	size := len(url) + len(r.Nonce) + 32
	for _, name := range r.flight.removed {
		size += len(name) + 4
	}
	b := make([]byte, 0, size)
	b = protowire.AppendTag(b, fieldTypeURL, protowire.BytesType)
	b = protowire.AppendString(b, url)
	b = protowire.AppendTag(b, fieldNonce, protowire.BytesType)
	b = protowire.AppendString(b, r.Nonce)
	b = protowire.AppendTag(b, fieldSystemVersion, protowire.BytesType)
	b = protowire.AppendString(b, strconv.FormatUint(r.Version, 10))
	for _, name := range r.flight.removed {
		b = protowire.AppendTag(b, fieldRemoved, protowire.BytesType)
		b = protowire.AppendString(b, name)
	}
	return b
}

// A body is a run of resources as one piece of bytes, shared by all streams that send the same ones.
type body struct {
	fragments []*envoy.Fragment
	buffers   mem.BufferSlice
	taken     atomic.Bool // some client has accepted it
}

// bodies finds the body for a list of fragments. Streams of a class move from the same table to the same table at about
// the same time, so it is enough to hold the last few; a body in flight is held by its streams.
type bodies struct {
	mu     sync.Mutex
	known  map[uint64]weak.Pointer[body]
	recent []*body
	size   int // bytes of recent
}

// maxRecent bounds the bytes that are kept for streams that have not asked yet.
const maxRecent = 4 << 20

var bodySeed = maphash.MakeSeed()

func (b *bodies) of(list []*envoy.Fragment) *body {
	var h maphash.Hash
	h.SetSeed(bodySeed)
	for _, f := range list {
		maphash.WriteComparable(&h, f)
	}
	key := h.Sum64()
	b.mu.Lock()
	defer b.mu.Unlock()
	if found := b.known[key].Value(); found != nil && slices.Equal(found.fragments, list) {
		return found
	}
	made := newBody(list)
	if b.known == nil || len(b.known) >= 1024 {
		b.known = map[uint64]weak.Pointer[body]{}
	}
	b.known[key] = weak.Make(made)
	b.recent = append(b.recent, made)
	b.size += made.buffers.Len()
	for b.size > maxRecent && len(b.recent) > 1 {
		b.size -= b.recent[0].buffers.Len()
		b.recent = slices.Delete(b.recent, 0, 1)
	}
	return made
}

// newBody joins the chunks: one buffer costs each stream less than a hundred.
func newBody(list []*envoy.Fragment) *body {
	made := &body{fragments: slices.Clone(list)}
	if len(list) == 1 && len(list[0].Chunks) == 1 {
		made.buffers = mem.BufferSlice{mem.SliceBuffer(list[0].Chunks[0])}
		return made
	}
	size := 0
	for _, f := range list {
		size += f.Size()
	}
	joined := make([]byte, 0, size)
	for _, f := range list {
		for _, chunk := range f.Chunks {
			joined = append(joined, chunk...)
		}
	}
	made.buffers = mem.BufferSlice{mem.SliceBuffer(joined)}
	return made
}
