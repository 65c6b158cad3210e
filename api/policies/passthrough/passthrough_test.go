package passthrough_test

import (
	"testing"

	"github.com/causeway-mesh/causeway/api/policies/passthrough"
	"github.com/causeway-mesh/causeway/api/policies/policytest"
)

func TestFiles(t *testing.T) { policytest.Files(t, passthrough.Policy) }
