package testmesh

import (
	"testing"

	"github.com/causeway-mesh/causeway/api/client"
)

// Another starts a further instance of global on the same store, which must be PostgreSQL. It ends with the test, or with HaltGlobal.
func (g *Global) Another(t testing.TB) *Global {
	t.Helper()
	o := &Global{dir: shortDir(t), opts: g.opts, logs: newJournal()}
	o.at.api, o.at.zones = "127.0.0.1:0", "127.0.0.1:0"
	// The first administrator's token lies with the first instance.
	o.API = API{g.client, "default"}
	o.StartGlobal(t)
	c, err := client.New(client.Config{
		Server: "https://" + o.GlobalPlane().APIAddress(), CAFile: o.GlobalPlane().CAFile(), TokenFile: g.GlobalPlane().AdminTokenFile(), UserAgent: "testmesh",
	})
	if err != nil {
		t.Fatal(err)
	}
	o.API = API{c, "default"}
	t.Cleanup(func() {
		if err := o.halt(); err != nil {
			t.Errorf("the further instance of global ended: %v", err)
		}
		c.Close()
		if t.Failed() {
			t.Logf("the end of its log:\n%s", o.logs.tail(40))
		}
	})
	return o
}
