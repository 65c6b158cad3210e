package netns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inside says that a process runs on the router of a network.
const inside = "CAUSEWAY_TEST_NETNS"

// Enter runs the test once more, alone in a process with a network of its own, and gives that network there. Here it gives nil, once
// that process has ended and its result has become that of this test. Without the rights for it the test is skipped; in CI it fails.
func Enter(t *testing.T) *Network {
	t.Helper()
	if os.Getenv(inside) == t.Name() {
		return enter(t)
	}
	if _, err := exec.LookPath("ip"); err != nil {
		lacking(t, "network namespaces need the program ip; install iproute2")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), inside+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Start()
	switch {
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EINVAL):
		lacking(t, "no rights for network namespaces: "+err.Error())
	case err != nil:
		t.Fatalf("enter a network: %v", err)
	}
	err = cmd.Wait()
	if t.Log(out.String()); err != nil {
		t.Errorf("in the network: %v", err)
	}
	if strings.Contains(out.String(), "--- SKIP: "+t.Name()) {
		t.Skip("skipped in the network")
	}
	return nil
}

func lacking(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

func enter(t *testing.T) *Network {
	t.Helper()
	home, err := present()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(home.close)
	n := &Network{t: t, home: home, subnets: map[byte]bool{}}
	_, err = os.Stat("/proc/sys/net/ipv6")
	n.ipv6 = err == nil
	n.ip(t, "link set lo up")
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
		t.Fatalf("let the router forward: %v", err)
	}
	if n.ipv6 {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0o644); err != nil {
			t.Fatalf("let the router forward: %v", err)
		}
	}
	return n
}

// A namespace is held by an open file, not by a name.
type namespace struct{ file *os.File }

// present is the namespace of this thread.
func present() (*namespace, error) {
	f, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
	if err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	return &namespace{f}, nil
}

func newNamespace() (out *namespace, err error) {
	err = elsewhere(func() error { return unix.Unshare(unix.CLONE_NEWNET) }, func() error {
		out, err = present()
		return err
	})
	return out, err
}

func (s *namespace) close() { _ = s.file.Close() }

// path names the namespace for programs.
func (s *namespace) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), s.file.Fd()) }

// do does something in the namespace: sockets and processes that it makes belong there for good.
func (s *namespace) do(f func() error) error {
	return elsewhere(func() error { return unix.Setns(int(s.file.Fd()), unix.CLONE_NEWNET) }, f)
}

// elsewhere moves a thread to another namespace, does something there and brings it back.
func elsewhere(move, do func() error) error {
	runtime.LockOSThread()
	home, err := present()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.close()
	if err := move(); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("network namespace: %w", err)
	}
	err = do()
	if back := unix.Setns(int(home.file.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, fmt.Errorf("leave a network namespace: %w", back)) // the thread stays locked and ends with its goroutine
	}
	runtime.UnlockOSThread()
	return err
}

// dieWithTest lets a process die when the test does, however that ends.
func dieWithTest(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
}
