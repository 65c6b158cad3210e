package collector

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	grpcgzip "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// maxAnswer bounds what a collector may answer.
const maxAnswer = 64 << 10

// A Client sends to one collector.
type Client struct {
	at     Endpoint
	method string
	conn   *grpc.ClientConn // nil with HTTP
	http   *http.Client
}

// Dial makes a client. method is what is called of the gRPC service, such as /opentelemetry.proto.collector.metrics.v1.MetricsService/Export.
// It connects when there is something to send.
func Dial(at Endpoint, method string) (*Client, error) {
	c := &Client{at: at, method: method}
	if at.HTTP {
		c.http = &http.Client{
			Transport:     &http.Transport{TLSClientConfig: at.TLS, MaxIdleConns: 1, MaxResponseHeaderBytes: maxAnswer},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
		return c, nil
	}
	creds := insecure.NewCredentials()
	if at.TLS != nil {
		creds = credentials.NewTLS(at.TLS)
	}
	var err error
	// The name is resolved here, not by a proxy of the environment: what a workload says of proxies is not meant for this.
	if c.conn, err = grpc.NewClient("dns:///"+at.Address, grpc.WithTransportCredentials(creds), grpc.WithNoProxy()); err != nil {
		return nil, fmt.Errorf("reach the collector at %s: %w", at.Address, err)
	}
	return c, nil
}

// Close ends the connection.
func (c *Client) Close() error {
	if c.conn == nil {
		c.http.CloseIdleConnections()
		return nil
	}
	return c.conn.Close()
}

// Send sends one message and reads the answer into reply.
func (c *Client) Send(ctx context.Context, message, reply proto.Message) error {
	ctx, cancel := context.WithTimeout(ctx, c.at.Timeout)
	defer cancel()
	if c.conn == nil {
		return c.post(ctx, message, reply)
	}
	if len(c.at.Headers) > 0 {
		ctx = metadata.NewOutgoingContext(ctx, metadata.New(c.at.Headers))
	}
	opts := []grpc.CallOption{grpc.MaxCallRecvMsgSize(maxAnswer)}
	if !c.at.Uncompressed {
		opts = append(opts, grpc.UseCompressor(grpcgzip.Name))
	}
	if err := c.conn.Invoke(ctx, c.method, message, reply, opts...); err != nil {
		return fmt.Errorf("send to the collector at %s: %w", c.at.Address, err)
	}
	return nil
}

func (c *Client) post(ctx context.Context, message, reply proto.Message) error {
	fail := func(err error) error { return fmt.Errorf("send to the collector at %s: %w", c.at.URL, err) }
	body, err := proto.Marshal(message)
	if err != nil {
		return fail(err)
	}
	var packed bytes.Buffer
	if !c.at.Uncompressed {
		z := gzip.NewWriter(&packed)
		if _, err := z.Write(body); err != nil {
			return fail(err)
		}
		if err := z.Close(); err != nil {
			return fail(err)
		}
		body = packed.Bytes()
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.at.URL, bytes.NewReader(body))
	if err != nil {
		return fail(err)
	}
	for k, v := range c.at.Headers {
		r.Header.Set(k, v)
	}
	r.Header.Set("Content-Type", "application/x-protobuf")
	if !c.at.Uncompressed {
		r.Header.Set("Content-Encoding", "gzip")
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return fail(errors.Unwrap(err))
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch {
	case err != nil:
		return fail(err)
	case resp.StatusCode/100 != 2:
		return fail(fmt.Errorf("it answers %s", resp.Status))
	}
	if err := proto.Unmarshal(answer, reply); err != nil {
		return fail(fmt.Errorf("read its answer: %w", err))
	}
	return nil
}
