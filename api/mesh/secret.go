package mesh

import "github.com/causeway-mesh/causeway/api/resource"

// Secret is sensitive data of a mesh. Only administrators see it, and it is sealed at rest.
type Secret struct {
	// Data in base64. Required.
	Data SecretBytes `json:"data"`
}

// GlobalSecret is sensitive data of the control planes. Only administrators see it, and it is sealed at rest.
type GlobalSecret struct {
	// Data in base64. Required.
	Data SecretBytes `json:"data"`
}

// Secrets written in a zone stay there: AdminOnly kinds never flow from a zone to global.
var secretKind = resource.Kind{
	Name: TypeSecret, Path: "secrets", Short: "s", Singular: "Secret", Plural: "Secrets",
	Scope: resource.ScopeMesh, Flow: resource.FromGlobal | resource.FromZone, Inline: true, AdminOnly: true,
	New: func() any { return new(Secret) }, Validate: validateSecret, Requires: requires,
}

var globalSecretKind = resource.Kind{
	Name: TypeGlobalSecret, Path: "globalsecrets", Short: "gs", Singular: "Global Secret", Plural: "Global Secrets",
	Scope: resource.ScopeGlobal, Flow: resource.FromGlobal | resource.FromZone, Inline: true, AdminOnly: true,
	New: func() any { return new(GlobalSecret) }, Validate: validateGlobalSecret, Requires: requires,
}

func validateSecret(r resource.Resource) resource.Problems {
	return checkSecretData(r.Spec.(*Secret).Data)
}

func validateGlobalSecret(r resource.Resource) resource.Problems {
	return checkSecretData(r.Spec.(*GlobalSecret).Data)
}

func checkSecretData(data SecretBytes) resource.Problems {
	var ps resource.Problems
	if len(data) == 0 {
		ps.Add("data", "must be set, in base64")
	}
	return ps
}
