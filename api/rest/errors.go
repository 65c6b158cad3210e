package rest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strconv"

	"github.com/labstack/echo/v4"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/token"
	"github.com/causeway-mesh/causeway/store"
)

// A failure is the body of every answer that is not a success.
type failure struct {
	// Type is the same for every failure.
	Type string `json:"type"`
	// Status is the code of the answer.
	Status int `json:"status"`
	// Title says which operation failed.
	Title string `json:"title"`
	// Detail says why, and what to do about it.
	Detail string `json:"detail"`
	// Instance identifies the request in the logs of the control plane.
	Instance string `json:"instance,omitempty"`

	// InvalidParameters names the fields that are wrong; in a batch with the position of the resource in front.
	InvalidParameters []invalidParameter `json:"invalid_parameters,omitempty"`

	// Older clients read these two.
	// Details is the same as detail, for older clients.
	Details string `json:"details,omitempty"`
	// Causes are the same as invalid_parameters, for older clients.
	Causes []cause `json:"causes,omitempty"`

	err error // what is logged and not shown
}

type invalidParameter struct {
	// Field by its path in the body, or the name of a parameter.
	Field string `json:"field"`
	// Reason for people.
	Reason string `json:"reason"`
	// Rule that is broken.
	Rule string `json:"rule,omitempty"`
	// Choices that are valid.
	Choices []string `json:"choices,omitempty"`
}

type cause struct {
	// Field by its path.
	Field string `json:"field"`
	// Message for people.
	Message string `json:"message"`
}

// Error is what a log shows.
func (f *failure) Error() string { return fmt.Sprintf("%d %s: %s", f.Status, f.Title, f.Detail) }

// Unwrap gives the cause.
func (f *failure) Unwrap() error { return f.err }

const statusClientGone = 499

// fail makes an answer with a status of its own.
func fail(status int, title, format string, args ...any) *failure {
	return &failure{Status: status, Title: title, Detail: fmt.Sprintf(format, args...)}
}

// invalid makes a 400 that names fields.
func invalid(title, detail string, ps ...resource.Problem) *failure {
	f := &failure{Status: http.StatusBadRequest, Title: title, Detail: detail}
	for _, p := range ps {
		f.InvalidParameters = append(f.InvalidParameters, invalidParameter{Field: p.Field, Reason: p.Reason})
	}
	return f
}

// titled says which operation an error stopped.
func titled(title string, err error) error {
	if err == nil {
		return nil
	}
	var f *failure
	if errors.As(err, &f) {
		if f.Title == "" {
			f.Title = title
		}
		return f
	}
	f = classify(err)
	f.Title = title
	return f
}

// classify is the one table from errors to answers.
func classify(err error) *failure {
	var (
		f        *failure
		problems resource.Problems
		http404  *echo.HTTPError
		tooLarge *http.MaxBytesError
	)
	switch {
	case errors.As(err, &f):
		return f
	case errors.As(err, &problems):
		f = invalid("Could not process a resource", "Resource is not valid", problems...)
	case errors.Is(err, resource.ErrUnknownKind):
		f = invalid("Could not process a resource", "Resource is not valid", resource.Problem{Field: "type", Reason: err.Error()})
	case errors.As(err, &tooLarge):
		f = bodyTooLarge(tooLarge.Limit)
	case errors.As(err, &http404):
		f = routing(http404)
	case errors.Is(err, resource.ErrNotFound), errors.Is(err, store.ErrNotFound):
		f = fail(http.StatusNotFound, "Could not retrieve a resource", "Not found")
	case errors.Is(err, token.ErrNoSigningKey):
		f = fail(http.StatusNotFound, "Signing Key not found", "%s", err)
	case errors.Is(err, token.ErrBadRequest):
		f = fail(http.StatusBadRequest, "Could not issue a token", "%s", err)
	case errors.Is(err, store.ErrConflict):
		f = fail(http.StatusConflict, "Conflict", "%s; read it again and repeat the change", conflictDetail(err))
	case errors.Is(err, store.ErrUnknownOutcome):
		f = fail(http.StatusServiceUnavailable, "Outcome unknown",
			"It is not known whether the change was stored. Repeat the request with the same Idempotency-Key to learn it, or read the resource.")
	case errors.Is(err, store.ErrUnavailable):
		f = fail(http.StatusServiceUnavailable, "Service unavailable", "The store cannot be written now and nothing was changed. Reads go on. Repeat the request later.")
	case errors.Is(err, context.Canceled):
		f = fail(statusClientGone, "Client closed the request", "The client went away")
	case errors.Is(err, context.DeadlineExceeded):
		f = fail(http.StatusServiceUnavailable, "Service unavailable", "The request took too long. Repeat it later.")
	default:
		f = fail(http.StatusInternalServerError, "Internal Server Error", "Internal Server Error")
	}
	f.err = err
	return f
}

func conflictDetail(err error) string {
	var c *store.ConflictError
	if errors.As(err, &c) {
		return c.Error()
	}
	return "The resource was changed by someone else"
}

func routing(e *echo.HTTPError) *failure {
	switch e.Code {
	case http.StatusNotFound:
		return fail(e.Code, "Not found", "There is nothing at this path")
	case http.StatusMethodNotAllowed:
		return fail(e.Code, "Method not allowed", "This path cannot be used with this method")
	default:
		return fail(e.Code, http.StatusText(e.Code), "%v", e.Message)
	}
}

// answerError writes an error as a body. Only what is unexpected is logged, under an id that the client is told.
func (s *Server) answerError(err error, c echo.Context) {
	if c.Response().Committed {
		s.cfg.Log.Warn("answer could not be written in full", "route", c.Path(), "err", err)
		return
	}
	f := *classify(err)
	if f.Title == "" {
		f.Title = http.StatusText(f.Status)
	}
	f.Type, f.Details = "/std-errors", f.Detail
	for _, p := range f.InvalidParameters {
		f.Causes = append(f.Causes, cause{p.Field, p.Reason})
	}
	header := c.Response().Header()
	switch f.Status {
	case http.StatusInternalServerError:
		f.Instance = incident(c)
		f.Detail = "Internal Server Error"
		f.Details = f.Detail
		s.cfg.Log.Error("request failed", "method", c.Request().Method, "route", c.Path(), "instance", f.Instance, "err", err)
	case http.StatusServiceUnavailable:
		header.Set(echo.HeaderRetryAfter, strconv.Itoa(retryAfterSeconds))
	case http.StatusUnauthorized:
		header.Set(echo.HeaderWWWAuthenticate, "Bearer")
	case statusClientGone:
		c.Response().WriteHeader(f.Status)
		return
	}
	if err := c.JSON(f.Status, &f); err != nil {
		s.cfg.Log.Debug("answer could not be written", "err", err)
	}
}

const retryAfterSeconds = 2

// incident is the id under which logs and the client know this request.
func incident(c echo.Context) string {
	if id := c.Response().Header().Get(echo.HeaderXRequestID); id != "" {
		return id
	}
	id := newRequestID()
	c.Response().Header().Set(echo.HeaderXRequestID, id)
	return id
}

func newRequestID() string {
	var b [8]byte
	rand.Read(b[:]) //nolint:errcheck // it never fails and ends the process if the system has no randomness
	return hex.EncodeToString(b[:])
}

// recover turns a panic into a 500 and keeps the process.
func (s *Server) recover(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) (err error) {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if p == http.ErrAbortHandler { //nolint:errorlint // the value itself is the signal
				panic(p)
			}
			s.metrics.panics.Inc()
			s.cfg.Log.Error("request panicked; this is our bug", "method", c.Request().Method, "route", c.Path(),
				"instance", incident(c), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", p)
		}()
		return next(c)
	}
}
