//go:build !race

package load_test

// crowd is how many whole agents fit into a test.
const crowd = 1000
