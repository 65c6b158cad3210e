package faults_test

import (
	"os/exec"
	"syscall"
)

// dieWithTest asks the kernel to end a process when the test dies, however it does.
func dieWithTest(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
