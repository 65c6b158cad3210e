package rest

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/store"
)

// etag is the entity tag of a version of a resource: uid and version, and what tells statuses apart, which If-Match ignores.
func etag(uid string, version uint64, status []byte) string {
	tag := shortUID(uid) + "." + strconv.FormatUint(version, 10)
	if len(status) > 0 {
		tag += "." + digest(status)
	}
	return strconv.Quote(tag)
}

func shortUID(uid string) string { return uid[:min(8, len(uid))] }

// A precondition is what a writer says about the resource it replaces or deletes.
type precondition struct {
	given  bool
	absent bool   // If-None-Match: *
	exists bool   // If-Match: *
	uid    string // If-Match with a tag
	at     int64
}

func preconditionOf(h http.Header) (precondition, error) {
	match, noneMatch := h.Get("If-Match"), h.Get("If-None-Match")
	switch {
	case match != "" && noneMatch != "":
		return precondition{}, fail(http.StatusBadRequest, "Could not process a resource", "send If-Match or If-None-Match, not both")
	case noneMatch == "*":
		return precondition{given: true, absent: true}, nil
	case noneMatch != "":
		return precondition{}, fail(http.StatusBadRequest, "Could not process a resource", "If-None-Match must be * in a write")
	case match == "*":
		return precondition{given: true, exists: true}, nil
	case match == "":
		return precondition{}, nil
	}
	uid, version, ok := parseTag(match)
	if !ok {
		return precondition{}, fail(http.StatusBadRequest, "Could not process a resource", "If-Match must be * or one ETag as this API sent it")
	}
	return precondition{given: true, uid: uid, at: version}, nil
}

func parseTag(tag string) (uid string, version int64, ok bool) {
	tag = strings.Trim(strings.TrimPrefix(strings.TrimSpace(tag), "W/"), `"`)
	parts := strings.Split(tag, ".")
	if len(parts) < 2 || len(parts) > 3 {
		return "", 0, false
	}
	version, err := strconv.ParseInt(parts[1], 10, 64)
	return parts[0], version, err == nil && version > 0
}

// expect says what the store should find, and refuses what is known to fail already. The store has the last word on versions,
// because it also knows whether this very request was done before.
func (p precondition) expect(old *resource.Resource) (int64, error) {
	switch {
	case p.absent:
		return store.ExpectAbsent, nil
	case p.exists && old == nil:
		return 0, preconditionFailed("it does not exist")
	case p.uid != "" && old != nil && shortUID(old.UID) != p.uid:
		return 0, preconditionFailed("it was deleted and created again")
	case p.uid != "":
		return p.at, nil
	default:
		return store.ExpectAny, nil
	}
}

func preconditionFailed(why string) error {
	return fail(http.StatusPreconditionFailed, "Precondition failed", "%s; read it again and repeat the change", why)
}
