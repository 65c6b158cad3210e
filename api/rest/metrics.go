package rest

import (
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	panics   prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "causeway_rest_requests_total", Help: "Requests answered, by route and code.",
		}, []string{"method", "route", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "causeway_rest_request_seconds", Help: "Time to answer a request, by route.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15),
		}, []string{"method", "route"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "causeway_rest_panics_total", Help: "Requests that panicked; each is a bug.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.requests, m.seconds, m.panics)
	}
	return m
}

// observe counts and times a request. It is outermost, so it writes the error itself to know the code.
func (s *Server) observe(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		start := time.Now()
		c.Response().Header().Set(echo.HeaderXRequestID, newRequestID())
		c.Response().Header().Set(echo.HeaderXContentTypeOptions, "nosniff")
		if err := next(c); err != nil {
			s.answerError(err, c)
		}
		route := c.Path()
		if route == "" || c.Response().Status == http.StatusNotFound && route == c.Request().URL.Path {
			route = "unknown" // a route that does not exist must not become a series
		}
		method := c.Request().Method
		if !knownMethod(method) {
			method = "other"
		}
		s.metrics.requests.WithLabelValues(method, route, strconv.Itoa(c.Response().Status)).Inc()
		s.metrics.seconds.WithLabelValues(method, route).Observe(time.Since(start).Seconds())
		return nil
	}
}

func knownMethod(m string) bool {
	switch m {
	case http.MethodGet, http.MethodPut, http.MethodPost, http.MethodDelete, http.MethodHead, http.MethodOptions, http.MethodPatch:
		return true
	}
	return false
}
