//go:build !race

package xds_test

// crowd is how many proxies with TLS fit into a test.
const crowd = 1000
