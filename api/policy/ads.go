package policy

import (
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/durationpb"
)

// FetchTimeout is how long Envoy waits for a nested resource before it goes on without. Its value is part of the bytes that
// refer to nested resources, so it never changes.
const FetchTimeout = 15 * time.Second

// OverADS is the config source of everything that travels on the proxy's one stream.
func OverADS() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		InitialFetchTimeout:   durationpb.New(FetchTimeout),
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
	}
}
