package tcproute_test

import (
	"testing"

	"github.com/causeway-mesh/causeway/api/policies/policytest"
	"github.com/causeway-mesh/causeway/api/policies/tcproute"
)

func TestFiles(t *testing.T) { policytest.Files(t, tcproute.Policy) }
