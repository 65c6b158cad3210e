package circuitbreaker_test

import (
	"testing"

	"github.com/causeway-mesh/causeway/api/policies/circuitbreaker"
	"github.com/causeway-mesh/causeway/api/policies/policytest"
)

func TestFiles(t *testing.T) { policytest.Files(t, circuitbreaker.Policy) }
