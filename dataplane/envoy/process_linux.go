package envoy

import "syscall"

// childAttributes makes Envoy die with its parent and keeps a terminal's interrupt from reaching it,
// so that its end is ordered by Stop alone.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
