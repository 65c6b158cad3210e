package load

import (
	"slices"
	"strconv"
	"sync"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/causeway-mesh/causeway/api/envoy"
)

// A Ceiling is a server that does nothing but send the same ready bytes on streams and read the answers:
// what no control plane can be faster than.
type Ceiling struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	mu      sync.Mutex
	streams []chan raw
}

// NewCeiling makes a ceiling without streams.
func NewCeiling() *Ceiling { return &Ceiling{} }

// ServerOptions are what a gRPC server needs to send ready bytes.
func (c *Ceiling) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.ForceServerCodecV2(newCodec()), grpc.ReadBufferSize(0)}
}

// Register offers the ceiling on a gRPC server made with ServerOptions.
func (c *Ceiling) Register(r grpc.ServiceRegistrar) {
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(r, c)
}

// Streams is the number of open streams.
func (c *Ceiling) Streams() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.streams)
}

// Push sends resources, encoded as fields of a response, as one response of a version on the streams that came first, or on all.
func (c *Ceiling) Push(t envoy.Type, version uint64, resources []byte, first int) {
	tail := protowire.AppendTag(nil, 1, protowire.BytesType)
	tail = protowire.AppendString(tail, strconv.FormatUint(version, 10))
	tail = protowire.AppendTag(tail, 4, protowire.BytesType)
	tail = protowire.AppendString(tail, t.URL())
	tail = protowire.AppendTag(tail, 5, protowire.BytesType)
	tail = protowire.AppendString(tail, strconv.FormatUint(version, 10))
	message := raw{mem.SliceBuffer(resources), mem.SliceBuffer(tail)}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ch := range c.streams[:min(first, len(c.streams))] {
		ch <- message
	}
}

// Filler is a resource of about as many bytes as are wanted, whose content means nothing, encoded as a field of a response.
func Filler(t envoy.Type, version uint64, size int) []byte {
	body := protowire.AppendTag(nil, 1, protowire.BytesType)
	body = protowire.AppendString(body, t.URL())
	body = protowire.AppendTag(body, 2, protowire.BytesType)
	body = protowire.AppendBytes(body, make([]byte, max(0, size-2*len(t.URL())-40)))
	x := protowire.AppendTag(nil, 1, protowire.BytesType)
	x = protowire.AppendString(x, strconv.FormatUint(version, 10))
	x = protowire.AppendTag(x, 3, protowire.BytesType)
	x = protowire.AppendString(x, "filler")
	x = protowire.AppendTag(x, 2, protowire.BytesType)
	x = protowire.AppendBytes(x, body)
	return protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), x)
}

// DeltaAggregatedResources serves one stream.
func (c *Ceiling) DeltaAggregatedResources(rpc discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	ch := make(chan raw, 16)
	c.mu.Lock()
	c.streams = append(c.streams, ch)
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.streams = slices.DeleteFunc(c.streams, func(other chan raw) bool { return other == ch })
	}()
	go func() { // ends with the stream
		for {
			if _, err := rpc.Recv(); err != nil {
				return
			}
		}
	}()
	for {
		select {
		case m := <-ch:
			if err := rpc.SendMsg(m); err != nil {
				return err
			}
		case <-rpc.Context().Done():
			return status.FromContextError(rpc.Context().Err()).Err()
		}
	}
}

// StreamAggregatedResources refuses the older protocol.
func (c *Ceiling) StreamAggregatedResources(discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	return status.Error(codes.Unimplemented, "only delta xDS is served")
}
