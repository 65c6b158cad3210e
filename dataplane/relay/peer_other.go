//go:build !linux

package relay

import (
	"context"
	"errors"
	"io/fs"
	"net"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// sameUser leaves it to the modes of socket and directory who may connect.
type sameUser struct{}

// ServerHandshake accepts whoever could open the socket.
func (sameUser) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return insecure.NewCredentials().ServerHandshake(c)
}

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

func ownedByUs(fs.FileInfo) bool { return true }
