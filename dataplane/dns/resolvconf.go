package dns

import (
	"bufio"
	"bytes"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	dnsPort        = 53
	maxResolvConf  = 64 << 10
	maxUpstreams   = 8
	maxSearch      = 32
	defaultTimeout = 2 * time.Second
)

// hostConfig is what a host says of name resolution.
type hostConfig struct {
	servers []netip.AddrPort
	search  []string // lower case, without the dot at the end
	timeout time.Duration
}

// readHostConfig reads a resolv.conf. What it cannot read it skips, as libraries do.
func readHostConfig(path string) (hostConfig, error) {
	f, err := os.Open(path)
	if err != nil {
		return hostConfig{timeout: defaultTimeout}, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxResolvConf))
	return parseHostConfig(text), err
}

func parseHostConfig(text []byte) hostConfig {
	out := hostConfig{timeout: defaultTimeout}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		line := lines.Text()
		if strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			// An IPv6 address may have a zone, such as fe80::1%eth0.
			if a, err := netip.ParseAddr(fields[1]); err == nil && len(out.servers) < maxUpstreams {
				if at := netip.AddrPortFrom(a.Unmap(), dnsPort); !slices.Contains(out.servers, at) {
					out.servers = append(out.servers, at)
				}
			}
		case "domain":
			out.search = searchList(fields[1:2])
		case "search":
			out.search = searchList(fields[1:])
		case "options":
			for _, o := range fields[1:] {
				if s, ok := strings.CutPrefix(o, "timeout:"); ok {
					if n, err := strconv.Atoi(s); err == nil {
						out.timeout = time.Duration(min(max(n, 1), 5)) * time.Second
					}
				}
			}
		}
	}
	return out
}

func searchList(fields []string) []string {
	var out []string
	for _, f := range fields[:min(len(fields), maxSearch)] {
		if name, ok := hostname(f); ok {
			out = append(out, name)
		}
	}
	return out
}

// A hostFile is the configuration of a host, read again when its file is another one. It is looked at when somebody asks
// something, at most once a second.
type hostFile struct {
	path   string
	now    func() time.Time
	looked time.Time
	stamp  stamp
	config hostConfig
	err    error
}

// stamp tells versions of a file apart.
type stamp struct {
	modified time.Time
	size     int64
}

func (f *hostFile) get() (hostConfig, error) {
	now := f.now()
	if !f.looked.IsZero() && now.Sub(f.looked) < time.Second {
		return f.config, f.err
	}
	first := f.looked.IsZero()
	f.looked = now
	var s stamp
	if info, err := os.Stat(f.path); err == nil {
		s = stamp{info.ModTime(), info.Size()}
	}
	if !first && s == f.stamp {
		return f.config, f.err
	}
	f.stamp = s
	f.config, f.err = readHostConfig(f.path)
	return f.config, f.err
}

// HostServers lists the servers that a resolv.conf names.
func HostServers(path string) ([]netip.Addr, error) {
	c, err := readHostConfig(path)
	var out []netip.Addr
	for _, s := range c.servers {
		out = append(out, s.Addr())
	}
	return out, err
}
