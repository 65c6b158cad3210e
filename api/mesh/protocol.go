package mesh

// A Protocol is what is spoken on a port. Anything that is not an HTTP protocol is carried as a byte stream.
type Protocol string

// The protocols that get more than a byte stream.
const (
	TCP   Protocol = "tcp"
	HTTP  Protocol = "http"
	HTTP2 Protocol = "http2"
	GRPC  Protocol = "grpc"
)

// Protocols lists the protocols that may be declared.
var Protocols = []Protocol{TCP, HTTP, HTTP2, GRPC, "tls", "kafka", "mysql"}

// OrTCP is the protocol, tcp when none is declared.
func (p Protocol) OrTCP() Protocol {
	if p == "" {
		return TCP
	}
	return p
}

// IsHTTP says that requests can be told apart: http, http2 and grpc.
func (p Protocol) IsHTTP() bool { return p == HTTP || p == HTTP2 || p == GRPC }

// IsHTTP2 says that the workload speaks HTTP/2: http2 and grpc.
func (p Protocol) IsHTTP2() bool { return p == HTTP2 || p == GRPC }
