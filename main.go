// Package main is causeway, the one binary: control planes, the dataplane agent and the command line that talks to them.
// It reads flags, files and the environment, wires packages together and exits; it holds no logic of the mesh.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends the process at once, whatever is still draining.
	context.AfterFunc(ctx, stop)
	p := &program{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, environ: os.Environ(), now: time.Now,
		interactive: isTerminal(os.Stdin) && isTerminal(os.Stderr), colour: isTerminal(os.Stderr),
	}
	code := p.run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && f.Name() != os.DevNull
}
