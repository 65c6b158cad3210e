package relay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"
)

// sameUser accepts only connections of processes that run as this user.
type sameUser struct{}

// ServerHandshake asks the kernel who connected.
func (sameUser) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, nil, errors.New("not a Unix socket")
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil, nil, fmt.Errorf("ask who connected: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return nil, nil, fmt.Errorf("ask who connected: %w", err)
	}
	if credErr != nil {
		return nil, nil, fmt.Errorf("ask who connected: %w", credErr)
	}
	if int(cred.Uid) != os.Geteuid() {
		return nil, nil, fmt.Errorf("user %d may not connect, only user %d", cred.Uid, os.Geteuid())
	}
	return c, userInfo{}, nil
}

type userInfo struct{}

func (userInfo) AuthType() string { return "same-user" }

// ClientHandshake is not for this side.
func (sameUser) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("same-user credentials are for servers")
}

// Info names the protocol.
func (sameUser) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "same-user"}
}

// Clone returns the same: there is no state.
func (s sameUser) Clone() credentials.TransportCredentials { return s }

// OverrideServerName does nothing: there are no names.
func (sameUser) OverrideServerName(string) error { return nil }

func ownedByUs(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}
