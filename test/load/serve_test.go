package load_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/causeway-mesh/causeway/test/load"
	"github.com/causeway-mesh/causeway/zone-cp/xds"
)

// An endpoint is where a server listens, and how to believe it.
type endpoint struct {
	address string
	roots   *x509.CertPool
}

// serve offers ADS over TLS until the test ends: that of the product, or a ceiling.
func serve(t testing.TB, cfg xds.Config, ceiling *load.Ceiling) endpoint {
	t.Helper()
	cert, roots := certificate(t)
	creds := grpc.Creds(credentials.NewServerTLSFromCert(&cert))
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var done sync.WaitGroup
	var g *grpc.Server
	if ceiling != nil {
		g = grpc.NewServer(append(ceiling.ServerOptions(), creds)...)
		ceiling.Register(g)
	} else {
		server, err := xds.New(cfg)
		if err != nil {
			cancel()
			t.Fatal(err)
		}
		g = grpc.NewServer(append(server.ServerOptions(), creds)...)
		server.Register(g)
		done.Go(func() {
			if err := server.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	done.Go(func() {
		if err := g.Serve(l); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); g.Stop(); done.Wait() })
	return endpoint{l.Addr().String(), roots}
}

func certificate(t testing.TB) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}

// connect runs a fleet against a server until the test ends.
func connect(t testing.TB, cfg load.Config, n int, to endpoint) *load.Fleet {
	t.Helper()
	cfg.Dial = func(int) (*grpc.ClientConn, error) {
		return grpc.NewClient("passthrough:///"+to.address, append(load.DialOptions(),
			grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, RootCAs: to.roots, ServerName: "127.0.0.1"})),
			grpc.WithNoProxy())...)
	}
	f := load.New(cfg, n)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return f
}
