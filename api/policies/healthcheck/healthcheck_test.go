package healthcheck_test

import (
	"testing"

	"github.com/causeway-mesh/causeway/api/policies/healthcheck"
	"github.com/causeway-mesh/causeway/api/policies/policytest"
)

func TestFiles(t *testing.T) { policytest.Files(t, healthcheck.Policy) }
