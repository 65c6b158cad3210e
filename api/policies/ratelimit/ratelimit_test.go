package ratelimit_test

import (
	"testing"

	"github.com/causeway-mesh/causeway/api/policies/ratelimit"
	"github.com/causeway-mesh/causeway/api/policies/policytest"
)

func TestFiles(t *testing.T) { policytest.Files(t, ratelimit.Policy) }
