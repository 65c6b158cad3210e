//go:build race

package load_test

// crowd is how many whole agents fit into a test: with the race detector handshakes cost many times as much.
const crowd = 250
