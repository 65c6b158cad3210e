package demo

import (
	"os/exec"
	"syscall"
)

// dieWithParent ends the child when the demo itself is killed, and keeps a terminal's Ctrl-C from reaching it directly.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
}
