package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/causeway-mesh/causeway/api/mesh"
)

// An Index is what anybody may know of a control plane.
type Index struct {
	Hostname    string `json:"hostname"`
	Product     string `json:"product"`
	Version     string `json:"version"`
	InstanceID  string `json:"instanceId"`
	ClusterID   string `json:"clusterId"`
	BasedOnKuma string `json:"basedOnKuma"`
}

// Index asks a control plane who it is; no token is needed.
func (c *Client) Index(ctx context.Context) (Index, error) {
	var i Index
	err := c.getJSON(ctx, "/", &i)
	return i, err
}

// A User is who a token stands for.
type User struct {
	Name   string   `json:"name"`
	Groups []string `json:"groups"`
}

// WhoAmI asks whom the control plane takes this client for.
func (c *Client) WhoAmI(ctx context.Context) (User, error) {
	var u User
	err := c.getJSON(ctx, "/who-am-i", &u)
	return u, err
}

// A DataplaneToken asks for a token of a proxy. Every field that is set restricts it.
type DataplaneToken struct {
	Name     string              `json:"name,omitempty"`
	Mesh     string              `json:"mesh"`
	Tags     map[string][]string `json:"tags,omitempty"`
	Type     string              `json:"type,omitempty"`
	Workload string              `json:"workload,omitempty"`
	ValidFor string              `json:"validFor,omitempty"`
}

// A ZoneToken asks for a token of a zone.
type ZoneToken struct {
	Zone     string   `json:"zone"`
	Scope    []string `json:"scope,omitempty"`
	ValidFor string   `json:"validFor,omitempty"`
}

// A UserToken asks for a token of a person or program.
type UserToken struct {
	Name     string   `json:"name"`
	Groups   []string `json:"groups,omitempty"`
	ValidFor string   `json:"validFor"`
}

// NewDataplaneToken issues a token for proxies.
func (c *Client) NewDataplaneToken(ctx context.Context, t DataplaneToken) (string, error) {
	return c.newToken(ctx, "/tokens/dataplane", t)
}

// NewZoneToken issues a token for a zone.
func (c *Client) NewZoneToken(ctx context.Context, t ZoneToken) (string, error) {
	return c.newToken(ctx, "/tokens/zone", t)
}

// NewUserToken issues a token for a user.
func (c *Client) NewUserToken(ctx context.Context, t UserToken) (string, error) {
	return c.newToken(ctx, "/tokens/user", t)
}

// NewJoinToken makes a token with which a zone can join this global control plane once. An empty validity is the server's default.
func (c *Client) NewJoinToken(ctx context.Context, zone, validFor string) (string, error) {
	return c.newToken(ctx, "/zones/"+url.PathEscape(zone)+"/join-token", struct {
		ValidFor string `json:"validFor,omitempty"`
	}{validFor})
}

// RevokeZone voids everything that a zone was given to connect with.
func (c *Client) RevokeZone(ctx context.Context, zone string) error {
	_, err := c.Do(ctx, Request{Method: http.MethodPost, Path: "/zones/" + url.PathEscape(zone) + "/_revoke"})
	return err
}

// Propagation asks how far a revision of a global control plane's store has come in the zones.
func (c *Client) Propagation(ctx context.Context, revision uint64) (mesh.Propagation, error) {
	var out mesh.Propagation
	err := c.getJSON(ctx, "/revisions/"+strconv.FormatUint(revision, 10), &out)
	return out, err
}

// Traffic asks what was sent in a mesh lately.
func (c *Client) Traffic(ctx context.Context, meshName string, q url.Values) (mesh.TrafficReport, error) {
	var out mesh.TrafficReport
	path := "/meshes/" + url.PathEscape(meshName) + "/traffic"
	if len(q) > 0 {
		path += "?" + q.Encode()
	}
	err := c.getJSON(ctx, path, &out)
	return out, err
}

func (c *Client) newToken(ctx context.Context, path string, ask any) (string, error) {
	body, err := json.Marshal(ask)
	if err != nil {
		return "", fmt.Errorf("ask for a token: %w", err)
	}
	resp, err := c.Do(ctx, Request{Method: http.MethodPost, Path: path, Body: body})
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(resp.Body)), nil
}
