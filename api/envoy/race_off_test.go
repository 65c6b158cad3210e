//go:build !race

package envoy_test

const slowness = 1
