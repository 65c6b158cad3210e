package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
)

// A BatchItem says what became of one resource of a batch: created, configured or unchanged.
type BatchItem struct {
	Type     string   `json:"type"`
	Mesh     string   `json:"mesh"`
	Name     string   `json:"name"`
	Result   string   `json:"result"`
	ETag     string   `json:"etag"`
	Warnings []string `json:"warnings"`
}

// A BatchResult is what became of a batch.
type BatchResult struct {
	// Revision of the control plane's store that holds it, to ask how far it has come.
	Revision uint64      `json:"revision"`
	Items    []BatchItem `json:"items"`
}

// Batch creates or replaces several resources together: all of them or none, as one change. Those that name no mesh but need
// one get the given mesh. The answer has one item for each, in the same order; a refusal names fields as [i].field.
func (c *Client) Batch(ctx context.Context, resources []json.RawMessage, mesh string, p Precondition) (BatchResult, error) {
	body, err := json.Marshal(resources)
	if err != nil {
		return BatchResult{}, fmt.Errorf("encode the batch: %w", err)
	}
	r := Request{Method: http.MethodPost, Path: "/batch", Query: url.Values{}, Header: http.Header{}, Body: body}
	// Without an idempotency key the server leaves unchanged resources alone and says so; to apply twice is harmless anyway.
	r.Repeatable = true
	if mesh != "" {
		r.Query.Set("mesh", mesh)
	}
	if p.Strict {
		r.Query.Set("strict", "true")
	}
	if p.Reason != "" {
		r.Header.Set("Causeway-Reason", p.Reason)
	}
	resp, err := c.Do(ctx, r)
	if err != nil {
		return BatchResult{}, err
	}
	var answer BatchResult
	if err := decode(r.Path, resp.Body, &answer); err != nil {
		return BatchResult{}, err
	}
	if len(answer.Items) != len(resources) {
		return BatchResult{}, fmt.Errorf("the answer tells of %d resources, %d were sent", len(answer.Items), len(resources))
	}
	return answer, nil
}
