package mesh

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
)

// CollectorHeader is the header of requests with telemetry, from a proxy to its agent, that says where the agent sends it on.
const CollectorHeader = "causeway-collector"

// maxCollector bounds the header.
const maxCollector = 8 << 10

// A Collector is where an agent sends telemetry of its proxy: one of the fields is set.
type Collector struct {
	// TCP is host:port of a collector that takes lines.
	TCP string `json:"tcp,omitempty"`
	// OpenTelemetry is a collector that speaks OTLP.
	OpenTelemetry *MeshOpenTelemetryBackend `json:"openTelemetry,omitempty"`
}

// Header is the collector as the value of a header.
func (c Collector) Header() string {
	b, err := json.Marshal(c)
	if err != nil {
		return "" // made of strings and numbers only
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// ParseCollector reads the value of a header.
func ParseCollector(header string) (Collector, error) {
	var c Collector
	if len(header) > maxCollector {
		return c, fmt.Errorf("%s: longer than %d characters", CollectorHeader, maxCollector)
	}
	b, err := base64.RawURLEncoding.DecodeString(header)
	if err != nil {
		return c, fmt.Errorf("%s: %w", CollectorHeader, err)
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return c, fmt.Errorf("%s: %w", CollectorHeader, err)
	}
	if (c.TCP == "") == (c.OpenTelemetry == nil) {
		return c, errors.New(CollectorHeader + ": must name one collector")
	}
	return c, nil
}

// Variables that an agent puts into the environment of its Envoy, for access logs and traces: facts about one proxy that must not
// tell its configuration from that of others.
const (
	EnvMesh     = "CAUSEWAY_MESH"
	EnvZone     = "CAUSEWAY_ZONE"
	EnvWorkload = "CAUSEWAY_WORKLOAD"
	EnvAddress  = "CAUSEWAY_ADDRESS"
)

// AgentSocket is the file of the agent's socket, in the directory in which its Envoy runs.
const AgentSocket = "agent.sock"
