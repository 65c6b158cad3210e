package tcproute_test

import (
	"testing"

	"github.com/causeway-mesh/causeway/api/policies/tcproute"
	"github.com/causeway-mesh/causeway/api/policies/policytest"
)

func TestFiles(t *testing.T) { policytest.Files(t, tcproute.Policy) }
