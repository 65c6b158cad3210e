package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// An instance is one workload and its sidecar. The workload runs in this process, everything else in its own.
type instance struct {
	*proxy
	service, next string
	version       string
	app           *http.Server
}

// The ports of a workload's host, beside that of its sidecar.
const (
	appPort      = 8080
	nextPort     = 8081 // where the sidecar listens for calls of the next service
	shortcutPort = 8082 // where web tries to reach stock, which nobody permits
)

func (z *zone) newInstance(service string, position, n int) *instance {
	i := &instance{proxy: z.newProxy(fmt.Sprintf("%s-%d", service, n), 10*(position+1)+n), service: service, version: version(n)}
	if position+1 < len(services) {
		i.next = services[position+1]
	}
	i.app = &http.Server{Handler: i, ReadHeaderTimeout: 5 * time.Second}
	return i
}

// serve starts the workload.
func (i *instance) serve(ctx context.Context) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", i.at(appPort))
	if err != nil {
		return fmt.Errorf("start %s: %w", i.id(), err)
	}
	i.zone.d.work.Go(func() {
		_ = i.app.Serve(l) // ends when it is closed
	})
	return nil
}

func (i *instance) close() { _ = i.app.Close() }

func (i *instance) manifest() string {
	ip := i.zone.d.ip(i.zone.row, i.host)
	var b strings.Builder
	fmt.Fprintf(&b, `type: Dataplane
mesh: default
name: %s
labels: {kuma.io/workload: %s, version: %s}
networking:
  address: %s
  inbound:
  - name: http
    port: %d
    servicePort: %d
    serviceAddress: %s
    protocol: http
    serviceProbe: {interval: 1s, tcp: {}}
`, i.name, i.service, i.version, ip, servicePort, appPort, ip)
	outbound := func(port int, service string) {
		fmt.Fprintf(&b, "  - {address: %s, port: %d, backendRef: {kind: MeshMultiZoneService, labels: {kuma.io/display-name: %s}, port: %d}}\n",
			ip, port, service, servicePort)
	}
	if i.next != "" {
		b.WriteString("  outbound:\n")
		outbound(nextPort, i.next)
	}
	if i.service == services[0] {
		outbound(shortcutPort, services[len(services)-1])
	}
	if i.next == "" {
		b.WriteString("  outbound:\n")
	}
	fmt.Fprintf(&b, "  - {address: %s, port: %d, backendRef: {kind: MeshExternalService, name: %s}}\n", ip, outboundPort, outside)
	return b.String()
}

// ask is a request of a user to the workload.
func (i *instance) ask(ctx context.Context) answer {
	return *call(ctx, "http://"+i.at(appPort)+"/", nil)
}

// An answer is what a service says, with what the next one said to it.
type answer struct {
	Status   int     `json:"status"`
	Service  string  `json:"service,omitempty"`
	Zone     string  `json:"zone,omitempty"`
	Instance string  `json:"instance,omitempty"`
	Caller   string  `json:"caller,omitempty"` // SPIFFE ID that the sidecar saw
	Error    string  `json:"error,omitempty"`
	Next     *answer `json:"next,omitempty"`
}

// complete says that every service answered.
func (a *answer) complete() bool {
	n := 0
	for p := a; p != nil; p = p.Next {
		if p.Status != http.StatusOK {
			return false
		}
		n++
	}
	return n == len(services)
}

// route says which zones answered a complete request.
func (a *answer) route() string {
	var zones []string
	for p := a; p != nil; p = p.Next {
		zones = append(zones, p.Zone)
	}
	return route(zones...)
}

func route(zones ...string) string {
	var hops []string
	for i, z := range zones {
		hops = append(hops, services[min(i, len(services)-1)]+"@"+z)
	}
	return strings.Join(hops, " → ")
}

// String shows the path of a request.
func (a *answer) String() string {
	s := a.Instance + "@" + a.Zone
	if a.Status != http.StatusOK {
		s = strings.TrimSpace(fmt.Sprintf("✗ %s %s", status(a.Status), a.Error))
	}
	if a.Next != nil {
		s += " → " + a.Next.String()
	}
	return s
}

func status(code int) string {
	if code == 0 {
		return "no answer"
	}
	return strconv.Itoa(code)
}

// ServeHTTP is the workload: it names itself and whoever its sidecar saw, and asks the next service, to which it passes on the trace.
func (i *instance) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a := answer{
		Status: http.StatusOK, Service: i.service, Zone: i.zone.name, Instance: i.name, Caller: caller(r.Header.Get("X-Forwarded-Client-Cert")),
	}
	switch {
	case r.URL.Path == "/shortcut":
		a.Next = call(r.Context(), "http://"+i.at(shortcutPort)+"/", r.Header)
	case r.URL.Path == "/"+outside:
		a.Next = call(r.Context(), "http://"+i.at(outboundPort)+"/", r.Header)
	case i.next != "":
		a.Next = call(r.Context(), "http://"+i.at(nextPort)+"/", r.Header)
	}
	reply(w, &a)
}

func reply(w http.ResponseWriter, a *answer) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(a) // the client may be gone
}

// caller takes the SPIFFE ID out of what Envoy forwards about the client's certificate.
func caller(xfcc string) string {
	for _, part := range strings.Split(xfcc, ";") {
		if id, ok := strings.CutPrefix(part, "URI="); ok {
			return id
		}
	}
	return ""
}

var workloadClient = &http.Client{Timeout: 10 * time.Second}

// maxAnswer bounds what one service reads of another.
const maxAnswer = 64 << 10

func call(ctx context.Context, url string, header http.Header) *answer {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return &answer{Error: err.Error()}
	}
	for _, name := range traced {
		if v := header.Values(name); len(v) > 0 {
			req.Header[name] = v
		}
	}
	res, err := workloadClient.Do(req)
	if err != nil {
		return &answer{Error: err.Error()}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	a := &answer{Status: res.StatusCode}
	if err != nil || res.StatusCode != http.StatusOK {
		a.Error = strings.TrimSpace(string(body))
		return a
	}
	if err := json.Unmarshal(body, a); err != nil {
		a.Error = err.Error()
	}
	return a
}
