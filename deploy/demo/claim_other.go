//go:build !unix

package demo

import (
	"errors"
	"io/fs"
	"os"
)

func claimDir(string) (*os.File, error) {
	return nil, errors.New("the demo runs on Unix only")
}

func mine(fs.FileInfo) bool { return false }
