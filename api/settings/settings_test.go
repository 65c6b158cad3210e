package settings_test

import (
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/settings"
)

type postgres struct {
	DSN      string `json:"dsn" doc:"Connection string." secret:"true"`
	MaxConns int    `json:"maxConns" doc:"Connections kept open."`
}

type config struct {
	Name  string `json:"name" doc:"Name of the zone."`
	Store struct {
		Kind     string   `json:"kind" doc:"Where resources are kept."`
		Postgres postgres `json:"postgres"`
	} `json:"store"`
	Drain     time.Duration     `json:"drain" doc:"Time for requests in flight."`
	DNSPort   uint16            `json:"dnsPort" doc:"Port of the resolver."`
	Debug     bool              `json:"debug" doc:"Serve profiles."`
	Level     slog.Level        `json:"level" doc:"Least important log level."`
	Addresses []string          `json:"addresses" doc:"Control planes, the first that answers is used."`
	Labels    map[string]string `json:"labels" doc:"Labels of the proxy."`
	Log       *slog.Logger      `json:"-"`
}

func defaults() config {
	c := config{Name: "zone-1", Drain: 30 * time.Second, DNSPort: 5353}
	c.Store.Kind = "embedded"
	return c
}

// Validate refuses a combination, so that tests see how its problems are explained.
func (c config) Validate() resource.Problems {
	var ps resource.Problems
	if c.Store.Kind == "postgres" && c.Store.Postgres.DSN == "" {
		ps.Add("store.postgres.dsn", "must be set with store.kind postgres")
	}
	if c.Drain < 0 {
		ps.Add("drain", "must not be negative")
	}
	return ps
}

func TestLaterSourcesOverrideEarlierOnes(t *testing.T) {
	c := defaults()
	err := settings.Load(&c, settings.Sources{
		FileName: "zone.yaml",
		File: []byte(`
name: east
drain: 10s
dnsPort: 53
level: debug
addresses: [one, two]
labels: {team: pay}
store:
  kind: postgres
  postgres: {maxConns: 7}
`),
		Environ: []string{
			"PATH=/bin", "CAUSEWAY_DRAIN=20s", "CAUSEWAY_DNS_PORT=54", "CAUSEWAY_STORE_POSTGRES_DSN=host=db",
			"CAUSEWAY_ADDRESSES=three, four", "CAUSEWAY_SERVER=elsewhere",
			"CAUSEWAY_GLOBAL_SERVICE_HOST=10.0.0.1", "CAUSEWAY_GLOBAL_PORT=tcp://10.0.0.1:5681", "CAUSEWAY_GLOBAL_PORT_5681_TCP_ADDR=10.0.0.1",
		},
		Known: []string{"CAUSEWAY_SERVER"},
		Flags: map[string]string{"dns-port": "55", "debug": "true", "labels": "team=cart,tier=1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := defaults()
	want.Name, want.Drain, want.DNSPort, want.Debug, want.Level = "east", 20*time.Second, 55, true, slog.LevelDebug
	want.Addresses, want.Labels = []string{"three", "four"}, map[string]string{"team": "cart", "tier": "1"}
	want.Store.Kind, want.Store.Postgres = "postgres", postgres{DSN: "host=db", MaxConns: 7}
	if d := cmp.Diff(want, c); d != "" {
		t.Error(d)
	}
}

func TestWhatIsWrongIsNamed(t *testing.T) {
	for _, tc := range []struct {
		name    string
		sources settings.Sources
		want    []string
	}{
		{
			"unknown in file",
			settings.Sources{File: []byte("store:\n  postgress: {dsn: x}\n")},
			[]string{`store.postgress: unknown setting, did you mean "postgres"? (zone.yaml:2)`},
		},
		{"unknown at top", settings.Sources{File: []byte("drian: 1s\n")}, []string{`drian: unknown setting, did you mean "drain"? (zone.yaml:1)`}},
		{
			"unknown in environment",
			settings.Sources{Environ: []string{"CAUSEWAY_STORE_POSTGRES_DNS=x"}},
			[]string{`CAUSEWAY_STORE_POSTGRES_DNS: unknown setting in the environment, did you mean "CAUSEWAY_STORE_POSTGRES_DSN"?`},
		},
		{"unknown flag", settings.Sources{Flags: map[string]string{"dran": "1s"}}, []string{`--dran: unknown flag, did you mean "drain"?`}},
		{
			"everything at once",
			settings.Sources{File: []byte("dnsPort: 70000\ndebug: yes\n"), Environ: []string{"CAUSEWAY_DRAIN=10"}, Flags: map[string]string{"labels": "team"}},
			[]string{
				`dnsPort: "70000" is out of range (zone.yaml:1)`,
				`debug: must be true or false, not "yes" (zone.yaml:2)`,
				`CAUSEWAY_DRAIN: must be a duration such as 500ms, 10s or 1h30m, not "10"`,
				`--labels: must be key=value pairs separated by commas, not "team"`,
			},
		},
		{"twice", settings.Sources{File: []byte("name: a\nname: b\n")}, []string{`name: is given twice (zone.yaml:2)`}},
		{"scalar for object", settings.Sources{File: []byte("store: postgres\n")}, []string{`store: must be an object of settings (zone.yaml:1)`}},
		{"object for scalar", settings.Sources{File: []byte("name: {a: b}\n")}, []string{`name: must be a text (zone.yaml:1)`}},
		{"list as document", settings.Sources{File: []byte("- a\n")}, []string{`zone.yaml: must be an object of settings (zone.yaml:1)`}},
		{"nested list", settings.Sources{File: []byte("addresses: [[a]]\n")}, []string{`addresses: must be a list of plain values (zone.yaml:1)`}},
		{
			"two documents",
			settings.Sources{File: []byte("name: a\n---\nname: b\n")},
			[]string{`zone.yaml: must hold one document; the settings of one process are one file`},
		},
		{"alias", settings.Sources{File: []byte("store: &a {kind: x}\nlabels: {}\n")}, nil},
		{"as a whole, set", settings.Sources{Environ: []string{"CAUSEWAY_DRAIN=-1s"}}, []string{`drain: must not be negative (set by CAUSEWAY_DRAIN)`}},
		{
			"as a whole, missing",
			settings.Sources{File: []byte("store: {kind: postgres}\n")},
			[]string{`store.postgres.dsn: must be set with store.kind postgres (set it with --store-postgres-dsn or CAUSEWAY_STORE_POSTGRES_DSN)`},
		},
		{
			"secret file missing",
			settings.Sources{Flags: map[string]string{"store-postgres-dsn-file": "/nowhere/dsn"}, ReadFile: os.ReadFile},
			[]string{`--store-postgres-dsn-file: cannot be read: open /nowhere/dsn: no such file or directory`},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := defaults()
			tc.sources.FileName = "zone.yaml"
			err := settings.Load(&c, tc.sources)
			var ps resource.Problems
			if err != nil && !errors.As(err, &ps) {
				t.Fatalf("error is %T, want Problems", err)
			}
			var got []string
			for _, p := range ps {
				got = append(got, p.String())
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestSecretsComeFromFilesAndAreMasked(t *testing.T) {
	c := defaults()
	read := func(name string) ([]byte, error) { return []byte("host=db password=" + name + "\n"), nil }
	err := settings.Load(&c, settings.Sources{Environ: []string{"CAUSEWAY_STORE_POSTGRES_DSN_FILE=hunter2"}, ReadFile: read})
	if err != nil {
		t.Fatal(err)
	}
	if want := "host=db password=hunter2"; c.Store.Postgres.DSN != want {
		t.Errorf("dsn is %q, want %q", c.Store.Postgres.DSN, want)
	}
	var b strings.Builder
	if err := settings.Print(&b, c); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "hunter2") || !strings.Contains(b.String(), settings.Mask) {
		t.Errorf("printed settings show the secret or lack its mask:\n%s", b.String())
	}
	for _, f := range settings.Fields(c) {
		if strings.Contains(f.Default, "hunter2") {
			t.Errorf("field %s shows the secret", f.Path)
		}
	}
}

func TestPrintedSettingsLoadAgain(t *testing.T) {
	c := defaults()
	c.Name, c.Addresses, c.Level = "true", []string{"a:1", "b, c"}, slog.LevelWarn
	c.Labels = map[string]string{"x": "1,2", "y": ""}
	var b strings.Builder
	if err := settings.Print(&b, &c); err != nil {
		t.Fatal(err)
	}
	var again config
	if err := settings.Load(&again, settings.Sources{FileName: "printed", File: []byte(b.String())}); err != nil {
		t.Fatalf("%v in\n%s", err, b.String())
	}
	if d := cmp.Diff(c, again); d != "" {
		t.Errorf("%s\nin\n%s", d, b.String())
	}
}

func TestNames(t *testing.T) {
	got := map[string]string{}
	for _, f := range settings.Fields(defaults()) {
		got[f.Env] = f.Flag
	}
	want := map[string]string{
		"CAUSEWAY_NAME": "name", "CAUSEWAY_STORE_KIND": "store-kind", "CAUSEWAY_STORE_POSTGRES_DSN": "store-postgres-dsn",
		"CAUSEWAY_STORE_POSTGRES_DSN_FILE": "store-postgres-dsn-file", "CAUSEWAY_STORE_POSTGRES_MAX_CONNS": "store-postgres-max-conns",
		"CAUSEWAY_DRAIN": "drain", "CAUSEWAY_DNS_PORT": "dns-port", "CAUSEWAY_DEBUG": "debug", "CAUSEWAY_LEVEL": "level",
		"CAUSEWAY_ADDRESSES": "addresses", "CAUSEWAY_LABELS": "labels",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if table := settings.Table(defaults()); !strings.Contains(table, "| `drain` | `CAUSEWAY_DRAIN` | `--drain` | `30s` | Time for requests in flight. |") {
		t.Errorf("the table lacks the row of drain:\n%s", table)
	}
}

func TestFieldsRefusesWhatCannotBeASetting(t *testing.T) {
	for name, v := range map[string]any{
		"no json name": struct{ A string }{},
		"no doc": struct {
			A string `json:"a"`
		}{},
		"bad type": struct {
			A chan int `json:"a" doc:"x"`
		}{},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("accepted")
				}
			}()
			settings.Fields(v)
		})
	}
}

func FuzzLoad(f *testing.F) {
	for _, s := range []string{"name: a\nstore: {kind: x}", "a: &a [*a]", "? {}\n: x", "- ", "name: !!binary x", "---\n", "addresses: [1, 2.5, ~]", "<<: {name: a}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c := defaults()
		err := settings.Load(&c, settings.Sources{FileName: "f", File: data})
		var ps resource.Problems
		if err != nil && (!errors.As(err, &ps) || len(ps) == 0) {
			t.Fatalf("error %v is not Problems", err)
		}
	})
}
