package envoy

import (
	"net/http"
	"strings"
	"testing"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
)

// Envoy remembers the content of an extension that it refused as if it had it: the same content a second time is acknowledged,
// on this stream and on the next, and yet not in force; and a new version of a listener that uses it is refused in its stead.
// Only the first answer to a content is a verdict. Another content, or a removal, makes Envoy forget.
func TestSpikeExtensionRefusedOnce(t *testing.T) {
	t.Parallel()
	server, p, s := start(t)
	port := freePort(t)
	hcm := connectionManager(t, "routes", discovered("allow"))
	e := oneService(t, port, echo(t, "upstream"), 5*time.Second)
	e.listeners = messages(listener("out", port, httpChain(t, hcm)))
	e.extensions = messages(rbac(t, "allow", anyone()))
	s.boot(t, p, e)

	good := func(version string) []res { return versioned(version, rbac(t, "allow", anyone())) }
	bad := func(version string) []res {
		return versioned(version, rbac(t, "allow", onlyHeader(&matcherv3.RegexMatcher{Regex: badRegex})))
	}
	tell := func(what string, refused bool, resources []res) {
		t.Helper()
		text := s.answer(t, s.send(t, resourcev3.ExtensionConfigType, nil, resources...))
		if (text == "missing ): (") != refused || !refused && text != "" {
			t.Errorf("%s: answer %q", what, text)
		}
		if code, _, err := fetch(client(t), port, "/"); code != http.StatusOK {
			t.Errorf("%s: the good extension is not in force: %d %v", what, code, err)
		}
	}
	tell("bad content", true, bad("2"))
	tell("the same content", false, bad("2"))
	tell("the same content as another version", false, bad("3"))

	changed := edited(e.listeners[0].(*listenerv3.Listener), func(l *listenerv3.Listener) { l.StatPrefix = "changed" })
	text := s.answer(t, s.send(t, resourcev3.ListenerType, nil, versioned("2", changed)...))
	if text != "Error adding/updating listener(s) out: missing ): (\n" {
		t.Errorf("a listener that uses the refused extension: %q", text)
	}

	s.cut()
	s = server.accept(t)
	if got := s.first(t, resourcev3.ExtensionConfigType).InitialResourceVersions["allow"]; got != "3" {
		t.Errorf("on reconnect Envoy claims version %q", got)
	}
	tell("the same content on another stream", false, bad("2"))
	tell("good content", false, good("4"))
	tell("the bad content after it", true, bad("5"))
	tell("good content again", false, good("6"))
	if text := s.answer(t, s.send(t, resourcev3.ListenerType, nil, versioned("2", changed)...)); text != "" {
		t.Errorf("the listener once the good extension was sent: %q", text)
	}

	// Where nothing good is in force, a removal takes the place of the good content.
	next := freePort(t)
	s.push(t, resourcev3.ListenerType, v1(listener("next", next, httpChain(t, connectionManager(t, "routes", discovered("new")))))...)
	s.subscribed(t, resourcev3.ExtensionConfigType, "new")
	fresh := func() []res { return v1(rbac(t, "new", onlyHeader(&matcherv3.RegexMatcher{Regex: badRegex}))) }
	for i, refused := range []bool{true, false} {
		if text := s.answer(t, s.send(t, resourcev3.ExtensionConfigType, nil, fresh()...)); (text != "") != refused {
			t.Errorf("time %d at first configuration: %q", i, text)
		}
	}
	if text := s.answer(t, s.send(t, resourcev3.ExtensionConfigType, []string{"new"})); text != "" {
		t.Error(text)
	}
	if text := s.answer(t, s.send(t, resourcev3.ExtensionConfigType, nil, fresh()...)); !strings.Contains(text, "missing ): (") {
		t.Errorf("after a removal: %q", text)
	}
}
