package trafficpermission_test

import (
	"testing"

	"github.com/causeway-mesh/causeway/api/policies/trafficpermission"
	"github.com/causeway-mesh/causeway/api/policies/policytest"
)

func TestFiles(t *testing.T) { policytest.Files(t, trafficpermission.Policy) }
