package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/causeway-mesh/causeway/api/envoy"
	"github.com/causeway-mesh/causeway/test/load"
)

// ceilingMode is how this program is called to be the server that only sends ready bytes.
const ceilingMode = "serve-ceiling"

// An order tells the ceiling what to send: as many messages of a size on the streams that came first. A version without messages
// only asks for the number of streams.
type order struct {
	Version  uint64
	Streams  int
	Messages int
	Size     int
}

// serveCeiling says where it listens, and then does what it reads until there is no more.
func serveCeiling() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	c := load.NewCeiling()
	s := grpc.NewServer(append(c.ServerOptions(), grpc.Creds(credentials.NewServerTLSFromCert(&tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key})))...)
	c.Register(s)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(greeting{l.Addr().String(), der}); err != nil {
		return err
	}
	in := json.NewDecoder(bufio.NewReader(os.Stdin))
	for {
		var o order
		if err := in.Decode(&o); errors.Is(err, io.EOF) {
			s.Stop()
			return <-served
		} else if err != nil {
			return err
		}
		for i := range o.Messages {
			version := o.Version + uint64(i)
			c.Push(envoy.Extension, version, load.Filler(envoy.Extension, version, o.Size), o.Streams)
		}
		if err := out.Encode(c.Streams()); err != nil {
			return err
		}
	}
}

// A greeting is what the ceiling says first.
type greeting struct {
	Address string
	DER     []byte
}

// A ceiling is that server as a child, with a fleet that is connected to it.
type ceiling struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	answers *json.Decoder
	orders  *json.Encoder
	fleet   *load.Fleet
	end     func()
	version uint64
}

func newCeiling(ctx context.Context, n int) (*ceiling, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &ceiling{cmd: exec.CommandContext(context.WithoutCancel(ctx), self, ceilingMode), version: 1}
	c.cmd.Stderr = os.Stderr
	leash(c.cmd)
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the ceiling: %w", err)
	}
	c.orders, c.answers, c.end = json.NewEncoder(c.in), json.NewDecoder(out), func() {}
	var g greeting
	if err := c.answers.Decode(&g); err != nil {
		return nil, fmt.Errorf("the ceiling does not greet: %w", err)
	}
	cert, err := x509.ParseCertificate(g.DER)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	c.fleet = load.New(load.Config{Dial: func(int) (*grpc.ClientConn, error) {
		return grpc.NewClient("passthrough:///"+g.Address, append(load.DialOptions(),
			grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: "127.0.0.1"})),
			grpc.WithNoProxy())...)
	}}, n)
	c.end = background(ctx, c.fleet.Run)
	err = until(ctx, "all streams to the ceiling are open", func() (any, bool) {
		streams, err := c.order(order{})
		return fmt.Sprint(streams, err), err == nil && streams == n
	})
	if err != nil {
		return nil, err
	}
	_, err = c.push(ctx, n, 1, 100) // buffers that only the first message needs
	return c, err
}

func (c *ceiling) order(o order) (streams int, err error) {
	if err := c.orders.Encode(o); err != nil {
		return 0, fmt.Errorf("tell the ceiling: %w", err)
	}
	if err := c.answers.Decode(&streams); err != nil {
		return 0, fmt.Errorf("the ceiling is gone: %w", err)
	}
	return streams, nil
}

// push sends messages to some proxies and returns how long each of them took.
func (c *ceiling) push(ctx context.Context, n, messages, size int) ([]time.Duration, error) {
	first := c.version
	c.version += uint64(messages)
	c.fleet.Forget()
	begin := time.Now()
	if _, err := c.order(order{first, n, messages, size}); err != nil {
		return nil, err
	}
	if _, err := c.fleet.Until(ctx, c.version-1, n); err != nil {
		return nil, err
	}
	var took []time.Duration
	for i := range c.fleet.Len() {
		if at := c.fleet.Proxy(i).Settled(); at.After(begin) {
			took = append(took, at.Sub(begin))
		}
	}
	return took, nil
}

func (c *ceiling) close() {
	c.end()
	_ = c.in.Close() // it ends by itself then
	_ = c.cmd.Wait()
}
