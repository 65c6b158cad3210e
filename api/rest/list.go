package rest

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store/catalog"
)

const (
	defaultPage = 100
	maxPage     = 1000
)

// A page is one part of a list.
type page struct {
	Total int               `json:"total"`
	Items []json.RawMessage `json:"items"`
	Next  *string           `json:"next"`
}

// A renderer gives the JSON of one item.
type renderer func(*catalog.Snapshot, resource.Resource) (json.RawMessage, error)

func (s *Server) list(k resource.Kind) echo.HandlerFunc {
	return s.listWith(k, func(snap *catalog.Snapshot, r resource.Resource) (json.RawMessage, error) {
		return s.render(snap, k, r)
	})
}

// listWith lists the resources of a kind, each rendered in its own way.
func (s *Server) listWith(k resource.Kind, item renderer) echo.HandlerFunc {
	return func(c echo.Context) error {
		if err := s.require(c, readPermission(k)); err != nil {
			return err
		}
		q, err := listQuery(c, k)
		if err != nil {
			return err
		}
		return answerPage(c, s.catalog.Snapshot(), q, item)
	}
}

func answerPage(c echo.Context, snap *catalog.Snapshot, q catalog.Query, item renderer) error {
	found := snap.List(q)
	p := page{Total: found.Total, Items: make([]json.RawMessage, 0, len(found.Items))}
	for _, r := range found.Items {
		b, err := item(snap, r)
		if err != nil {
			return titled(couldNotList, err)
		}
		p.Items = append(p.Items, b)
	}
	if found.Next != nil {
		next := nextURL(c, q, *found.Next)
		p.Next = &next
	}
	return writePage(c, p)
}

// writePage writes a page without encoding its items a second time.
func writePage(c echo.Context, p page) error {
	size := 64
	for _, it := range p.Items {
		size += len(it) + 1
	}
	b := make([]byte, 0, size)
	b = append(b, `{"total":`...)
	b = strconv.AppendInt(b, int64(p.Total), 10)
	b = append(b, `,"items":[`...)
	for i, it := range p.Items {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, it...)
	}
	b = append(b, `],"next":`...)
	next, err := json.Marshal(p.Next)
	if err != nil {
		return titled(couldNotList, err)
	}
	b = append(append(b, next...), '}')
	return c.JSONBlob(http.StatusOK, b)
}

// listQuery reads the parameters of a list.
func listQuery(c echo.Context, k resource.Kind) (catalog.Query, error) {
	params := c.QueryParams()
	q := catalog.Query{Type: k.Name, Mesh: c.Param("mesh"), Name: params.Get("name"), Limit: defaultPage}
	if v := params.Get("size"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > maxPage {
			return q, invalid(couldNotList, "Invalid page size", resource.Problem{Field: "size", Reason: "must be a number from 1 to " + strconv.Itoa(maxPage)})
		}
		q.Limit = n
	}
	if v := params.Get("offset"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 {
			return q, invalid(couldNotList, "Invalid offset", resource.Problem{Field: "offset", Reason: "must be a number that is not negative"})
		}
		q.Offset = n
	}
	if v := params.Get("after"); v != "" {
		mesh, name, ok := strings.Cut(v, "/")
		if !ok {
			return q, invalid(couldNotList, "Invalid offset", resource.Problem{Field: "after", Reason: "must be as in the next of a page"})
		}
		q.After = &resource.Key{Type: k.Name, Mesh: mesh, Name: name}
	}
	var err error
	if q.Labels, err = labelFilter(params); err != nil {
		return q, err
	}
	if k.Name == "Dataplane" {
		q.Match, err = dataplaneFilter(params)
	}
	return q, err
}

// labelFilter reads filter[labels.<key>]=<value>; the last value of a key wins and all keys must match.
func labelFilter(params url.Values) (resource.Selector, error) {
	var out resource.Selector
	for param, values := range params {
		if !strings.HasPrefix(param, "filter[") {
			continue
		}
		key, ok := strings.CutPrefix(param, "filter[labels.")
		key, closed := strings.CutSuffix(key, "]")
		if !ok || !closed || key == "" {
			return nil, invalid(couldNotList, "Invalid filter", resource.Problem{Field: "filter", Reason: resource.Quote(param) + " is not a filter, write filter[labels.<key>]=<value>"})
		}
		if out == nil {
			out = resource.Selector{}
		}
		out[key] = values[len(values)-1]
	}
	return out, nil
}

// dataplaneFilter reads gateway=true|false|delegated and tag=<key>:<value>.
func dataplaneFilter(params url.Values) (func(resource.Resource) bool, error) {
	gateway, tags := params.Get("gateway"), params["tag"]
	if !slices.Contains([]string{"", "true", "false", "delegated"}, gateway) {
		return nil, invalid(couldNotList, "Invalid filter", resource.Problem{Field: "gateway", Reason: "must be true, false or delegated"})
	}
	for _, t := range tags {
		if k, _, ok := strings.Cut(t, ":"); !ok || k == "" {
			return nil, invalid(couldNotList, "Invalid filter", resource.Problem{Field: "tag", Reason: resource.Quote(t) + " is not a tag, write <key>:<value>"})
		}
	}
	if gateway == "" && len(tags) == 0 {
		return nil, nil
	}
	return func(r resource.Resource) bool {
		gw := dataplaneFacts(r.Raw).Networking.Gateway
		if gateway != "" && (gw != nil) != (gateway != "false") {
			return false
		}
		return !slices.ContainsFunc(tags, func(t string) bool {
			key, part, _ := strings.Cut(t, ":")
			value, ok := r.Labels[key]
			if !ok && gw != nil {
				value, ok = gw.Tags[key]
			}
			return !ok || !strings.Contains(value, part)
		})
	}, nil
}

// nextURL is where the next page is. Clients of the Kuma API look for an offset; after makes it stable while others write.
func nextURL(c echo.Context, q catalog.Query, last resource.Key) string {
	u := *c.Request().URL
	params := u.Query()
	params.Set("offset", strconv.Itoa(q.Offset+q.Limit))
	params.Set("after", last.Mesh+"/"+last.Name)
	u.Scheme, u.Host, u.RawQuery = c.Scheme(), c.Request().Host, params.Encode()
	return u.String()
}
