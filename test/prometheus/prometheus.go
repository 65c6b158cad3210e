// Package prometheus gives tests a real Prometheus: the one installed on the machine, on loopback, in a temporary directory, with a
// configuration that the test writes. It installs nothing and is no part of the product.
package prometheus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/test/ports"
)

// patience bounds every wait; it is only reached by a test that fails.
const patience = time.Minute

// A Server is a running Prometheus.
type Server struct {
	address string
	log     string
}

// script ends Prometheus when the test closes the script's input, also by dying.
const script = `exec 3<&0; "$@" & p=$!; (read -r _ <&3; kill $p) & wait $p`

// Start runs Prometheus with a configuration in YAML until the test ends. Without the program a test skips, and in CI it fails.
func Start(t testing.TB, config string) *Server {
	t.Helper()
	binary, err := exec.LookPath("prometheus")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no Prometheus: %v; .ci/prepare installs it", err)
		}
		t.Skipf("no Prometheus: %v; .ci/prepare installs it", err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &Server{address: "127.0.0.1:" + strconv.Itoa(ports.Free(t, "127.0.0.1")), log: filepath.Join(dir, "log")}
	out, err := os.Create(s.log)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", script, "prometheus", binary, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+s.address, "--storage.tsdb.retention.time=1h")
	cmd.Stdout, cmd.Stderr, cmd.Dir = out, out, dir
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		in.Close()
		<-ended
		out.Close()
		if t.Failed() {
			text, _ := os.ReadFile(s.log)
			t.Logf("log of Prometheus:\n%s", text)
		}
	})
	s.Until(t, "Prometheus is ready", func() (any, bool) {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("Prometheus ended: %v", err)
		default:
		}
		resp, err := http.Get("http://" + s.address + "/-/ready")
		if err != nil {
			return err, false
		}
		defer resp.Body.Close()
		return resp.Status, resp.StatusCode == http.StatusOK
	})
	return s
}

// Until waits for a named condition.
func (s *Server) Until(t testing.TB, what string, cond func() (state any, ok bool)) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for start := time.Now(); ; <-tick.C {
		state, ok := cond()
		if ok {
			return
		}
		if time.Since(start) > patience {
			t.Fatalf("%s: not within %s; last seen: %v", what, patience, state)
		}
	}
}

// A Sample is one series of an answer and its newest value.
type Sample struct {
	Labels map[string]string
	Value  float64
}

// Query evaluates an expression now.
func (s *Server) Query(ctx context.Context, expression string) ([]Sample, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.address+"/api/v1/query?query="+url.QueryEscape(expression), nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, fmt.Errorf("query %s: %w", expression, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return nil, fmt.Errorf("query %s: %w", expression, err)
	}
	var answer struct {
		Status, Error string
		Data          struct {
			Result []struct {
				Metric map[string]string
				Value  [2]any
			}
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("query %s: %w", expression, err)
	}
	if answer.Status != "success" {
		return nil, fmt.Errorf("query %s: %w", expression, errors.New(answer.Error))
	}
	var out []Sample
	for _, r := range answer.Data.Result {
		text, _ := r.Value[1].(string)
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, fmt.Errorf("query %s: %w", expression, err)
		}
		out = append(out, Sample{r.Metric, v})
	}
	return out, nil
}

// UntilTrue waits until an expression has a result of so many series.
func (s *Server) UntilTrue(t testing.TB, expression string, series int) []Sample {
	t.Helper()
	var out []Sample
	s.Until(t, expression, func() (any, bool) {
		var err error
		out, err = s.Query(t.Context(), expression)
		return fmt.Sprint(out, err), err == nil && len(out) == series
	})
	return out
}
