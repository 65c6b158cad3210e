package postgres

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// parse reads the DSN and adds what every session of the store needs. Its errors say what is wrong and hold no password.
func parse(dsn string, limits tuning) (*pgxpool.Config, error) {
	if strings.TrimSpace(dsn) == "" {
		return nil, errors.New("the PostgreSQL DSN is empty: give one like postgres://user@host:5432/database")
	}
	if scheme, _, ok := strings.Cut(dsn, "://"); ok {
		if err := checkURL(scheme, dsn); err != nil {
			return nil, err
		}
	}
	cfg, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("the PostgreSQL DSN is wrong: %s", redact(dsn, cause(err)))
	}
	cc := cfg.ConnConfig
	if cc.ConnectTimeout == 0 {
		cc.ConnectTimeout = 5 * time.Second
	}
	if cc.ValidateConnect == nil {
		// After a failover the old primary may come back as a standby: it is no store.
		cc.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	timeout := strconv.FormatInt(limits.statement.Milliseconds(), 10)
	for name, value := range map[string]string{
		"application_name":                    "causeway",
		"statement_timeout":                   timeout,
		"idle_in_transaction_session_timeout": timeout,
		// Every statement finds rows by key. A cached plan made when the tables were empty must not scan them later.
		"enable_seqscan":   "off",
		"enable_hashjoin":  "off",
		"enable_mergejoin": "off",
		"jit":              "off", // it would compile for the meta row, whose only plan is the scan that we forbid
	} {
		if _, given := cc.RuntimeParams[name]; !given {
			cc.RuntimeParams[name] = value
		}
	}
	return cfg, nil
}

// checkURL finds the mistakes whose usual error text would repeat a part of the password.
func checkURL(scheme, dsn string) error {
	if scheme != "postgres" && scheme != "postgresql" {
		return fmt.Errorf("the PostgreSQL DSN is wrong: the scheme %q should be postgres", scheme)
	}
	u, err := url.Parse(dsn)
	if err != nil {
		return errors.New("the PostgreSQL DSN is no valid URL: write special characters of user and password (such as @ : / ? # %) percent-encoded")
	}
	if strings.Contains(u.Host, "@") || strings.Contains(u.Path, "@") {
		return errors.New("the PostgreSQL DSN has an @ after its host: write special characters of user and password percent-encoded")
	}
	return nil
}

// cause is what a parse error says behind the DSN, which it repeats.
func cause(err error) string {
	text := err.Error()
	if i := strings.LastIndex(text, "`: "); i >= 0 {
		text = text[i+len("`: "):]
	}
	return strings.TrimPrefix(text, "failed to ")
}

var passwords = []*regexp.Regexp{
	regexp.MustCompile(`://[^:/@]*:(.*)@`),
	regexp.MustCompile(`(?i)password\s*=\s*'((?:[^'\\]|\\.)*)`),
	regexp.MustCompile(`(?i)password\s*=\s*([^\s&']+)`),
}

// redact removes whatever looks like the password of the DSN from a text.
func redact(dsn, text string) string {
	for _, re := range passwords {
		for _, m := range re.FindAllStringSubmatch(dsn, -1) {
			plain, err := url.PathUnescape(m[1])
			if err != nil {
				plain = m[1]
			}
			for _, secret := range []string{m[1], plain} {
				if secret != "" {
					text = strings.ReplaceAll(text, secret, "xxxxx")
				}
			}
		}
	}
	return text
}
