package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/causeway-mesh/causeway/api/client"
	"github.com/causeway-mesh/causeway/api/resource"
)

// The exit codes, so that scripts can tell a tool that failed from a problem that was found.
const (
	exitOK = iota
	exitError
	exitUsage
	exitDifferences
	exitNotFound
	exitConflict
	exitInvalid
	exitPermission
	exitUnreachable
	exitTimeout
	exitInterrupted = 130 // as shells report SIGINT
)

// usageError is a command line that makes no sense; command is the one whose help explains it.
type usageError struct {
	err     error
	command string
}

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// invalidError is a list of things wrong with what a user wrote, one line each.
type invalidError struct {
	what  string
	lines []string
}

func (e invalidError) Error() string { return e.what + ": " + strings.Join(e.lines, "; ") }

// differencesError is what is not as it was asked for, one line each.
type differencesError struct {
	what  string
	lines []string
}

func (e differencesError) Error() string { return e.what + ": " + strings.Join(e.lines, "; ") }

// hintError adds what to do next.
type hintError struct {
	err  error
	next string
}

func (e hintError) Error() string { return e.err.Error() }
func (e hintError) Unwrap() error { return e.err }

func exitCode(err error) int {
	var (
		usage    usageError
		invalid  invalidError
		differs  differencesError
		refused  *client.Error
		problems resource.Problems
	)
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &invalid), errors.As(err, &problems):
		return exitInvalid
	case errors.As(err, &differs):
		return exitDifferences
	case errors.As(err, &refused):
		return exitOfStatus(refused)
	case errors.Is(err, client.ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		return exitTimeout
	case errors.Is(err, client.ErrUnreachable):
		return exitUnreachable
	case errors.Is(err, resource.ErrNotFound):
		return exitNotFound
	case errors.Is(err, resource.ErrConflict):
		return exitConflict
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	}
	return exitError
}

func exitOfStatus(e *client.Error) int {
	switch e.Status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		return exitInvalid
	case http.StatusUnauthorized, http.StatusForbidden:
		return exitPermission
	case http.StatusNotFound:
		return exitNotFound
	case http.StatusConflict, http.StatusPreconditionFailed:
		return exitConflict
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return exitUnreachable
	}
	return exitError
}

// report tells a person what failed, where, why and what to do next, a line each.
func (p *program) report(cmd *cobra.Command, err error) {
	mark := "Error:"
	if p.colour && p.env("NO_COLOR") == "" && p.env("TERM") != "dumb" {
		mark = "\x1b[31mError:\x1b[0m"
	}
	what, lines := describeError(err)
	p.talk("%s %s", mark, what)
	for _, l := range lines {
		p.talk("  %s", l)
	}
	if next := nextStep(cmd, err); next != "" {
		p.talk("Next: %s", next)
	}
}

func describeError(err error) (what string, lines []string) {
	var (
		invalid  invalidError
		differs  differencesError
		refused  *client.Error
		problems resource.Problems
	)
	switch {
	case errors.As(err, &invalid):
		return invalid.what, invalid.lines
	case errors.As(err, &differs):
		return differs.what, differs.lines
	case errors.As(err, &problems):
		for _, p := range problems {
			lines = append(lines, p.String())
		}
		return strings.TrimSuffix(strings.TrimSuffix(err.Error(), problems.Error()), ": "), lines
	case errors.As(err, &refused):
		what = strings.TrimSuffix(err.Error(), refused.Error()) + refused.Title
		if refused.Detail != "" {
			lines = append(lines, refused.Detail)
		}
		for _, i := range refused.Invalid {
			lines = append(lines, i.String())
		}
		where := fmt.Sprintf("%s %s answered %d", refused.Method, refused.Path, refused.Status)
		if refused.Instance != "" {
			where += ", request " + refused.Instance
		}
		return what, append(lines, where)
	}
	return err.Error(), nil
}

func nextStep(cmd *cobra.Command, err error) string {
	var hint hintError
	var usage usageError
	var refused *client.Error
	switch {
	case errors.As(err, &hint):
		return hint.next
	case errors.As(err, &usage):
		return fmt.Sprintf("%s --help", usage.command)
	case errors.As(err, &refused):
		return afterStatus(cmd, refused.Status)
	case errors.Is(err, client.ErrUnreachable):
		return "causeway context list shows which control planes are configured; --server or CAUSEWAY_SERVER names another"
	}
	return ""
}

func afterStatus(cmd *cobra.Command, status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "give a token that is valid with --token-file or CAUSEWAY_TOKEN_FILE, or get a new one with causeway token create user"
	case http.StatusForbidden:
		return "ask for the permission, or use the token of someone who has it (--token-file)"
	case http.StatusNotFound:
		if cmd != nil && cmd.Name() != "get" {
			return "causeway get TYPE lists what exists"
		}
	case http.StatusConflict, http.StatusPreconditionFailed:
		return "read the object again and repeat the change"
	case http.StatusServiceUnavailable:
		return "repeat the command later; reading goes on meanwhile"
	}
	return ""
}

// suggestFlag adds the nearest flag to cobra's complaint about an unknown one.
func suggestFlag(cmd *cobra.Command, err error) error {
	_, word, ok := strings.Cut(err.Error(), "unknown flag: --")
	if !ok {
		return err
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if near := resource.Nearest(word, names); near != "" {
		return fmt.Errorf("%w, did you mean --%s?", err, near)
	}
	return err
}
