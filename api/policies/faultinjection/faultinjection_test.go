package faultinjection_test

import (
	"testing"

	"github.com/causeway-mesh/causeway/api/policies/faultinjection"
	"github.com/causeway-mesh/causeway/api/policies/policytest"
)

func TestFiles(t *testing.T) { policytest.Files(t, faultinjection.Policy) }
