package accesslog_test

import (
	"testing"

	"github.com/causeway-mesh/causeway/api/policies/accesslog"
	"github.com/causeway-mesh/causeway/api/policies/policytest"
)

func TestFiles(t *testing.T) { policytest.Files(t, accesslog.Policy) }
