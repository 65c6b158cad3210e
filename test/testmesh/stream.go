package testmesh

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// StreamPath is where the server of an HTTP workload tells its name and then echoes every line of the request.
const StreamPath = "/stream"

// stream echoes a request for as long as it goes on.
func (a *App) stream(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	in, line := bufio.NewReader(r.Body), a.name+"\n"
	for {
		if _, err := io.WriteString(w, line); err != nil {
			return
		}
		if err := control.Flush(); err != nil {
			return
		}
		var err error
		if line, err = in.ReadString('\n'); err != nil {
			return
		}
	}
}

// A Stream is one request over HTTP/2 whose body and answer go on together.
type Stream struct {
	From string // who answers

	out    *io.PipeWriter
	in     *bufio.Reader
	cancel context.CancelFunc
	client *http.Client
}

// Stream begins a long request to a service through the own sidecar. The service must speak HTTP/2.
func (i *Instance) Stream(t testing.TB, service string) (*Stream, error) {
	t.Helper()
	transport := &http.Transport{Protocols: new(http.Protocols), DialContext: i.dial}
	transport.Protocols.SetUnencryptedHTTP2(true)
	body, out := io.Pipe()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	s := &Stream{out: out, cancel: cancel, client: &http.Client{Transport: transport}}
	t.Cleanup(s.Close)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+i.Address(t, service)+StreamPath, body)
	if err != nil {
		return nil, err
	}
	req.Host = service
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(resp.Status)
	}
	s.in = bufio.NewReader(resp.Body)
	s.From, err = s.line()
	return s, err
}

// Close ends the request.
func (s *Stream) Close() {
	s.cancel()
	_ = s.out.Close()
	s.client.CloseIdleConnections()
}

func (s *Stream) line() (string, error) {
	late := time.AfterFunc(patience, s.cancel)
	defer late.Stop()
	line, err := s.in.ReadString('\n')
	return strings.TrimSuffix(line, "\n"), err
}

// Echo sends a line and wants it back.
func (s *Stream) Echo(text string) error {
	if _, err := fmt.Fprintln(s.out, text); err != nil {
		return err
	}
	got, err := s.line()
	if err == nil && got != text {
		err = fmt.Errorf("sent %q, got %q", text, got)
	}
	return err
}
