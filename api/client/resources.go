package client

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/causeway-mesh/causeway/api/resource"
)

// An Object is one resource as the API shows it.
type Object struct {
	Type     string            `json:"type"`
	Mesh     string            `json:"mesh"`
	Name     string            `json:"name"`
	Labels   map[string]string `json:"labels"`
	KRI      string            `json:"kri"`
	Created  time.Time         `json:"creationTime"`
	Modified time.Time         `json:"modificationTime"`

	// Raw is the whole object, byte for byte as it came.
	Raw json.RawMessage `json:"-"`
	// ETag is the version to give in If-Match; lists have none.
	ETag string `json:"-"`
}

// Key is the address of the object.
func (o Object) Key() resource.Key { return resource.Key{Type: o.Type, Mesh: o.Mesh, Name: o.Name} }

func parseObject(path string, raw []byte) (Object, error) {
	var o Object
	if err := decode(path, raw, &o); err != nil {
		return Object{}, err
	}
	o.Raw = raw
	return o, nil
}

// listPath is where a kind is listed; a mesh-scoped kind without a mesh is listed over all meshes.
func listPath(k resource.Kind, mesh string) string {
	if k.Scope == resource.ScopeMesh && mesh != "" {
		return "/meshes/" + url.PathEscape(mesh) + "/" + k.Path
	}
	return "/" + k.Path
}

func itemPath(k resource.Kind, mesh, name string) (string, error) {
	if name == "" {
		return "", errors.New("a name is needed")
	}
	if k.Scope == resource.ScopeMesh && mesh == "" {
		return "", fmt.Errorf("%s %s: a mesh is needed", k.Name, name)
	}
	return listPath(k, mesh) + "/" + url.PathEscape(name), nil
}

// Get reads one resource; a missing one is resource.ErrNotFound.
func (c *Client) Get(ctx context.Context, k resource.Kind, mesh, name string) (Object, error) {
	path, err := itemPath(k, mesh, name)
	if err != nil {
		return Object{}, err
	}
	resp, err := c.Do(ctx, Request{Method: http.MethodGet, Path: path})
	if err != nil {
		return Object{}, err
	}
	o, err := parseObject(path, resp.Body)
	o.ETag = resp.Header.Get("ETag")
	return o, err
}

// Overview reads a Dataplane or Zone together with what is observed of it.
func (c *Client) Overview(ctx context.Context, k resource.Kind, mesh, name string) (Object, error) {
	path, err := itemPath(k, mesh, name)
	if err != nil {
		return Object{}, err
	}
	path += "/_overview"
	resp, err := c.Do(ctx, Request{Method: http.MethodGet, Path: path})
	if err != nil {
		return Object{}, err
	}
	return parseObject(path, resp.Body)
}

// A Query chooses what a list holds.
type Query struct {
	Labels map[string]string // all must match
	Name   string            // part of the name
	Size   int               // objects per page; the server's default when zero
}

func (q Query) values() url.Values {
	v := url.Values{}
	for k, l := range q.Labels {
		v.Set("filter[labels."+k+"]", l)
	}
	if q.Name != "" {
		v.Set("name", q.Name)
	}
	if q.Size > 0 {
		v.Set("size", strconv.Itoa(q.Size))
	}
	return v
}

type page struct {
	Items []json.RawMessage `json:"items"`
	Next  *string           `json:"next"`
}

// List yields every resource of a kind, page after page; the error ends it.
func (c *Client) List(ctx context.Context, k resource.Kind, mesh string, q Query) iter.Seq2[Object, error] {
	return c.list(ctx, listPath(k, mesh), q)
}

// DataplaneOverviews yields the Dataplanes of a mesh with what is observed of them; an empty mesh means all.
func (c *Client) DataplaneOverviews(ctx context.Context, mesh string, q Query) iter.Seq2[Object, error] {
	path := "/dataplanes/_overview"
	if mesh != "" {
		path = "/meshes/" + url.PathEscape(mesh) + path
	}
	return c.list(ctx, path, q)
}

// ZoneOverviews yields the Zones with what is observed of them.
func (c *Client) ZoneOverviews(ctx context.Context, q Query) iter.Seq2[Object, error] {
	return c.list(ctx, "/zones/_overview", q)
}

func (c *Client) list(ctx context.Context, path string, q Query) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		values := q.values()
		for {
			resp, err := c.Do(ctx, Request{Method: http.MethodGet, Path: path, Query: values})
			if err != nil {
				yield(Object{}, err)
				return
			}
			var p page
			if err := decode(path, resp.Body, &p); err != nil {
				yield(Object{}, err)
				return
			}
			for _, raw := range p.Items {
				if o, err := parseObject(path, raw); !yield(o, err) || err != nil {
					return
				}
			}
			next, err := nextPage(values, p)
			if err != nil {
				yield(Object{}, err)
				return
			}
			if values = next; values == nil {
				return
			}
		}
	}
}

// nextPage takes only the query of the next link: its host is what the server believes to be called, and it must not get the token.
func nextPage(current url.Values, p page) (url.Values, error) {
	if p.Next == nil || *p.Next == "" {
		return nil, nil
	}
	u, err := url.Parse(*p.Next)
	if err != nil {
		return nil, fmt.Errorf("the link to the next page is not a URL: %w", err)
	}
	next := u.Query()
	if next.Encode() == current.Encode() || len(p.Items) == 0 {
		return nil, errors.New("the link to the next page leads to the same page")
	}
	return next, nil
}

// Precondition makes a write depend on what is there.
type Precondition struct {
	IfMatch     string // the ETag that was read
	IfNoneMatch bool   // nothing may be there yet
	Strict      bool   // unknown fields are errors
	Reason      string // why, for the history
}

func (p Precondition) apply(r *Request) {
	r.Header = http.Header{}
	if p.IfMatch != "" {
		r.Header.Set("If-Match", p.IfMatch)
	}
	if p.IfNoneMatch {
		r.Header.Set("If-None-Match", "*")
	}
	if p.Reason != "" {
		r.Header.Set("Causeway-Reason", p.Reason)
	}
	if p.Strict {
		r.Query = url.Values{"strict": {"true"}}
	}
	r.Header.Set("Idempotency-Key", rand.Text())
}

// A Written is the answer to a write.
type Written struct {
	Created  bool
	Warnings []string
	ETag     string
}

// Put creates or replaces one resource.
func (c *Client) Put(ctx context.Context, k resource.Kind, mesh, name string, body []byte, p Precondition) (Written, error) {
	path, err := itemPath(k, mesh, name)
	if err != nil {
		return Written{}, err
	}
	r := Request{Method: http.MethodPut, Path: path, Body: body}
	p.apply(&r)
	resp, err := c.Do(ctx, r)
	if err != nil {
		return Written{}, err
	}
	w := Written{Created: resp.Status == http.StatusCreated, ETag: resp.Header.Get("ETag")}
	var b struct {
		Warnings []string `json:"warnings"`
	}
	if len(resp.Body) > 0 {
		err = decode(path, resp.Body, &b)
	}
	w.Warnings = b.Warnings
	return w, err
}

// Delete removes one resource; a missing one is resource.ErrNotFound.
func (c *Client) Delete(ctx context.Context, k resource.Kind, mesh, name string, p Precondition) error {
	path, err := itemPath(k, mesh, name)
	if err != nil {
		return err
	}
	r := Request{Method: http.MethodDelete, Path: path}
	p.apply(&r)
	_, err = c.Do(ctx, r)
	return err
}
