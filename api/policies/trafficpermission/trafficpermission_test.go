package trafficpermission_test

import (
	"testing"

	"github.com/causeway-mesh/causeway/api/policies/policytest"
	"github.com/causeway-mesh/causeway/api/policies/trafficpermission"
)

func TestFiles(t *testing.T) { policytest.Files(t, trafficpermission.Policy) }
