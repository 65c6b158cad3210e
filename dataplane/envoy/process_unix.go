//go:build unix && !linux

package envoy

import "syscall"

// childAttributes keeps a terminal's interrupt from reaching Envoy, so that its end is ordered by Stop alone.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
