package agent

import (
	"context"
	"fmt"
	"io"
	"strings"

	"google.golang.org/grpc"

	"github.com/causeway-mesh/causeway/api/inquiry"
	"github.com/causeway-mesh/causeway/api/resource"
)

// maxQuestions is how many questions Envoy is asked at a time: its one main thread answers them.
const maxQuestions = 2

// answerQuestions tells the zone what Envoy says of itself, until it asks no more.
func (l *link) answerQuestions(ctx context.Context, conn *grpc.ClientConn) {
	err := inquiry.Serve(ctx, conn, maxQuestions, l.a.supervisor.admin.answer)
	if ctx.Err() == nil {
		l.a.log.Debug("the zone asks no more about envoy", "err", err)
	}
}

// answer passes on what Envoy says, as it comes. What can be asked is listed here; nothing of the question becomes a path.
func (a *admin) answer(ctx context.Context, q *inquiry.Question, w io.Writer) error {
	path, err := adminPath(q)
	if err != nil {
		return err
	}
	body, err := a.open(ctx, path)
	if err != nil {
		return err
	}
	defer body.Close()
	if _, err := io.Copy(w, body); err != nil {
		return fmt.Errorf("pass on what envoy answers: %w", err)
	}
	return nil
}

// adminPath is what Envoy is asked for. It leaves keys out of its dumps by itself.
func adminPath(q *inquiry.Question) (string, error) {
	var path string
	var with []string
	add := func(parameter string, on bool) {
		if on {
			with = append(with, parameter)
		}
	}
	switch q.GetWhat() {
	case inquiry.WhatDump:
		path = "/config_dump"
		add("include_eds", q.GetEndpoints())
	case inquiry.WhatStats:
		path = "/stats"
		add("usedonly", !q.GetUnused())
		add("format=json", q.GetJson())
	case inquiry.WhatClusters:
		path = "/clusters"
		add("format=json", q.GetJson())
	default:
		return "", inquiry.Failf("this agent does not know what %s is; upgrade it", resource.Quote(q.GetWhat()))
	}
	return path + "?" + strings.Join(with, "&"), nil
}
