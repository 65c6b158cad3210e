package envoy_test

import (
	"testing"

	"github.com/causeway-mesh/causeway/test/golden"
)

func TestGolden(t *testing.T) { golden.Run(t, "testdata") }
