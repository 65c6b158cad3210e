package metric_test

import (
	"testing"

	"github.com/causeway-mesh/causeway/api/policies/metric"
	"github.com/causeway-mesh/causeway/api/policies/policytest"
)

func TestFiles(t *testing.T) { policytest.Files(t, metric.Policy) }
