//go:build unix

package embedded

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/causeway-mesh/causeway/store"
)

// lock claims the store for this process until the file is closed. The operating system ends the claim with the process,
// so the text in the file, which names the holder, counts only while the claim stands.
func lock(path, holder string) (*os.File, error) {
	f, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("claim the store: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		text, _ := io.ReadAll(io.LimitReader(f, 256))
		f.Close()
		who := strings.TrimSpace(string(text))
		if who == "" {
			who = "an unnamed process"
		}
		return nil, fmt.Errorf("%s is held by %s; stop it or use another file: %w", path, who, store.ErrLocked)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	if err := sign(f, holder); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func sign(f *os.File, holder string) error {
	if err := f.Truncate(0); err != nil {
		return fmt.Errorf("sign %s: %w", f.Name(), err)
	}
	if _, err := fmt.Fprintf(f, "pid %d (%s)\n", os.Getpid(), holder); err != nil {
		return fmt.Errorf("sign %s: %w", f.Name(), err)
	}
	return nil
}
