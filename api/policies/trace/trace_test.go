package trace_test

import (
	"testing"

	"github.com/causeway-mesh/causeway/api/policies/policytest"
	"github.com/causeway-mesh/causeway/api/policies/trace"
)

func TestFiles(t *testing.T) { policytest.Files(t, trace.Policy) }
