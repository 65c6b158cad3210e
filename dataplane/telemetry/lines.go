package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	logsv1 "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/dataplane/otlp"
)

const (
	dialTimeout  = 5 * time.Second
	writeTimeout = 10 * time.Second
	// maxLine bounds one line; the rest of a longer one is left out.
	maxLine = 64 << 10
	// maxDepth bounds how deep a value of a record may be nested.
	maxDepth = 16
)

// lines sends log records as lines over one TCP connection, which it opens again when it ends.
type lines struct {
	address string
	conn    net.Conn
	gone    chan struct{} // closed when the collector ended the connection
}

// send writes the lines of a request. When a connection breaks, lines that were written to it whole are not sent again.
func (l *lines) send(ctx context.Context, request []byte) error {
	text, err := render(request)
	if err != nil {
		return otlp.Refuse(err)
	}
	for tries := 0; ; tries++ {
		fresh, err := l.connect(ctx)
		if err != nil {
			return err
		}
		if err := l.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
			l.close()
			return err
		}
		n, err := l.conn.Write(text)
		if err == nil {
			return nil
		}
		l.close()
		text = text[bytes.LastIndexByte(text[:n], '\n')+1:]
		if fresh || tries > 0 {
			return fmt.Errorf("write to %s: %w", l.address, err)
		}
	}
}

// connect makes sure that there is a connection which the collector has not ended; fresh says that it is new.
func (l *lines) connect(ctx context.Context) (fresh bool, err error) {
	if l.conn != nil {
		select {
		case <-l.gone:
			l.close()
		default:
			return false, nil
		}
	}
	d := net.Dialer{Timeout: dialTimeout}
	c, err := d.DialContext(ctx, "tcp", l.address)
	if err != nil {
		return false, fmt.Errorf("connect to a TCP collector: %w", err)
	}
	l.conn, l.gone = c, make(chan struct{})
	go func(gone chan struct{}) {
		_, _ = io.Copy(io.Discard, c) // ends with the connection
		close(gone)
	}(l.gone)
	return true, nil
}

func (l *lines) close() {
	if l.conn != nil {
		_ = l.conn.Close() // what was written is on its way
		<-l.gone
		l.conn = nil
	}
}

// render makes one line of each log record.
func render(request []byte) ([]byte, error) {
	var data logsv1.LogsData // encoded like a request
	if err := proto.Unmarshal(request, &data); err != nil {
		return nil, fmt.Errorf("decode log records: %w", err)
	}
	var out bytes.Buffer
	for _, r := range data.GetResourceLogs() {
		for _, s := range r.GetScopeLogs() {
			for _, record := range s.GetLogRecords() {
				line := renderLine(record.GetBody())
				out.WriteString(line[:min(len(line), maxLine)])
				out.WriteByte('\n')
			}
		}
	}
	return out.Bytes(), nil
}

func renderLine(v *commonv1.AnyValue) string {
	text, _ := renderText(v, maxDepth)
	return oneLine.Replace(text)
}

// oneLine keeps an entry from looking like several.
var oneLine = strings.NewReplacer("\n", `\n`, "\r", `\r`)

// renderText is a value as text; empty says that it consists of pieces and all of them are absent.
func renderText(v *commonv1.AnyValue, depth int) (text string, empty bool) {
	if depth == 0 {
		return "", true
	}
	switch x := v.GetValue().(type) {
	case *commonv1.AnyValue_StringValue:
		return x.StringValue, false
	case *commonv1.AnyValue_ArrayValue:
		return renderPieces(x.ArrayValue.GetValues(), depth)
	case *commonv1.AnyValue_KvlistValue:
		return renderObject(x.KvlistValue.GetValues(), depth), false
	case *commonv1.AnyValue_IntValue:
		return strconv.FormatInt(x.IntValue, 10), false
	case *commonv1.AnyValue_DoubleValue:
		return strconv.FormatFloat(x.DoubleValue, 'g', -1, 64), false
	case *commonv1.AnyValue_BoolValue:
		return strconv.FormatBool(x.BoolValue), false
	}
	return "", true
}

// renderPieces joins pieces of text. Envoy writes "-" for what is absent; such a piece is left out, unless it is in a list of its own.
func renderPieces(pieces []*commonv1.AnyValue, depth int) (text string, empty bool) {
	var b strings.Builder
	for _, p := range pieces {
		if list := p.GetArrayValue(); list != nil {
			for _, e := range list.GetValues() {
				b.WriteString(e.GetStringValue())
			}
			continue
		}
		if s, _ := renderText(p, depth-1); s != "-" {
			b.WriteString(s)
		}
	}
	return b.String(), b.Len() == 0
}

// renderObject is a JSON object with its fields in the order they have, without those that are empty.
func renderObject(fields []*commonv1.KeyValue, depth int) string {
	var b bytes.Buffer
	b.WriteByte('{')
	for _, f := range fields {
		text, empty := renderText(f.GetValue(), depth-1)
		if empty {
			continue
		}
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		b.Write(quoted(f.GetKey()))
		b.WriteByte(':')
		if f.GetValue().GetKvlistValue() != nil {
			b.WriteString(text)
			continue
		}
		b.Write(quoted(text))
	}
	b.WriteByte('}')
	return b.String()
}

// quoted is a JSON string in which only what must be is escaped.
func quoted(s string) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if e.Encode(s) != nil {
		return []byte(`""`)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'})
}
