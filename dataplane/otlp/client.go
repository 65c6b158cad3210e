package otlp

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/encoding/gzip" // collectors may be sent compressed requests
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// methods of collectors by signal.
var methods = map[Signal]string{
	Traces:  "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
	Logs:    "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
	Metrics: "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
}

// maxAnswer bounds what a collector may answer.
const maxAnswer = 64 << 10

// A Refusal is an error that sending the same again does not heal.
type Refusal struct{ err error }

func (r *Refusal) Error() string { return r.err.Error() }
func (r *Refusal) Unwrap() error { return r.err }

// A Client sends one signal to one target.
type Client struct {
	target  Target
	headers map[string]string
	grpc    *grpc.ClientConn
	http    *http.Client
}

// Dial prepares sending; it connects when something is sent.
func Dial(t Target) (*Client, error) {
	headers, err := t.Headers()
	if err != nil {
		return nil, err
	}
	c := &Client{target: t, headers: headers}
	var secure *tls.Config
	if t.TLS {
		if secure, err = t.tls(); err != nil {
			return nil, err
		}
	}
	if t.Protocol == HTTP {
		c.http = &http.Client{
			Timeout:       t.Timeout,
			Transport:     &http.Transport{TLSClientConfig: secure, ForceAttemptHTTP2: true, MaxIdleConns: 2, IdleConnTimeout: time.Minute},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
		return c, nil
	}
	creds := insecure.NewCredentials()
	if t.TLS {
		creds = credentials.NewTLS(secure)
	}
	c.grpc, err = grpc.NewClient("passthrough:///"+t.Host, grpc.WithTransportCredentials(creds), grpc.WithDisableServiceConfig())
	if err != nil {
		return nil, fmt.Errorf("collector %s: %w", t, err)
	}
	return c, nil
}

func (t Target) tls() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("collector: read OTEL_EXPORTER_OTLP_CERTIFICATE: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("collector: OTEL_EXPORTER_OTLP_CERTIFICATE %s holds no certificate in PEM", t.CAFile)
		}
	}
	if t.CertFile != "" || t.KeyFile != "" {
		pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("collector: read OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and _CLIENT_KEY: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// Close ends the connection.
func (c *Client) Close() {
	if c.grpc != nil {
		_ = c.grpc.Close() // nothing is in progress
		return
	}
	c.http.CloseIdleConnections()
}

// Send sends one encoded request. A *Refusal says that the collector will never take it.
func (c *Client) Send(ctx context.Context, request []byte) error {
	ctx, cancel := context.WithTimeout(ctx, c.target.Timeout)
	defer cancel()
	err := c.send(ctx, request)
	var refused *Refusal
	if errors.As(err, &refused) {
		return &Refusal{fmt.Errorf("send %s to %s: %w", c.target.Signal, c.target, refused.err)}
	}
	if err != nil {
		return fmt.Errorf("send %s to %s: %w", c.target.Signal, c.target, err)
	}
	return nil
}

func (c *Client) send(ctx context.Context, request []byte) error {
	if c.target.Protocol == HTTP {
		return c.post(ctx, request)
	}
	options := []grpc.CallOption{grpc.ForceCodecV2(raw{}), grpc.WaitForReady(false), grpc.MaxCallRecvMsgSize(maxAnswer)}
	if c.target.Gzip {
		options = append(options, grpc.UseCompressor("gzip"))
	}
	var answer []byte
	err := c.grpc.Invoke(metadata.NewOutgoingContext(ctx, metadata.New(c.headers)), methods[c.target.Signal], request, &answer, options...)
	switch status.Code(err) {
	case codes.OK:
		return nil
	case codes.Canceled, codes.DeadlineExceeded, codes.Aborted, codes.OutOfRange, codes.Unavailable, codes.DataLoss, codes.ResourceExhausted:
		return err
	}
	return &Refusal{err}
}

func (c *Client) post(ctx context.Context, request []byte) error {
	body := request
	if c.target.Gzip {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		if _, err := w.Write(request); err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
		body = b.Bytes()
	}
	scheme := "http://"
	if c.target.TLS {
		scheme = "https://"
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, scheme+c.target.Host+c.target.Path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	for name, value := range c.headers {
		r.Header.Set(name, value)
	}
	r.Header.Set("Content-Type", "application/x-protobuf")
	if c.target.Gzip {
		r.Header.Set("Content-Encoding", "gzip")
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch {
	case err != nil:
		return err
	case resp.StatusCode/100 == 2:
		return nil
	}
	err = fmt.Errorf("the collector answers %s %s", resp.Status, brief(answer))
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return err
	}
	return &Refusal{err}
}

// brief shows the beginning of an answer when it is text.
func brief(b []byte) string {
	s := strings.ToValidUTF8(string(b[:min(len(b), 200)]), "")
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// raw sends and receives messages as they are encoded.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("encode a %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("decode into a %T", v)
	}
	*b = data.Materialize()
	return nil
}

// Refuse marks an error as one that sending again does not heal.
func Refuse(err error) error { return &Refusal{err} }
