//go:build !linux

package transparentproxy

import (
	"context"
	"errors"
)

// Verify needs Linux, as everything of this package does.
func Verify(context.Context, Config) ([]string, error) {
	return nil, errors.New("traffic can be redirected on Linux only")
}
