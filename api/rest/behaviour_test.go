package rest_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/rest"
	"github.com/causeway-mesh/causeway/api/token"
	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/store/catalog"
	"github.com/causeway-mesh/causeway/store/memory"
)

const bareMesh = `{"type":"Mesh","name":"default","skipCreatingInitialPolicies":["*"]}`

func (a answer) failure(t testing.TB) map[string]any {
	t.Helper()
	var f map[string]any
	if err := json.Unmarshal([]byte(a.body), &f); err != nil {
		t.Fatalf("%d with a body that is not JSON: %q", a.status, a.body)
	}
	return f
}

func timeoutOf(size int) string {
	return `{"type":"MeshTimeout","name":"big","spec":{"to":[{"default":{"idleTimeout":"` + strings.Repeat("x", size) + `"}}]}}`
}

func TestLargeBodiesAreRefusedWithTheLimit(t *testing.T) {
	p := newPlane(t, nil)
	p.mustPut("/meshes/default", bareMesh)
	five := timeoutOf(5 << 20)
	for name, c := range map[string]struct {
		path   string
		body   io.Reader
		status int
		words  string
	}{
		"5 MiB":                     {"/meshes/default/meshtimeouts/big", strings.NewReader(five), http.StatusRequestEntityTooLarge, "1048576"},
		"5 MiB of unknown length":   {"/meshes/default/meshtimeouts/big", io.MultiReader(strings.NewReader(five)), http.StatusRequestEntityTooLarge, "1048576"},
		"just too large an object":  {"/meshes/default/meshtimeouts/big", strings.NewReader(timeoutOf(resource.MaxObject)), http.StatusBadRequest, "1048576"},
		"an object below the limit": {"/meshes/default/meshtimeouts/big", strings.NewReader(timeoutOf(resource.MaxObject - 1000)), http.StatusCreated, ""},
	} {
		a := p.do("writer", "PUT", c.path, c.body)
		if a.status != c.status || !strings.Contains(a.body, c.words) {
			t.Errorf("%s: %d %.300s; want %d naming the limit %s", name, a.status, a.body, c.status, c.words)
		}
	}
	a := p.do("writer", "POST", "/batch", strings.NewReader("["+five+"]"))
	if a.status != http.StatusBadRequest || !strings.Contains(a.body, "1048576") || !strings.Contains(a.body, `"field":"[0]"`) {
		t.Errorf("in a batch: %d %.300s", a.status, a.body)
	}
	a = p.do("writer", "POST", "/batch", io.MultiReader(strings.NewReader("["), strings.NewReader(strings.Repeat(" ", 33<<20))))
	if a.status != http.StatusRequestEntityTooLarge {
		t.Errorf("a batch of 33 MiB: %d %.300s", a.status, a.body)
	}
}

func TestHeadersAreBounded(t *testing.T) {
	p := newPlane(t, nil)
	a := p.do("anonymous", "GET", "/meshes", nil, "X-Large", strings.Repeat("x", 100<<10))
	if a.status != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("100 KiB of headers: %d", a.status)
	}
	a = p.do("anonymous", "GET", "/meshes", nil, "Authorization", "Bearer "+strings.Repeat("x", token.MaxSize+1))
	if a.status != http.StatusUnauthorized || !strings.Contains(a.body, "at most") {
		t.Errorf("a token that is too large: %d %s", a.status, a.body)
	}
}

// TestACutBodyIsRefused sends half a request by hand, as a client that dies does.
func TestACutBodyIsRefused(t *testing.T) {
	p := newPlane(t, nil)
	p.mustPut("/meshes/default", bareMesh)
	u, err := url.Parse(p.http.URL)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "PUT /meshes/default/meshtimeouts/half HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 500\r\n\r\n", p.tokens["admin"])
	fmt.Fprint(conn, `{"type":"MeshTimeout","name":"half","spec":{}}`)
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err == nil {
		defer res.Body.Close()
		if res.StatusCode < 400 {
			t.Errorf("half a body was answered with %d", res.StatusCode)
		}
	}
	if a := p.do("ann", "GET", "/meshes/default/meshtimeouts/half", nil); a.status != http.StatusNotFound {
		t.Errorf("half a body was stored: %s", a.body)
	}
}

func TestAPanicIsOneAnswerWithAnIncident(t *testing.T) {
	p := newPlane(t, nil)
	a := p.do("admin", "PUT", "/bombs/b", strings.NewReader(`{"type":"Bomb","name":"b","spec":{}}`))
	f := a.failure(t)
	id, _ := f["instance"].(string)
	if a.status != http.StatusInternalServerError || id == "" || strings.Contains(a.body, "kaboom") || strings.Contains(a.body, "goroutine") {
		t.Errorf("panic: %d %s; want 500 with an incident and nothing of its cause", a.status, a.body)
	}
	if log := p.log.String(); !strings.Contains(log, id) || !strings.Contains(log, "kaboom") {
		t.Error("the log does not explain the incident")
	}
	if a := p.do("ann", "GET", "/meshes", nil); a.status != http.StatusOK {
		t.Errorf("after a panic: %d", a.status)
	}
}

func TestNothingSecretIsLogged(t *testing.T) {
	p := newPlane(t, nil)
	p.mustPut("/meshes/default", `{"type":"Mesh","name":"default"}`)
	const data = "c2VjcmV0LWRhdGEtdGhhdC1tdXN0LW5vdC1hcHBlYXI="
	p.mustPut("/meshes/default/secrets/s", `{"type":"Secret","name":"s","data":"`+data+`"}`)
	issued := p.do("admin", "POST", "/tokens/user", strings.NewReader(`{"name":"bob","validFor":"1h"}`))
	if issued.status != http.StatusOK {
		t.Fatalf("token: %d %s", issued.status, issued.body)
	}
	p.tokens["bob"] = issued.body + "x"
	refused := p.do("bob", "GET", "/meshes", nil)
	if refused.status != http.StatusUnauthorized {
		t.Errorf("a changed token: %d", refused.status)
	}
	for _, body := range []string{`{"type":"Secret","name":"s","data":"` + data + `","data2":1}`, `{"type":"Secret","name":"s","data":"` + data + `!"}`, `{"type":"Secret","name":"s","data":["` + data + `"]}`} {
		p.do("admin", "PUT", "/meshes/default/secrets/s", strings.NewReader(body))
	}
	p.store.cut.Store(true)
	p.do("admin", "PUT", "/meshes/default/secrets/s", strings.NewReader(`{"type":"Secret","name":"s","data":"`+data[4:]+`"}`))
	log := p.log.String()
	for what, secret := range map[string]string{"a secret": "dGhhdC1tdXN0", "a token": issued.body, "part of a token": strings.Split(issued.body, ".")[2], "the administrator's token": p.tokens["admin"]} {
		if strings.Contains(log, secret) {
			t.Errorf("the log shows %s", what)
		}
		if strings.Contains(refused.body, secret) {
			t.Errorf("the refusal shows %s", what)
		}
	}
	if !strings.Contains(log, "token issued") {
		t.Error("that a token was issued is not logged")
	}
}

func TestRotationAndRevocationOverTheAPI(t *testing.T) {
	p := newPlane(t, nil)
	issue := func(name string) string {
		t.Helper()
		a := p.do("admin", "POST", "/tokens/user", strings.NewReader(`{"name":"`+name+`","validFor":"1h"}`))
		if a.status != http.StatusOK {
			t.Fatalf("issue: %d %s", a.status, a.body)
		}
		p.tokens[name] = a.body
		return a.body
	}
	bob := issue("bob")
	v := token.NewValidator(p.catalog.Snapshot(), nil)
	_, verified, err := v.User(bob)
	if err != nil {
		t.Fatal(err)
	}
	revoked := token.Secret(token.UserRevocations(), []byte(verified.ID))
	p.mustPut("/globalsecrets/"+revoked.Name, `{"type":"GlobalSecret","name":"`+revoked.Name+`",`+string(revoked.Raw[1:]))
	if a := p.do("bob", "GET", "/meshes", nil); a.status != http.StatusUnauthorized || !strings.Contains(a.body, "revoked") {
		t.Errorf("revoked: %d %s", a.status, a.body)
	}

	fresh, err := token.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	second := token.Secret(token.UserSigningKey(2), fresh)
	p.mustPut("/globalsecrets/"+second.Name, `{"type":"GlobalSecret","name":"`+second.Name+`",`+string(second.Raw[1:]))
	issue("carol")
	if a := p.do("admin", "DELETE", "/globalsecrets/user-token-signing-key-1", nil); a.status != http.StatusOK {
		t.Fatalf("delete the old key: %d %s", a.status, a.body)
	}
	if a := p.do("carol", "GET", "/meshes", nil); a.status != http.StatusOK {
		t.Errorf("signed by the new key: %d %s", a.status, a.body)
	}
	if a := p.do("ann", "GET", "/meshes", nil); a.status != http.StatusUnauthorized {
		t.Errorf("signed by the old key: %d %s", a.status, a.body)
	}
}

func TestMetricsNameRoutesAndNotPaths(t *testing.T) {
	p := newPlane(t, nil)
	p.mustPut("/meshes/default", bareMesh)
	for i := range 20 {
		p.do("ann", "GET", fmt.Sprintf("/meshes/default/meshtimeouts/t%d", i), nil)
		p.do("ann", "GET", fmt.Sprintf("/no/such/path/%d", i), nil)
		p.do("ann", fmt.Sprintf("BREW%d", i), "/meshes", nil)
	}
	families, err := p.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	series, found := 0, 0.0
	for _, f := range families {
		if f.GetName() != "causeway_rest_requests_total" {
			continue
		}
		series = len(f.GetMetric())
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if labels["route"] == "/meshes/:mesh/meshtimeouts/:name" && labels["code"] == "404" && labels["method"] == "GET" {
				found = m.GetCounter().GetValue()
			}
		}
	}
	if found != 20 || series == 0 || series > 6 {
		t.Errorf("20 reads counted %v times, in %d series; want few series", found, series)
	}
}

func TestStatusIsShownAndChangesTheTag(t *testing.T) {
	p := newPlane(t, nil)
	p.mustPut("/meshes/default", bareMesh)
	p.mustPut("/meshes/default/meshservices/backend", `{"type":"MeshService","name":"backend","spec":{"ports":[{"port":80}]}}`)
	before := p.do("ann", "GET", "/meshes/default/meshservices/backend", nil)
	key := resource.Key{Type: "MeshService", Mesh: "default", Name: "backend"}
	_, err := p.catalog.Commit(context.Background(), catalog.Batch{Derived: []catalog.DerivedPut{{Key: catalog.StatusOf(key), Data: []byte(`{"vips":[{"ip":"241.0.0.1"}]}`)}}})
	if err != nil {
		t.Fatal(err)
	}
	after := p.do("ann", "GET", "/meshes/default/meshservices/backend", nil, "If-None-Match", before.header.Get("ETag"))
	if after.status != http.StatusOK || !strings.Contains(after.body, `"status":{"vips":[{"ip":"241.0.0.1"}]}`) {
		t.Errorf("the new status is not shown: %d %s", after.status, after.body)
	}
	a := p.do("writer", "PUT", "/meshes/default/meshservices/backend", strings.NewReader(`{"type":"MeshService","name":"backend","spec":{"ports":[{"port":81}]}}`), "If-Match", after.header.Get("ETag"))
	if a.status != http.StatusOK {
		t.Errorf("a tag with status in If-Match: %d %s", a.status, a.body)
	}
}

// TestAMeshIsCreatedOnce lets many create the same mesh: its defaults come into being once and nobody sees an error.
func TestAMeshIsCreatedOnce(t *testing.T) {
	p := newPlane(t, nil)
	var wg sync.WaitGroup
	created := make(chan int, 20)
	for range 20 {
		wg.Go(func() {
			a := p.do("admin", "PUT", "/meshes/m", strings.NewReader(`{"type":"Mesh","name":"m"}`))
			created <- a.status
		})
	}
	wg.Wait()
	close(created)
	n := map[int]int{}
	for s := range created {
		n[s]++
	}
	if n[http.StatusCreated] != 1 || n[http.StatusOK] != 19 {
		t.Errorf("answers: %v, want one 201 and nineteen 200", n)
	}
	r, ok := p.catalog.Snapshot().Get(token.DataplaneSigningKey("m", 1))
	if !ok || r.Version != 1 {
		t.Errorf("the signing key of the mesh has version %d; it must be made once", r.Version)
	}
}

// TestMeshDeletionAgainstNewDataplanes: whoever wins, no dataplane is left in a mesh that is gone.
func TestMeshDeletionAgainstNewDataplanes(t *testing.T) {
	p := newPlane(t, nil)
	for i := range 20 {
		p.mustPut("/meshes/default", bareMesh)
		var wg sync.WaitGroup
		wg.Go(func() { p.do("admin", "DELETE", "/meshes/default", nil) })
		for j := range 3 {
			wg.Go(func() {
				body := fmt.Sprintf(`{"type":"Dataplane","name":"d%d","networking":{}}`, j)
				p.do("admin", "PUT", fmt.Sprintf("/meshes/default/dataplanes/d%d", j), strings.NewReader(body))
			})
		}
		wg.Wait()
		snap := p.catalog.Snapshot()
		_, mesh := snap.Get(resource.Key{Type: "Mesh", Name: "default"})
		if !mesh && snap.Count("Dataplane", "default") > 0 {
			t.Fatalf("round %d: %d dataplanes in a mesh that is gone", i, snap.Count("Dataplane", "default"))
		}
		snap.Each("Dataplane", "default", func(r resource.Resource) bool {
			p.do("admin", "DELETE", "/meshes/default/dataplanes/"+r.Name, nil)
			return true
		})
	}
}

// TestReadersListWhileWritesGoOn follows pages to their end while others write: what was there all the time is seen exactly once.
func TestReadersListWhileWritesGoOn(t *testing.T) {
	p := newPlane(t, nil)
	p.mustPut("/meshes/default", bareMesh)
	var items []string
	for i := range 40 {
		items = append(items, fmt.Sprintf(`{"type":"MeshTimeout","mesh":"default","name":"keep-%02d","spec":{}}`, i))
	}
	if a := p.do("writer", "POST", "/batch", strings.NewReader("["+strings.Join(items, ",")+"]")); a.status != http.StatusOK {
		t.Fatal(a.body)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var readers, writer sync.WaitGroup
	writer.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			path := fmt.Sprintf("/meshes/default/meshtimeouts/keep-%02d-moving", i%40)
			p.do("writer", "PUT", path, strings.NewReader(fmt.Sprintf(`{"type":"MeshTimeout","name":"keep-%02d-moving","spec":{}}`, i%40)))
			p.do("writer", "DELETE", path, nil)
		}
	})
	for range 50 {
		readers.Go(func() {
			for range 3 {
				seen := p.follow("/meshtimeouts?size=7")
				for i := range 40 {
					if n := seen[fmt.Sprintf("keep-%02d", i)]; n != 1 {
						t.Errorf("keep-%02d was seen %d times", i, n)
						return
					}
				}
			}
		})
	}
	readers.Wait()
	cancel()
	writer.Wait()
}

// follow reads a list to its end and counts names.
func (p *plane) follow(path string) map[string]int {
	seen := map[string]int{}
	for path != "" {
		a := p.do("ann", "GET", path, nil)
		var page struct {
			Items []struct{ Name string }
			Next  *string
		}
		if err := json.Unmarshal([]byte(a.body), &page); err != nil {
			p.t.Errorf("%s: %d %q", path, a.status, a.body)
			return seen
		}
		for _, it := range page.Items {
			seen[it.Name]++
		}
		path = ""
		if page.Next != nil {
			path = strings.TrimPrefix(*page.Next, p.http.URL)
		}
	}
	return seen
}

func TestBootstrap(t *testing.T) {
	st := memory.New()
	file := filepath.Join(t.TempDir(), "state", "admin.token")
	server := func(t *testing.T) (*rest.Server, *catalog.Catalog) { return serverOn(t, st) }
	s, c := server(t)
	ctx := context.Background()
	boot := rest.Bootstrap{TokenFile: file, DefaultMesh: true}
	if err := s.Bootstrap(ctx, boot); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("token file: %v %v, want mode 0600", info, err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	u, _, err := token.NewValidator(c.Snapshot(), nil).User(strings.TrimSpace(string(text)))
	if err != nil || u.Name != rest.AdminUser {
		t.Errorf("the token is of %+v, %v", u, err)
	}
	for _, k := range []resource.Key{token.UserSigningKey(1), token.ZoneSigningKey(1), token.DataplaneSigningKey("default", 1), {Type: "Mesh", Name: "default"}} {
		if _, ok := c.Snapshot().Get(k); !ok {
			t.Errorf("%s is missing", k)
		}
	}

	// A second start changes nothing, also when the administrator put the token away.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	before := c.Snapshot().Position()
	if err := s.Bootstrap(ctx, boot); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) || c.Snapshot().Position() != before {
		t.Errorf("the second start wrote something: %v, %s", err, c.Snapshot().Position())
	}
}

// TestInstancesBootstrapTogether: of the tokens that are left, all are good, and there is at least one.
func TestInstancesBootstrapTogether(t *testing.T) {
	st, dir := memory.New(), t.TempDir()
	var wg sync.WaitGroup
	var last *catalog.Catalog
	for i := range 4 {
		s, c := serverOn(t, st)
		last = c
		wg.Go(func() {
			if err := s.Bootstrap(context.Background(), rest.Bootstrap{TokenFile: filepath.Join(dir, fmt.Sprint(i)), DefaultMesh: true}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%d token files are left, %v; want 1", len(files), err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := last.Commit(context.Background(), catalog.Batch{Derived: []catalog.DerivedPut{{Key: catalog.DerivedKey{Type: "t", Name: "n"}, Data: []byte("1")}}}); err != nil {
		t.Fatal(err) // it makes this instance's view current
	}
	if _, _, err := token.NewValidator(last.Snapshot(), nil).User(strings.TrimSpace(string(text))); err != nil {
		t.Errorf("the token that is left: %v", err)
	}
}

func TestBootstrapNeedsAPlaceForTheToken(t *testing.T) {
	s, c := serverOn(t, memory.New())
	if err := s.Bootstrap(context.Background(), rest.Bootstrap{}); err == nil {
		t.Error("it started without a place for the token")
	}
	bad := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(bad, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Bootstrap(context.Background(), rest.Bootstrap{TokenFile: filepath.Join(bad, "token")}); err == nil {
		t.Error("a token was written below a file")
	}
	if c.Snapshot().Count("GlobalSecret", "") != 0 {
		t.Error("a key exists that nobody has a token of")
	}
}

// serverOn is one more instance on a store.
func serverOn(t *testing.T, st store.Store) (*rest.Server, *catalog.Catalog) {
	t.Helper()
	p := &plane{t: t}
	c := p.openCatalog(st, kinds)
	s, err := rest.New(rest.Config{Catalog: c, Zone: "east", OnMeshCreated: onMeshCreated})
	if err != nil {
		t.Fatal(err)
	}
	return s, c
}

func TestConfigIsChecked(t *testing.T) {
	p := &plane{t: t}
	c := p.openCatalog(memory.New(), kinds)
	for name, cfg := range map[string]rest.Config{
		"no catalog":   {Zone: "east"},
		"no zone":      {Catalog: c},
		"unknown mode": {Catalog: c, Mode: "regional", Zone: "east"},
	} {
		if _, err := rest.New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestAPageIsIndependentOfTheTotal compares medians, so that a busy machine does not decide.
func TestAPageIsIndependentOfTheTotal(t *testing.T) {
	if testing.Short() {
		t.Skip("measures")
	}
	p := newPlane(t, nil)
	p.mustPut("/meshes/default", bareMesh)
	median := func(offset int) time.Duration {
		var took []time.Duration
		for range 51 {
			start := time.Now()
			if a := p.do("ann", "GET", fmt.Sprintf("/meshtimeouts?offset=%d", offset), nil); a.status != http.StatusOK {
				t.Fatal(a.body)
			}
			took = append(took, time.Since(start))
		}
		for i := range took { // insertion sort: it is fifty values
			for j := i; j > 0 && took[j] < took[j-1]; j-- {
				took[j], took[j-1] = took[j-1], took[j]
			}
		}
		return took[len(took)/2]
	}
	p.fill(200)
	small := median(50)
	p.fill(10_000)
	large := median(5_000)
	t.Logf("a page of 100: %s of 200, %s of 10,000", small, large)
	if large > 4*small+2*time.Millisecond {
		t.Errorf("a page of 10,000 took %s, of 200 %s", large, small)
	}
}

// fill puts many resources into the mesh, past the API.
func (p *plane) fill(n int) {
	p.t.Helper()
	var puts []catalog.Put
	for i := range n {
		r := resource.Resource{
			Meta: resource.Meta{Type: "MeshTimeout", Mesh: "default", Name: fmt.Sprintf("t%06d", i), Labels: map[string]string{"a": "b"}},
			Raw:  []byte(`{"to":[]}`),
		}
		puts = append(puts, catalog.Put{Resource: r, Expect: store.ExpectAny})
	}
	if _, err := p.catalog.Commit(context.Background(), catalog.Batch{Puts: puts}); err != nil {
		p.t.Fatal(err)
	}
}

// TestWritesSayTheirPosition compares the headers of writes with the store.
func TestWritesSayTheirPosition(t *testing.T) {
	p := newPlane(t, nil)
	check := func(a answer) {
		t.Helper()
		at, err := p.store.Position(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := a.header.Get("Causeway-Position"); got != at.String() {
			t.Errorf("position %q, want %q (status %d)", got, at, a.status)
		}
		if got := a.header.Get("Causeway-Revision"); got != strconv.FormatUint(at.Revision, 10) {
			t.Errorf("revision %q, want %d", got, at.Revision)
		}
	}
	const mesh, timeout = `{"type":"Mesh","name":"default"}`, `{"type":"MeshTimeout","mesh":"default","name":"slow","spec":{}}`
	check(p.mustPut("/meshes/default", mesh))
	check(p.mustPut("/meshes/default", mesh)) // nothing changes
	check(p.do("admin", "POST", "/batch", strings.NewReader("["+timeout+"]")))
	check(p.do("admin", "POST", "/batch", strings.NewReader("["+timeout+"]")))
	check(p.do("admin", "DELETE", "/meshes/default/meshtimeouts/slow", nil))
	if a := p.do("admin", "DELETE", "/meshes/default/meshtimeouts/slow", nil); a.header.Get("Causeway-Position") != "" {
		t.Errorf("a refused write has position %q", a.header.Get("Causeway-Position"))
	}
}

// TestWaitingHoldsNobodyUp deletes a mesh while somebody waits for what he wrote.
func TestWaitingHoldsNobodyUp(t *testing.T) {
	reached := make(chan struct{})
	release := make(chan struct{})
	p := newPlane(t, func(c *rest.Config) { c.Propagation = patient{reached, release} })
	p.mustPut("/meshes/default", `{"type":"Mesh","name":"default"}`)
	waited := make(chan answer, 1)
	go func() {
		waited <- p.do("admin", "PUT", "/meshes/default/meshtimeouts/slow?wait=received", strings.NewReader(`{"type":"MeshTimeout","mesh":"default","name":"slow","spec":{}}`))
	}()
	<-reached
	if a := p.do("admin", "DELETE", "/meshes/default", nil); a.status != http.StatusOK {
		t.Errorf("delete: %d %s", a.status, a.body)
	}
	close(release)
	if a := <-waited; a.status != http.StatusCreated || a.header.Get("Causeway-Propagation") != "received" {
		t.Errorf("the waiting write: %d %v", a.status, a.header)
	}
}

// patient says that somebody waits, and lets him go when told.
type patient struct{ reached, release chan struct{} }

func (patient) Status(uint64) (mesh.Propagation, bool) { return mesh.Propagation{}, false }

func (p patient) Wait(ctx context.Context, _ uint64, _ string) error {
	close(p.reached)
	select {
	case <-p.release:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
