// Package agentapi is the protocol between a dataplane agent and its zone: generated messages and service,
// the features that both announce, and names as bytes that all agents share. It does no I/O of its own.
package agentapi

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative agent.proto

// Features that an agent announces in its Hello.
const (
	FeatureBindOutbounds = "feature-bind-outbounds" // outbounds are bound on a loopback block of the proxy's own
	FeatureServiceProbes = "feature-service-probes" // TCP and HTTP probes of inbounds
	FeatureNames         = "feature-names"          // names of the mesh for the agent's DNS; zones announce it, too
	FeatureInquiry       = "feature-inquiry"        // questions about Envoy are answered beside the session; zones announce it, too
	FeatureMetrics       = "feature-metrics"        // metrics are told as the zone says
)
