package metrics

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// A family is all samples of one metric as text: whole lines without comments.
type family struct {
	name, typ string
	samples   []byte
}

// Bounds on what is read of a family and in a line. Envoy's largest families have a histogram for each of its clusters.
const (
	maxFamily = 32 << 20
	maxLine   = 64 << 10
)

// errTooLarge is a family or line beyond the bounds.
var errTooLarge = errors.New("it is too large")

// eachFamily reads what Envoy tells, one family after the other, so that only one is in memory. Those that are not kept cost no
// more than reading over them. It trusts Envoy that the samples of a family stand together, below the line that gives its type.
func eachFamily(r io.Reader, keep func(name string) bool, emit func(family) error) error {
	in := bufio.NewReaderSize(r, maxLine)
	var f family
	kept := false
	flush := func() error {
		if !kept || len(f.samples) == 0 {
			return nil
		}
		return emit(f)
	}
	for {
		line, err := in.ReadSlice('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			if errors.Is(err, bufio.ErrBufferFull) {
				err = errTooLarge
			}
			return fmt.Errorf("read a line of %s: %w", f.name, err)
		}
		if name, typ, ok := typeLine(line); ok {
			if err := flush(); err != nil {
				return err
			}
			f = family{name: name, typ: typ, samples: f.samples[:0]}
			kept = keep(name)
		} else if kept && len(line) > 1 && line[0] != '#' {
			if len(f.samples)+len(line) > maxFamily {
				return fmt.Errorf("read %s: %w", f.name, errTooLarge)
			}
			f.samples = append(f.samples, line...)
		}
		if err != nil {
			if n := len(f.samples); n > 0 && f.samples[n-1] != '\n' {
				f.samples = append(f.samples, '\n')
			}
			return flush()
		}
	}
}

// typeLine reads "# TYPE name type".
func typeLine(line []byte) (name, typ string, ok bool) {
	rest, ok := bytes.CutPrefix(line, []byte("# TYPE "))
	if !ok {
		return "", "", false
	}
	n, t, ok := bytes.Cut(bytes.TrimSpace(rest), []byte(" "))
	return string(n), string(t), ok
}

// isInternal says that a sample is about Envoy's own errands: clusters and listeners that serve the mesh and no workload.
func isInternal(sample []byte) bool { return bytes.Contains(sample, []byte(`="system_`)) }

// labelText renders labels as they stand in a sample, sorted, each followed by a comma.
func labelText(labels map[string]string) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		fmt.Fprintf(&b, "%s=\"%s\",", k, labelEscapes.Replace(labels[k]))
	}
	return b.String()
}

var labelEscapes = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)

// appendLabelled appends the samples of a family with more labels, without those of internals unless they are wanted.
func appendLabelled(to []byte, f family, labels string, internals bool) []byte {
	for line := range bytes.Lines(f.samples) {
		if !internals && isInternal(line) {
			continue
		}
		open := bytes.IndexAny(line, "{ ")
		switch {
		case open < 0:
			continue
		case line[open] == '{':
			to = append(append(append(to, line[:open+1]...), labels...), line[open+1:]...)
		default:
			to = append(append(append(append(to, line[:open]...), '{'), labels...), '}')
			to = append(to, line[open:]...)
		}
	}
	return to
}

// parse reads the text of a family that Envoy told.
func parse(f family) (*dto.MetricFamily, error) {
	p := expfmt.NewTextParser(model.LegacyValidation)
	text := io.MultiReader(strings.NewReader("# TYPE "+f.name+" "+f.typ+"\n"), bytes.NewReader(f.samples))
	all, err := p.TextToMetricFamilies(text)
	if err != nil {
		return nil, fmt.Errorf("parse %s: %w", f.name, err)
	}
	return all[f.name], nil
}
