package envoy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacconfv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	networkrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/wellknown"
)

// echoTCP sends back every line.
func echoTCP(t testing.TB) (port uint32) {
	t.Helper()
	l, err := net.Listen("tcp", loopbackIP+":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c) //nolint:errcheck // the peer went away
			}()
		}
	}()
	return uint32(l.Addr().(*net.TCPAddr).Port)
}

// line sends a line and wants it back.
func (c *keptConnection) line(text string) error {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(c, text); err != nil {
		return err
	}
	_, err := c.r.ReadString('\n')
	return err
}

// A permission of a TCP service travels by ECDS as well and drains nothing, but it is judged once per
// connection, or with the configuration from its start: a new denial does not reach connections that are open.
func TestSpikeTCPPermissionByExtension(t *testing.T) {
	t.Parallel()
	for name, mode := range map[string]networkrbacv3.RBAC_EnforcementType{
		"judged once":         networkrbacv3.RBAC_ONE_TIME_ON_FIRST_BYTE,
		"judged continuously": networkrbacv3.RBAC_CONTINUOUS,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, p, s := start(t)
			port := freePort(t)
			permission := func(action rbacconfv3.RBAC_Action) *corev3.TypedExtensionConfig {
				rules := rbacRules(anyone())
				rules.Action = action
				return &corev3.TypedExtensionConfig{Name: "tcp-rbac", TypedConfig: packed(t, &networkrbacv3.RBAC{
					Rules: rules, StatPrefix: "tcp", EnforcementType: mode,
				})}
			}
			l := listener("tcp", port, &listenerv3.FilterChain{Filters: []*listenerv3.Filter{
				{Name: "tcp-rbac", ConfigType: &listenerv3.Filter_ConfigDiscovery{ConfigDiscovery: &corev3.ExtensionConfigSource{
					ConfigSource: fromADS(5 * time.Second),
					TypeUrls:     []string{"type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC"},
				}}},
				networkFilter(t, wellknown.TCPProxy, &tcpproxyv3.TcpProxy{
					StatPrefix: "tcp", ClusterSpecifier: &tcpproxyv3.TcpProxy_Cluster{Cluster: "svc"},
				}),
			}})
			s.boot(t, p, everything{
				clusters: messages(staticCluster("svc", echoTCP(t))), listeners: messages(l),
				extensions: messages(permission(rbacconfv3.RBAC_ALLOW)),
			})
			open := connect(t, "127.0.0.1", port)
			if err := open.line("hello"); err != nil {
				t.Fatal(err)
			}
			s.push(t, resourcev3.ExtensionConfigType, versioned("2", permission(rbacconfv3.RBAC_DENY))...)
			until(t, "a new connection is denied", func() (any, bool) {
				c := net.Dialer{Timeout: patience}
				conn, err := c.Dial("tcp", address(port))
				if err != nil {
					return err, false
				}
				defer conn.Close()
				err = (&keptConnection{conn, bufio.NewReader(conn)}).line("hello")
				return err, err != nil
			})
			t.Logf("open connection after the denial: %v", open.line("still there"))
			if err := open.line("still there"); err != nil {
				t.Errorf("the open connection ended: %v", err)
			}
		})
	}
}
