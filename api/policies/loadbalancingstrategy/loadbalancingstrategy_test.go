package loadbalancingstrategy_test

import (
	"testing"

	"github.com/causeway-mesh/causeway/api/policies/loadbalancingstrategy"
	"github.com/causeway-mesh/causeway/api/policies/policytest"
)

func TestFiles(t *testing.T) { policytest.Files(t, loadbalancingstrategy.Policy) }
