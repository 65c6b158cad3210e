package catalog

import (
	"strings"

	"github.com/causeway-mesh/causeway/api/resource"
)

// A Query selects a page of the resources of one type, ordered by mesh and name.
type Query struct {
	Type   string
	Mesh   string // empty means every mesh
	Name   string // part of the name or display name
	Labels resource.Selector
	// Match, when set, is a further condition.
	Match func(resource.Resource) bool
	// After continues behind a key of an earlier page, stable while others write. It takes precedence over Offset.
	After *resource.Key
	// Offset skips that many of what is selected.
	Offset int
	// Limit bounds the page; zero means no bound.
	Limit int
}

func (q Query) filtered() bool { return q.Name != "" || len(q.Labels) > 0 || q.Match != nil }

func (q Query) selects(r *resource.Resource) bool {
	if q.Name != "" && !strings.Contains(r.Name, q.Name) && !strings.Contains(r.DisplayName(), q.Name) {
		return false
	}
	return q.Labels.Matches(r.Labels) && (q.Match == nil || q.Match(*r))
}

// A Page is one part of a list.
type Page struct {
	Items []resource.Resource
	Total int           // of everything selected
	Next  *resource.Key // where to continue with After; nil on the last page
}

// List returns one page. Without filters its cost depends on the page and not on the total; filters look at every resource of the type.
func (s *Snapshot) List(q Query) Page {
	if q.filtered() {
		return s.scan(q)
	}
	p := Page{Total: s.Count(q.Type, q.Mesh)}
	from := resource.Key{}
	if q.After != nil {
		from = *q.After
	} else if q.Offset > 0 {
		first, ok := s.rowAt(q.Type, q.Mesh, q.Offset)
		if !ok {
			return p
		}
		from = resource.Key{Mesh: first.Mesh, Name: first.Name}
	}
	s.ascend(q.Type, q.Mesh, from, func(r *resource.Resource) bool {
		if q.After != nil && r.Mesh == q.After.Mesh && r.Name == q.After.Name {
			return true
		}
		return p.add(r, q.Limit)
	})
	return p
}

// add appends a row, or marks that there is more and stops.
func (p *Page) add(r *resource.Resource, limit int) bool {
	if limit > 0 && len(p.Items) == limit {
		k := p.Items[limit-1].Key()
		p.Next = &k
		return false
	}
	p.Items = append(p.Items, *r)
	return true
}

func (s *Snapshot) scan(q Query) Page {
	var p Page
	full := false
	s.ascend(q.Type, q.Mesh, resource.Key{}, func(r *resource.Resource) bool {
		if !q.selects(r) {
			return true
		}
		p.Total++
		switch {
		case full:
		case q.After != nil:
			if r.Key().Compare(resource.Key{Type: r.Type, Mesh: q.After.Mesh, Name: q.After.Name}) > 0 {
				full = !p.add(r, q.Limit)
			}
		case p.Total > q.Offset:
			full = !p.add(r, q.Limit)
		}
		return true
	})
	return p
}

// rowAt finds the row at an offset among those of a mesh, by the counts of the meshes before it.
func (s *Snapshot) rowAt(typ, mesh string, offset int) (*resource.Resource, bool) {
	t, ok := s.tables[typ]
	if !ok {
		return nil, false
	}
	if mesh != "" {
		if offset >= s.Count(typ, mesh) {
			return nil, false
		}
		t.meshes.Scan(func(c meshCount) bool {
			if c.mesh >= mesh {
				return false
			}
			offset += c.count
			return true
		})
	}
	return t.rows.GetAt(offset)
}
