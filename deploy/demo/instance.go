package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/api/client"
)

// servicePort is the port of every service in the mesh.
const servicePort = 18080

// An instance is one workload and its sidecar.
type instance struct {
	d             *Demo
	service, name string
	next          string
	address       string // of the sidecar's inbound
	app           *http.Server
	appAddress    string
	outbound      string // where the sidecar listens for calls of the next service
	shortcut      string // where web tries to reach stock, which nobody permits
	agent         *child
	files         struct{ dataplane, token string }
}

func (d *Demo) newInstance(ctx context.Context, service, next string, row, n int) (*instance, error) {
	i := &instance{d: d, service: service, next: next, name: fmt.Sprintf("%s-%d", service, n), address: fmt.Sprintf("%s.%d", d.block, 10*row+n)}
	i.files.dataplane = filepath.Join(d.dir, i.name+".yaml")
	i.files.token = filepath.Join(d.dir, i.name+".token")
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", i.name, err)
	}
	i.appAddress = l.Addr().String()
	if i.outbound, err = freeAddress(ctx, "127.0.0.1"); err != nil {
		return nil, err
	}
	if i.shortcut, err = freeAddress(ctx, "127.0.0.1"); err != nil {
		return nil, err
	}
	i.app = &http.Server{Handler: i, ReadHeaderTimeout: 5 * time.Second}
	d.work.Add(1)
	go func() {
		defer d.work.Done()
		_ = i.app.Serve(l) // ends when it is closed
	}()
	return i, i.prepare(ctx)
}

// prepare writes the Dataplane and fetches its token.
func (i *instance) prepare(ctx context.Context) error {
	var out strings.Builder
	backend := func(at, service string) {
		_, port, _ := net.SplitHostPort(at)
		fmt.Fprintf(&out, "  - {address: 127.0.0.1, port: %s, backendRef: {kind: MeshService, name: %s, port: %d}}\n", port, service, servicePort)
	}
	if i.next != "" {
		backend(i.outbound, i.next)
	}
	if i.service == services[0] {
		backend(i.shortcut, services[len(services)-1])
	}
	outbounds := ""
	if out.Len() > 0 {
		outbounds = "  outbound:\n" + out.String()
	}
	_, appPort, _ := net.SplitHostPort(i.appAddress)
	text := fmt.Sprintf(`type: Dataplane
mesh: default
name: %s
labels: {kuma.io/workload: %s}
networking:
  address: %s
  inbound:
  - name: http
    port: %d
    servicePort: %s
    serviceAddress: 127.0.0.1
    protocol: http
    serviceProbe: {interval: 1s, tcp: {}}
%s`, i.name, i.service, i.address, servicePort, appPort, outbounds)
	if err := os.WriteFile(i.files.dataplane, []byte(text), 0o600); err != nil {
		return fmt.Errorf("prepare %s: %w", i.name, err)
	}
	token, err := i.d.client.NewDataplaneToken(ctx, client.DataplaneToken{Mesh: "default", Name: i.name, Workload: i.service, ValidFor: "24h"})
	if err != nil {
		return fmt.Errorf("prepare %s: %w", i.name, err)
	}
	return os.WriteFile(i.files.token, []byte(token), 0o600)
}

// start runs the agent, which runs Envoy.
func (i *instance) start(ctx context.Context) error {
	var err error
	i.agent, err = i.d.spawn(ctx, "agent-"+i.name, "run", "dataplane",
		"--dataplane-file", i.files.dataplane, "--dataplane-token-file", i.files.token,
		"--zone-addresses", i.d.agents, "--zone-ca-file", filepath.Join(i.d.dir, "zone", "tls", "ca.pem"),
		"--runtime-dir", filepath.Join(i.d.dir, "run"), "--drain-time", "5s", "--bind-outbounds=false")
	return err
}

func (i *instance) agentStop(kill bool) {
	if i.agent != nil {
		i.agent.stop(kill)
	}
}

func (i *instance) wait() {
	if i.agent != nil {
		<-i.agent.done
	}
}

func (i *instance) closeApp() { _ = i.app.Close() }

// An answer is what a service says, with what the next one said to it.
type answer struct {
	Status   int     `json:"status"`
	Instance string  `json:"instance,omitempty"`
	Caller   string  `json:"caller,omitempty"` // SPIFFE ID that the sidecar saw
	Error    string  `json:"error,omitempty"`
	Next     *answer `json:"next,omitempty"`
}

// complete says that every service answered.
func (a answer) complete() bool {
	n := 1
	for p := &a; ; n++ {
		if p.Status != http.StatusOK {
			return false
		}
		if p.Next == nil {
			return n == len(services)
		}
		p = p.Next
	}
}

// String shows the path of a request.
func (a answer) String() string {
	s := a.Instance
	if a.Status != http.StatusOK {
		s += fmt.Sprintf("(%d %s)", a.Status, a.Error)
	}
	if a.Next != nil {
		s += " → " + a.Next.String()
	}
	return s
}

// ServeHTTP is the workload: it names itself and whoever its sidecar saw, and asks the next service.
func (i *instance) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a := answer{Status: http.StatusOK, Instance: i.name, Caller: caller(r.Header.Get("X-Forwarded-Client-Cert"))}
	switch {
	case r.URL.Path == "/shortcut":
		a.Next = call(r.Context(), "http://"+i.shortcut+"/")
	case i.next != "":
		a.Next = call(r.Context(), "http://"+i.outbound+"/")
	}
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

func call(ctx context.Context, url string) *answer {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return &answer{Error: err.Error()}
	}
	res, err := workloadClient.Do(req)
	if err != nil {
		return &answer{Error: err.Error()}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	a := &answer{Status: res.StatusCode}
	if err != nil || res.StatusCode != http.StatusOK {
		a.Error = strconv.Quote(string(body))
		return a
	}
	if err := json.Unmarshal(body, a); err != nil {
		a.Error = err.Error()
	}
	return a
}
