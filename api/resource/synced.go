package resource

import (
	"encoding/hex"
	"hash/fnv"
)

const (
	maxSynced = 253
	// safeLetters spell no words; the Kubernetes ecosystem encodes hashes with them.
	safeLetters = "bcdfghjklmnpqrstvwxz2456789"
)

// SyncedName is the name under which another control plane than the owner's stores a resource: the name its owner gave, cut to fit,
// and a hash of mesh, name, zone and namespace, as the Kuma 3 API has it. Different owners may get the same name in theory,
// so whoever stores under it must look whose the object there is.
func SyncedName(mesh, name, zone, namespace string) string {
	h := fnv.New64a()
	for _, s := range []string{mesh, name, zone, namespace} {
		h.Write([]byte(s))
	}
	suffix := []byte(hex.EncodeToString(h.Sum(nil)))
	for i, b := range suffix {
		suffix[i] = safeLetters[int(b)%len(safeLetters)]
	}
	if most := maxSynced - 1 - len(suffix); len(name) > most {
		name = name[:most]
	}
	return name + "-" + string(suffix)
}
