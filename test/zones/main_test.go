// Package zones tests a global control plane with its zones as a whole: what travels, what survives which fault, and how traffic
// moves between zones. It holds no tests of single parts.
package zones

import (
	"testing"

	"github.com/causeway-mesh/causeway/test/testmesh"
)

func TestMain(m *testing.M) { testmesh.Main(m) }
