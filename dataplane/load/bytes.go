package load

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// BytesPath is what to ask Envoy's administration for the bytes of clusters.
const BytesPath = `/stats?filter=^cluster\.kri_.*\.upstream_cx_(rx|tx)_bytes_total$`

// ReadBytes reads the answer.
func ReadBytes(r io.Reader) (map[string]Bytes, error) {
	out := map[string]Bytes{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), ": ")
		if !ok {
			continue
		}
		name, ok = strings.CutPrefix(name, "cluster.")
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("read the bytes of %s: %w", name, err)
		}
		if cluster, ok := strings.CutSuffix(name, ".upstream_cx_tx_bytes_total"); ok {
			b := out[cluster]
			b.Sent = n
			out[cluster] = b
		}
		if cluster, ok := strings.CutSuffix(name, ".upstream_cx_rx_bytes_total"); ok {
			b := out[cluster]
			b.Received = n
			out[cluster] = b
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the bytes of clusters: %w", err)
	}
	return out, nil
}
