package envoy

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// parentVariable makes the test binary play the agent: it starts what the variable names and waits.
const parentVariable = "CAUSEWAY_TEST_PARENT_OF"

func TestMain(m *testing.M) {
	if binary := os.Getenv(parentVariable); binary != "" {
		playParent(binary)
	}
	os.Exit(m.Run())
}

func playParent(binary string) {
	dir, err := os.MkdirTemp("", "parent-")
	if err != nil {
		os.Exit(1)
	}
	p, err := Start(context.Background(), Config{Binary: binary, Dir: dir})
	if err != nil {
		os.Stderr.WriteString(err.Error())
		os.Exit(1)
	}
	os.Stdout.WriteString(strconv.Itoa(p.PID()) + " " + dir + "\n")
	p.Wait() //nolint:errcheck // killed before
	os.Exit(0)
}

// An agent that is killed leaves no Envoy behind, and its directory is free again.
func TestEnvoyDiesWithItsParent(t *testing.T) {
	binary := shellEnvoy(t, "exec sleep 60\n")
	parent := exec.Command(os.Args[0], "-test.run=^$")
	parent.Env = append(os.Environ(), parentVariable+"="+binary)
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pidText, dir, _ := strings.Cut(strings.TrimSpace(line), " ")
	t.Cleanup(func() { os.RemoveAll(dir) })
	pid, err := strconv.Atoi(pidText)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Start(t.Context(), Config{Binary: binary, Dir: dir})
	wantError(t, err, "another Envoy still runs")

	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	parent.Wait() //nolint:errcheck // it was killed
	eventually(t, "the orphan is gone", func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) || zombie(pid) })
	p, err := Start(t.Context(), Config{Binary: binary, Dir: dir})
	if err != nil {
		t.Fatalf("start in the freed directory: %v", err)
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// zombie says that a process has ended and nobody has asked how.
func zombie(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || strings.Contains(string(stat), ") Z ")
}
