//go:build race

package envoy_test

// slowness is by how much the race detector slows computing down, roughly.
const slowness = 8
