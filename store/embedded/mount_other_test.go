//go:build unix && !linux

package embedded

import "errors"

func mount(string) error { return errors.New("only tried on Linux") }

func unmount(string) error { return nil }
