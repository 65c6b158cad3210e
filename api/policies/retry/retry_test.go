package retry_test

import (
	"testing"

	"github.com/causeway-mesh/causeway/api/policies/retry"
	"github.com/causeway-mesh/causeway/api/policies/policytest"
)

func TestFiles(t *testing.T) { policytest.Files(t, retry.Policy) }
