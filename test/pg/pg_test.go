package pg_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/causeway-mesh/causeway/test/pg"
)

func value(t *testing.T, dsn, query string) string {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var v string
	if err := conn.QueryRow(context.Background(), query).Scan(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestEachTestHasADatabase(t *testing.T) {
	a, b := pg.Database(t), pg.Database(t)
	if x, y := value(t, a, "SELECT current_database()"), value(t, b, "SELECT current_database()"); x == y {
		t.Fatalf("two tests share the database %s", x)
	}
	if fsync := value(t, a, "SHOW fsync"); fsync != "on" {
		t.Fatalf("fsync is %s: durability would not be tested", fsync)
	}
}

func TestServerKeepsItsDataOverARestart(t *testing.T) {
	s := pg.Start(t)
	s.Exec(t, "CREATE TABLE kept (v text)", "INSERT INTO kept VALUES ('here')")
	s.Stop(t)
	if _, err := pgx.Connect(context.Background(), s.DSN("postgres")); err == nil {
		t.Fatal("a stopped server answers")
	}
	s.Restart(t)
	for _, dsn := range []string{s.DSN("postgres"), s.TCP("postgres")} {
		if got := value(t, dsn, "SELECT v FROM kept"); got != "here" {
			t.Fatalf("got %q", got)
		}
	}
}
