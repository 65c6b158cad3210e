package postgres

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/store"
	"github.com/causeway-mesh/causeway/test/pg"
)

func TestWrongDSN(t *testing.T) {
	const password = "hunter2"
	tests := map[string]struct{ dsn, want string }{
		"empty":               {" ", "is empty"},
		"scheme":              {"mysql://u:hunter2@h/db", `scheme "mysql"`},
		"slash in password":   {"postgres://u:hunter2/x@h/db", "percent-encoded"},
		"at in password":      {"postgres://u:x/@hunter2@h/db", "percent-encoded"},
		"percent in password": {"postgres://u:hunter2%zz@h/db", "percent-encoded"},
		"space in password":   {"postgres://u:hunter2 x@h:port/db", "percent-encoded"},
		"port":                {"postgres://u:hunter2@h:70000/db", "port"},
		"sslmode":             {"postgres://u:hunter2@h/db?sslmode=maybe", "sslmode"},
		"sslmode in words":    {"host=h user=u password=hunter2 sslmode=maybe", "sslmode"},
		"broken words":        {"host=h password='hunter2", "unterminated"},
		"no value":            {"password=hunter2 host", "invalid"},
		"certificate":         {"postgres://u:hunter2@h/db?sslrootcert=/absent.pem&sslmode=verify-full", "absent.pem"},
		"password in query":   {"postgres://h/db?password=hunter2&sslmode=hunter2", "sslmode"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Open(context.Background(), Config{DSN: tt.dsn})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want an error that says %q", err, tt.want)
			}
			if strings.Contains(err.Error(), password) {
				t.Fatalf("the error shows the password: %v", err)
			}
		})
	}
}

func TestUnreachable(t *testing.T) {
	server := pg.Start(t)
	good := server.TCP("postgres")
	u, err := url.Parse(good)
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	with := func(change func(*url.URL)) string { v := *u; change(&v); return v.String() }
	tests := map[string]struct{ dsn, want string }{
		"port nobody listens on": {with(func(u *url.URL) { u.Host = "127.0.0.1:1" }), "connection refused"},
		"wrong password":         {with(func(u *url.URL) { u.User = url.UserPassword("postgres", "x"+password) }), "check the password"},
		"no such database":       {with(func(u *url.URL) { u.Path = "/absent" }), "create the database"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			_, err := Open(ctx, Config{DSN: tt.dsn})
			if !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want an error that says %q", err, tt.want)
			}
			if strings.Contains(err.Error(), password) {
				t.Fatalf("the error shows the password: %v", err)
			}
		})
	}
}
