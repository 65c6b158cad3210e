package httproute_test

import (
	"testing"

	"github.com/causeway-mesh/causeway/api/policies/httproute"
	"github.com/causeway-mesh/causeway/api/policies/policytest"
)

func TestFiles(t *testing.T) { policytest.Files(t, httproute.Policy) }
