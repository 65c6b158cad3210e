//go:build race

package xds_test

// crowd is how many proxies with TLS fit into a test: with the race detector handshakes cost many times as much.
const crowd = 300
