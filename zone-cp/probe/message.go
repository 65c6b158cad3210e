package probe

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/view"
)

// Version is the version of question and answer. A side that is newer answers what the other understands.
const Version = 1

// The bounds of what travels. A frame is its length in four bytes and then JSON.
const (
	maxRequest  = 4 << 10
	maxReply    = 1 << 20
	maxServices = 2000 // in one reply; more follow in the next
	maxPorts    = 256  // of one service; the rest stays unknown
	maxText     = 512
)

// A Request asks for what has changed. Instance and After say what is known already.
type Request struct {
	Version  int    `json:"version"`
	Zone     string `json:"zone"`
	Instance string `json:"instance,omitempty"`
	After    uint64 `json:"after,omitempty"`
}

// A Reply says how much serves each service of the zone that has changed.
type Reply struct {
	Version int    `json:"version"`
	Zone    string `json:"zone"`
	Mesh    string `json:"mesh"`
	// Instance is one life of the control plane that answers. Sequence is how far the reply goes; the next question is for what comes after.
	Instance string `json:"instance"`
	Sequence uint64 `json:"sequence"`
	// Reset says that services that are not listed are no longer known; More that another question gets the rest.
	Reset bool `json:"reset,omitempty"`
	More  bool `json:"more,omitempty"`
	// Draining asks to send nothing new to the zone.
	Draining bool            `json:"draining,omitempty"`
	Services []ServiceCounts `json:"services,omitempty"`
}

// ServiceCounts says how much serves the ports of one service.
type ServiceCounts struct {
	KRI      string       `json:"kri"`
	Sequence uint64       `json:"sequence"`
	Gone     bool         `json:"gone,omitempty"`
	Ports    []PortCounts `json:"ports,omitempty"`
}

// PortCounts says how much serves one port.
type PortCounts struct {
	Section string `json:"section"`
	Healthy uint32 `json:"healthy"`
	Total   uint32 `json:"total"`
}

// check refuses a question that is none.
func (r Request) check() error {
	switch {
	case r.Version < 1:
		return errors.New("request: it has no version")
	case len(r.Zone) > maxText || len(r.Instance) > maxText:
		return errors.New("request: a name is too long")
	}
	return nil
}

// check refuses an answer of somebody else, and one that says more than it may: a zone speaks of its own services in one mesh.
func (r Reply) check(zone, mesh string) error {
	switch {
	case r.Version < 1:
		return errors.New("reply: it has no version")
	case r.Zone != zone || r.Mesh != mesh:
		return fmt.Errorf("reply: it is of mesh %s in zone %s", resource.Quote(r.Mesh), resource.Quote(r.Zone))
	case r.Instance == "" || len(r.Instance) > maxText:
		return errors.New("reply: it does not name its instance")
	case len(r.Services) > maxServices:
		return fmt.Errorf("reply: %d services, at most %d are allowed", len(r.Services), maxServices)
	case r.More && len(r.Services) == 0:
		return errors.New("reply: it has nothing and promises more")
	}
	for _, s := range r.Services {
		kri, err := resource.ParseKRI(s.KRI)
		if err != nil {
			return fmt.Errorf("reply: %w", err)
		}
		if kri.Zone != zone || kri.Mesh != mesh || kri.Section != "" {
			return fmt.Errorf("reply: it speaks of %s, which is not a service of its mesh and zone", resource.Quote(s.KRI))
		}
		if s.Sequence > r.Sequence {
			return fmt.Errorf("reply: %s has sequence %d beyond that of the reply, %d", s.KRI, s.Sequence, r.Sequence)
		}
		if len(s.Ports) > maxPorts {
			return fmt.Errorf("reply: %s has %d ports, at most %d are allowed", s.KRI, len(s.Ports), maxPorts)
		}
		for _, p := range s.Ports {
			if p.Section == "" || len(p.Section) > maxText {
				return fmt.Errorf("reply: a port of %s has no usable name", s.KRI)
			}
		}
	}
	return nil
}

// remote is what the counts say, for routing.
func (s ServiceCounts) remote() *view.Remote {
	if s.Gone {
		return nil
	}
	r := &view.Remote{Ports: make(map[string]view.Capacity, len(s.Ports))}
	for _, p := range s.Ports {
		r.Ports[p.Section] = view.Capacity{Healthy: min(p.Healthy, p.Total), Total: p.Total}
	}
	return r
}

func writeFrame(w io.Writer, v any, limit int) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(data) > limit {
		return fmt.Errorf("frame: %d bytes, at most %d are allowed", len(data), limit)
	}
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(data)), uint32(len(data)))
	_, err = w.Write(append(frame, data...))
	return err
}

// readFrame reads one frame; memory is taken as bytes arrive, not as the length promises.
func readFrame(r io.Reader, v any, limit uint32) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > limit {
		return fmt.Errorf("frame: %d bytes, 1 to %d are allowed", n, limit)
	}
	data, err := io.ReadAll(io.LimitReader(r, int64(n)))
	if err != nil {
		return err
	}
	if uint32(len(data)) < n {
		return io.ErrUnexpectedEOF
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("frame: %w", err)
	}
	return nil
}
