package timeout_test

import (
	"testing"

	"github.com/causeway-mesh/causeway/api/policies/policytest"
	"github.com/causeway-mesh/causeway/api/policies/timeout"
)

func TestFiles(t *testing.T) { policytest.Files(t, timeout.Policy) }
