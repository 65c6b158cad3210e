// Package main measures a whole federation: global and zones in processes of their own, and in this one a fleet of proxies with real
// agents' sessions over TLS. Beside each figure stands what the same bytes in as many messages take when nothing has to be decided
// about them. It is a tool for people who read its table; it is not a test: it judges nothing, and a figure of one
// machine says nothing about another.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
)

// options are the flags.
type options struct {
	sizes    []int
	services int
	rounds   int
	seconds  int // of a stream of changes
	rolling  int // seconds of a rolling deployment
	objects  int // of a fresh zone
	writes   int // REST writes per number of writers
	postgres string
	store    string
	binary   string
	json     string
	only     *regexp.Regexp
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == ceilingMode {
		if err := serveCeiling(); err != nil {
			fmt.Fprintln(os.Stderr, "bench: the ceiling:", err)
			os.Exit(1)
		}
		return
	}
	o, err := parse(os.Args[1:])
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		err = run(ctx, o)
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse(args []string) (options, error) {
	var o options
	var sizes, only string
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&sizes, "n", "100,1000", "numbers of proxies, one world for each")
	f.IntVar(&o.services, "services", 50, "services that the proxies are spread over")
	f.IntVar(&o.rounds, "rounds", 10, "rounds of each kind of change")
	f.IntVar(&o.seconds, "seconds", 30, "length of the stream of 10 changes a second")
	f.IntVar(&o.rolling, "rolling", 60, "length of the rolling deployment in seconds")
	f.IntVar(&o.objects, "objects", 10_000, "objects that a fresh zone gets")
	f.IntVar(&o.writes, "writes", 2000, "REST writes for each number of writers")
	f.StringVar(&o.postgres, "postgres", "", "DSN of an empty PostgreSQL database, for REST writes")
	f.StringVar(&o.store, "store", "embedded", "store of global and zones: embedded or memory")
	f.StringVar(&o.binary, "binary", "", "the causeway binary; default one that is built first")
	f.StringVar(&o.json, "json", "", "file for the results")
	f.StringVar(&only, "only", "", "run only what matches this regular expression")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	for s := range strings.SplitSeq(sizes, ",") {
		if sizes == "" {
			break // only what needs no proxies
		}
		n, err := strconv.Atoi(strings.TrimSpace(s))
		if err != nil || n < 1 {
			return o, fmt.Errorf("-n %s: must be numbers above zero, as in 100,1000", sizes)
		}
		o.sizes = append(o.sizes, n)
	}
	if o.services < 1 || o.rounds < 1 {
		return o, errors.New("-services and -rounds must be above zero")
	}
	var err error
	if o.only, err = regexp.Compile(only); err != nil {
		return o, fmt.Errorf("-only: %w", err)
	}
	return o, nil
}

// run makes one world after the other.
func run(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp("", "cwb")
	if err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	defer os.RemoveAll(dir)
	if o.binary == "" {
		o.binary = filepath.Join(dir, "causeway")
		build := exec.CommandContext(ctx, "go", "build", "-o", o.binary, "github.com/causeway-mesh/causeway")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			return fmt.Errorf("build the binary: %w", err)
		}
	}
	var all []row
	defer func() {
		print(os.Stdout, all)
		if o.json != "" && err == nil {
			err = save(o.json, all)
		}
	}()
	note := func(r row) {
		all = append(all, r)
		fmt.Fprintf(os.Stderr, "%s\n", r.line())
	}
	for i, n := range o.sizes {
		if err := measure(ctx, o, filepath.Join(dir, fmt.Sprint(i)), n, note); err != nil {
			return fmt.Errorf("with %d proxies: %w", n, err)
		}
	}
	return apart(ctx, o, dir, note)
}

func save(file string, all []row) error {
	b, err := json.MarshalIndent(all, "", "  ")
	if err == nil {
		err = os.WriteFile(file, append(b, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("save the results: %w", err)
	}
	return nil
}
