package ratelimit_test

import (
	"testing"

	"github.com/causeway-mesh/causeway/api/policies/policytest"
	"github.com/causeway-mesh/causeway/api/policies/ratelimit"
)

func TestFiles(t *testing.T) { policytest.Files(t, ratelimit.Policy) }
