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
	New: func() any { return new(Secret) },
}

var globalSecretKind = resource.Kind{
	Name: TypeGlobalSecret, Path: "globalsecrets", Short: "gs", Singular: "Global Secret", Plural: "Global Secrets",
	Scope: resource.ScopeGlobal, Flow: resource.FromGlobal | resource.FromZone, Inline: true, AdminOnly: true,
	New: func() any { return new(GlobalSecret) },
}
