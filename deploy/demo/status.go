package demo

import (
	"fmt"
	"strings"
	"time"
)

// Status is how a running demo stands.
type Status struct {
	Began   time.Time    `json:"began"`
	Door    string       `json:"door"`   // where people send requests
	Global  string       `json:"global"` // API of the global control plane
	Logs    string       `json:"logs"`
	Parts   []PartStatus `json:"parts"`
	Traffic string       `json:"traffic"` // of the last seconds
}

// PartStatus says what runs of a part.
type PartStatus struct {
	Name    string `json:"name"`
	Running int    `json:"running"`
	Of      int    `json:"of"`
}

// recently is how far back the status looks.
const recently = 3 * time.Second

func (d *Demo) status() Status {
	t := d.traffic.last(recently)
	s := Status{Began: d.began, Door: d.doorURL(), Global: "https://" + d.global.api, Logs: d.dir, Traffic: t.String()}
	for _, p := range d.parts() {
		s.Parts = append(s.Parts, PartStatus{p.name, p.running(), len(p.unit)})
	}
	return s
}

func (d *Demo) doorURL() string { return "http://" + d.at(0, 1, doorPort) + "/" }

// String is the status for people: a column for each zone, and what is broken.
func (s Status) String() string {
	of := map[string]PartStatus{}
	var broken []string
	for _, p := range s.Parts {
		of[p.Name] = p
		if p.Running < p.Of {
			broken = append(broken, p.Name)
		}
	}
	var b strings.Builder
	line := func(cells ...string) {
		var row strings.Builder
		for _, c := range cells {
			fmt.Fprintf(&row, "%-15s", c)
		}
		b.WriteString(strings.TrimRight(row.String(), " ") + "\n")
	}
	fmt.Fprintf(&b, "%-15s%-15s%s\n", "global", of[kindGlobal], s.Global)
	line(append([]string{""}, zoneNames...)...)
	for _, what := range append([]string{kindControlPlane, kindGateway, kindEgress}, services...) {
		cells := []string{what}
		for _, z := range zoneNames {
			cells = append(cells, of[z+"/"+what].String())
		}
		line(cells...)
	}
	fmt.Fprintf(&b, "\nRequests: %s\n", s.Traffic)
	if len(broken) > 0 {
		fmt.Fprintf(&b, "Broken: %s. The command heal brings everything back.\n", strings.Join(broken, ", "))
	} else {
		b.WriteString("Nothing is broken.\n")
	}
	return b.String()
}

// String says what runs, in few characters.
func (p PartStatus) String() string {
	switch {
	case p.Of > 1 && p.Running == p.Of:
		return fmt.Sprintf("%d up", p.Of)
	case p.Of > 1:
		return fmt.Sprintf("✗ %d of %d up", p.Running, p.Of)
	case p.Running == p.Of:
		return "up"
	}
	return "✗ down"
}
