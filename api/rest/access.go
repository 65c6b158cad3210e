package rest

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/token"
)

// Names that the control plane itself gives meaning to. Only administrators can issue tokens with names of this prefix.
const (
	AdminUser          = "mesh-system:admin"
	AdminGroup         = "mesh-system:admin"
	AnonymousUser      = "mesh-system:anonymous"
	UnauthenticatedAll = "mesh-system:unauthenticated"
	AuthenticatedAll   = "mesh-system:authenticated"
	reservedPrefix     = "mesh-system:"
)

// A Permission is one thing that somebody may do.
type Permission string

// The permissions. What can mint a credential is apart from all others.
const (
	ReadResources          Permission = "readResources"          // every kind that is not for administrators only
	WriteResources         Permission = "writeResources"         // create, change and delete these
	PatchProxies           Permission = "patchProxies"           // write MeshProxyPatch: what a proxy can read and reach, its author can
	AdminResources         Permission = "adminResources"         // read and write secrets
	GenerateUserToken      Permission = "generateUserToken"      // become anybody but an administrator
	GenerateDataplaneToken Permission = "generateDataplaneToken" // admit proxies
	GenerateZoneToken      Permission = "generateZoneToken"      // admit zones
	ConnectZone            Permission = "connectZone"            // let zones join with single-use tokens, and shut them out
	ReadConfig             Permission = "readConfig"             // see the settings of the control plane
	ViewConfigDump         Permission = "viewConfigDump"         // see the whole configuration that an Envoy has
	ViewStats              Permission = "viewStats"              // see what an Envoy counts
	ViewClusters           Permission = "viewClusters"           // see the endpoints that an Envoy knows, and how they are
)

// Subjects are users and groups.
type Subjects struct {
	Users  []string
	Groups []string
}

// Access is who has which permission. Administrators have all of them without being listed;
// whoever sends no token never has one that writes or mints, whatever is listed.
type Access map[Permission]Subjects

// DefaultAccess lets everybody with a token read what is not secret, and administrators do the rest.
func DefaultAccess() Access {
	return Access{ReadResources: {Groups: []string{AuthenticatedAll}}}
}

// A caller is who makes a request.
type caller struct {
	token.User
	anonymous bool
}

func (u caller) isAdmin() bool {
	return !u.anonymous && (u.Name == AdminUser || slices.Contains(u.Groups, AdminGroup))
}

func (a Access) allows(u caller, p Permission) bool {
	if u.isAdmin() {
		return true
	}
	if u.anonymous && p != ReadResources && p != ReadConfig {
		return false
	}
	s := a[p]
	return slices.Contains(s.Users, u.Name) || slices.ContainsFunc(u.Groups, func(g string) bool { return slices.Contains(s.Groups, g) })
}

const callerKey = "caller"

// authenticate finds out who the caller is. A token that is sent must be good, also where none is needed, except for the index.
func (s *Server) authenticate(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		if c.Path() == "/" {
			return next(c)
		}
		u, err := s.caller(c.Request())
		if err != nil {
			return err
		}
		c.Set(callerKey, u)
		return next(c)
	}
}

func (s *Server) caller(r *http.Request) (caller, error) {
	headers := r.Header.Values(echo.HeaderAuthorization)
	if len(headers) == 0 {
		return caller{User: token.User{Name: AnonymousUser, Groups: []string{UnauthenticatedAll}}, anonymous: true}, nil
	}
	scheme, value, _ := strings.Cut(headers[0], " ")
	if len(headers) > 1 || !strings.EqualFold(scheme, "Bearer") {
		return caller{}, fail(http.StatusUnauthorized, "Invalid authentication data", "send one header of the form Authorization: Bearer <token>")
	}
	u, _, err := s.validator.User(strings.TrimSpace(value))
	if err != nil {
		detail := "token is not valid"
		if errors.Is(err, token.ErrNotValid) {
			detail = err.Error()
		}
		return caller{}, fail(http.StatusUnauthorized, "Invalid authentication data", "%s", detail)
	}
	u.Groups = append(slices.Clone(u.Groups), AuthenticatedAll)
	return caller{User: u}, nil
}

func who(c echo.Context) caller {
	u, ok := c.Get(callerKey).(caller)
	if !ok {
		return caller{anonymous: true}
	}
	return u
}

// require refuses a caller who lacks a permission.
func (s *Server) require(c echo.Context, p Permission) error {
	u := who(c)
	if s.cfg.Access.allows(u, p) {
		return nil
	}
	return denied(u, p)
}

func denied(u caller, p Permission) error {
	if u.anonymous {
		return fail(http.StatusForbidden, "Access Denied", "a token is needed for this: send Authorization: Bearer <token>")
	}
	return fail(http.StatusForbidden, "Access Denied", "user %s has no permission %s", resource.Quote(u.Name), p)
}

func readPermission(k resource.Kind) Permission {
	if k.AdminOnly {
		return AdminResources
	}
	return ReadResources
}

func writePermission(k resource.Kind) Permission {
	if k.AdminOnly {
		return AdminResources
	}
	if k.Raw {
		return PatchProxies
	}
	return WriteResources
}
