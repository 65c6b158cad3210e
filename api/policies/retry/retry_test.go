package retry_test

import (
	"testing"

	"github.com/causeway-mesh/causeway/api/policies/policytest"
	"github.com/causeway-mesh/causeway/api/policies/retry"
)

func TestFiles(t *testing.T) { policytest.Files(t, retry.Policy) }
