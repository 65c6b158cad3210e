package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/causeway-mesh/causeway/api/resource"
)

// maxItemBody leaves room for what surrounds the spec of the largest object.
const maxItemBody = resource.MaxObject + 64<<10

// maxDrain is how much of a refused body is still read, so that the client sees the answer and not a reset connection.
const maxDrain = 16 << 20

func bodyTooLarge(limit int64) *failure {
	return fail(http.StatusRequestEntityTooLarge, "Request too large",
		"the body may have at most %d bytes, and one object at most %d; split it into several", limit, resource.MaxObject)
}

// readBody reads a whole body within a limit.
func readBody(c echo.Context, limit int64) ([]byte, error) {
	r := c.Request()
	var b bytes.Buffer
	if n := r.ContentLength; n > limit {
		drain(r.Body)
		return nil, bodyTooLarge(limit)
	} else if n > 0 {
		b.Grow(int(n) + bytes.MinRead)
	}
	if _, err := b.ReadFrom(io.LimitReader(r.Body, limit+1)); err != nil {
		if ctxErr := r.Context().Err(); ctxErr != nil {
			return nil, ctxErr
		}
		return nil, fail(http.StatusBadRequest, "Could not read the request", "the body ended before it was complete")
	}
	if int64(b.Len()) > limit {
		drain(r.Body)
		return nil, bodyTooLarge(limit)
	}
	if b.Len() == 0 {
		return nil, invalid("", "Resource is not valid", resource.Problem{Reason: "the body is empty"})
	}
	return b.Bytes(), nil
}

func drain(r io.Reader) {
	io.CopyN(io.Discard, r, maxDrain) //nolint:errcheck // only a courtesy to the client
}

// strictMode says whether unknown fields are refused.
func strictMode(c echo.Context) (bool, error) {
	switch v := c.QueryParam("strict"); v {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	default:
		return false, invalid("Could not process a resource", "Invalid parameter", resource.Problem{Field: "strict", Reason: "must be true or false"})
	}
}

func isYAML(r *http.Request) bool {
	t, _, _ := strings.Cut(r.Header.Get(echo.HeaderContentType), ";")
	return strings.HasSuffix(strings.TrimSpace(t), "yaml")
}

// decodeItem reads the body of a PUT.
func (s *Server) decodeItem(c echo.Context, body []byte) (resource.Decoded, error) {
	strict, err := strictMode(c)
	if err != nil {
		return resource.Decoded{}, err
	}
	if !isYAML(c.Request()) {
		return s.kinds.Decode(body, strict)
	}
	all, err := s.kinds.DecodeYAML(body, strict)
	if err == nil && len(all) != 1 {
		err = resource.Problems{{Reason: fmt.Sprintf("must be one resource, not %d; use POST /batch for several", len(all))}}
	}
	if err != nil {
		return resource.Decoded{}, err
	}
	return all[0], nil
}

// A document is one resource of a batch before it is decoded.
type document func(strict bool) (resource.Decoded, error)

// decodeMany reads the body of a batch: a JSON list, an object with items, one JSON object, or YAML documents.
// Every problem names the position of its resource.
func (s *Server) decodeMany(c echo.Context, body []byte) ([]resource.Decoded, error) {
	strict, err := strictMode(c)
	if err != nil {
		return nil, err
	}
	docs, err := s.documents(body, isYAML(c.Request()))
	if err != nil {
		return nil, err
	}
	if len(docs) == 0 {
		return nil, resource.Problems{{Reason: "there is no resource in it"}}
	}
	if len(docs) > maxBatchItems {
		return nil, resource.Problems{{Reason: fmt.Sprintf("has %d resources, at most %d are allowed; split it into several", len(docs), maxBatchItems)}}
	}
	out := make([]resource.Decoded, 0, len(docs))
	var problems resource.Problems
	for i, d := range docs {
		dec, err := d(strict)
		if err != nil {
			problems.Append(atItem(i, err))
			continue
		}
		out = append(out, dec)
	}
	return out, problems.Err()
}

const maxBatchItems = 10_000

func (s *Server) documents(body []byte, yaml bool) ([]document, error) {
	var list []json.RawMessage
	switch first := bytes.TrimLeft(body, " \t\r\n"); {
	case !yaml && bytes.HasPrefix(first, []byte("[")):
		if err := json.Unmarshal(body, &list); err != nil {
			return nil, resource.Problems{{Reason: "is not valid JSON: " + err.Error()}}
		}
	case !yaml && bytes.HasPrefix(first, []byte("{")):
		var wrapper struct {
			Type  *json.RawMessage  `json:"type"`
			Items []json.RawMessage `json:"items"`
		}
		if err := json.Unmarshal(body, &wrapper); err != nil {
			return nil, resource.Problems{{Reason: "is not valid JSON: " + err.Error()}}
		}
		list = wrapper.Items
		if wrapper.Type != nil {
			list = []json.RawMessage{body}
		}
	case len(body) > maxYAML:
		return nil, bodyTooLarge(maxYAML)
	default:
		trees, err := resource.ParseYAML(body)
		docs := make([]document, len(trees))
		for i, t := range trees {
			docs[i] = func(strict bool) (resource.Decoded, error) { return s.kinds.DecodeTree(t, strict) }
		}
		return docs, err
	}
	docs := make([]document, len(list))
	for i, raw := range list {
		docs[i] = func(strict bool) (resource.Decoded, error) { return s.kinds.Decode(raw, strict) }
	}
	return docs, nil
}

// atItem moves problems below the position of their resource in a batch.
func atItem(i int, err error) resource.Problems {
	at := resource.Path("").Index(i)
	var ps resource.Problems
	if !errors.As(err, &ps) {
		return resource.Problems{{Field: string(at.Field("type")), Reason: err.Error()}}
	}
	out := make(resource.Problems, len(ps))
	for j, p := range ps {
		out[j] = p
		out[j].Field = string(at)
		if p.Field != "" {
			out[j].Field = string(at) + "." + p.Field
		}
	}
	return out
}
