package timeout_test

import (
	"testing"

	"github.com/causeway-mesh/causeway/api/policies/timeout"
	"github.com/causeway-mesh/causeway/api/policies/policytest"
)

func TestFiles(t *testing.T) { policytest.Files(t, timeout.Policy) }
