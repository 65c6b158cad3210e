// Package agentapi is the protocol between a dataplane agent and its zone: generated messages and service,
// and the few names that both sides and Envoy's configuration share. It does no I/O of its own.
package agentapi

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative agent.proto

// Names of the secrets that the agent serves to its Envoy. They are constants so that configuration that refers to them is shared.
const (
	SecretIdentity = "identity" // key and certificate of the workload
	SecretTrust    = "trust"    // SPIFFE validator with one bundle per trust domain
)

// AgentCluster is the static Envoy cluster that leads to the agent's socket; ADS and SDS go there.
const AgentCluster = "system_agent"

// Features that an agent announces in its Hello.
const (
	FeatureBindOutbounds = "feature-bind-outbounds" // outbounds are bound on a loopback block of the proxy's own
	FeatureServiceProbes = "feature-service-probes" // TCP and HTTP probes of inbounds
)
