package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"

	"github.com/causeway-mesh/causeway/api/resource"
)

// ErrUnreachable is a control plane that gave no answer.
var ErrUnreachable = errors.New("control plane cannot be reached")

// ErrTimeout is an answer that did not come in time.
var ErrTimeout = errors.New("timed out")

// An Error is the refusal of a control plane.
type Error struct {
	Method, Path string
	Status       int
	Title        string `json:"title"`
	Detail       string `json:"detail"`
	// Instance identifies the request in the server's logs.
	Instance string `json:"instance"`
	// Invalid names the fields that are wrong, with the position in front for a batch.
	Invalid []InvalidParameter `json:"invalid_parameters"`
}

// An InvalidParameter is one field that is wrong.
type InvalidParameter struct {
	Field   string   `json:"field"`
	Reason  string   `json:"reason"`
	Choices []string `json:"choices"`
}

// String renders one wrong field on a line.
func (p InvalidParameter) String() string {
	s := p.Reason
	if p.Field != "" {
		s = p.Field + ": " + s
	}
	if len(p.Choices) > 0 {
		s += " (one of " + strings.Join(p.Choices, ", ") + ")"
	}
	return s
}

// Error renders the refusal on one line.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s: %d", e.Method, e.Path, e.Status)
	for _, s := range []string{e.Title, e.Detail} {
		if s != "" {
			b.WriteString(": " + s)
		}
	}
	for _, p := range e.Invalid {
		b.WriteString("; " + p.String())
	}
	return b.String()
}

// Is lets a refusal match the errors of the domain.
func (e *Error) Is(target error) bool {
	switch e.Status {
	case http.StatusNotFound:
		return target == resource.ErrNotFound
	case http.StatusConflict, http.StatusPreconditionFailed:
		return target == resource.ErrConflict
	}
	return false
}

func refusal(r Request, resp Response) *Error {
	e := &Error{Method: r.Method, Path: r.Path, Status: resp.Status}
	if err := json.Unmarshal(resp.Body, e); err != nil || e.Title == "" && e.Detail == "" {
		text := strings.TrimSpace(string(resp.Body))
		if len(text) > 200 {
			text = text[:200] + "..."
		}
		e.Title, e.Detail = http.StatusText(resp.Status), text
		if strings.Contains(text, "HTTP request to an HTTPS server") {
			e.Detail = "the server speaks https; write https:// in the server address"
		}
	}
	e.Status = resp.Status // the answer's own status line is the truth
	return e
}

// broken says that a connection was lost, so that the outcome of the call is not known.
func broken(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// unreachable says why there is no answer and what to do about it.
func (c *Client) unreachable(ctx context.Context, err error) error {
	var token tokenError
	var timeout net.Error
	switch {
	case errors.As(err, &token):
		return err
	case errors.Is(ctx.Err(), context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("%w: no answer from %s: %w", ErrTimeout, c.Server(), ErrUnreachable)
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return fmt.Errorf("%w at %s: %s", ErrUnreachable, c.Server(), reason(err))
}

func reason(err error) string {
	var (
		unknown  x509.UnknownAuthorityError
		hostname x509.HostnameError
		invalid  x509.CertificateInvalidError
		record   tls.RecordHeaderError
		dns      *net.DNSError
	)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there; is it running, and are host and port right?"
	case errors.As(err, &dns):
		return "host " + dns.Name + " is not known"
	case errors.Is(err, errPin):
		return errPin.Error()
	case errors.As(err, &unknown):
		return "its certificate comes from an unknown authority; name the control plane's CA with --ca-file or CAUSEWAY_CA_FILE"
	case errors.As(err, &hostname):
		return "its certificate is not for this name: " + hostname.Error()
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "its certificate is not valid at this time; compare the clocks of both machines: " + invalid.Error()
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return "it does not speak TLS; write http:// in the server address or check the port"
	case broken(err):
		return "the connection broke before the answer was complete"
	}
	return err.Error()
}
