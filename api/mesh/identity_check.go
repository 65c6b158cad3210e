package mesh

import (
	"time"

	"github.com/causeway-mesh/causeway/api/resource"
)

func validateMeshIdentity(r resource.Resource) resource.Problems {
	m := r.Spec.(*MeshIdentity)
	var ps problems
	at := resource.Path("spec")
	if m.Selector != nil {
		ps.selector(at.Field("selector").Field("dataplane"), m.Selector.Dataplane)
	}
	if s := m.SpiffeID; s != nil {
		if s.TrustDomain != "" {
			ps.template(at.Field("spiffeID").Field("trustDomain"), s.TrustDomain, false, trustDomainVariables, trustDomainProblem)
		}
		if s.Path != "" {
			ps.template(at.Field("spiffeID").Field("path"), s.Path, true, pathVariables, pathProblem)
		}
	}
	if m.Provider != nil {
		ps.provider(at.Field("provider"), m.Provider)
	}
	return ps.Problems
}

// template wants a template that gives a valid result when every variable and label is "x".
func (ps *problems) template(at resource.Path, text string, labels bool, variables []string, problem func(string) string) {
	t, err := ParseTemplate(text, labels, variables...)
	if err != nil {
		ps.Add(at, "%s", err)
		return
	}
	sample := make(map[string]string, len(variables))
	for _, v := range variables {
		sample[v] = "x"
	}
	sampleLabels := map[string]string{}
	for _, l := range t.Labels() {
		sampleLabels[l] = "x"
	}
	s, err := t.Render(sample, sampleLabels)
	if err != nil {
		ps.Add(at, "%s", err)
		return
	}
	if reason := problem(s); reason != "" {
		ps.Add(at, "with x for every variable: %s", reason)
	}
}

func (ps *problems) provider(at resource.Path, p *IdentityProvider) {
	oneOf(ps, at.Field("type"), p.Type, ProviderBundled, ProviderSpire, ProviderExtension)
	for _, f := range []struct {
		typ   ProviderType
		field string
		set   bool
	}{
		{ProviderBundled, "bundled", p.Bundled != nil},
		{ProviderSpire, "spire", p.Spire != nil},
		{ProviderExtension, "extension", p.Extension != nil},
	} {
		switch {
		case f.typ != p.Type && f.set:
			ps.Add(at.Field(f.field), "must not be set with type %s", resource.Quote(string(p.Type)))
		case f.typ == p.Type && !f.set && f.typ != ProviderSpire:
			ps.Add(at.Field(f.field), "must be set with type %s", p.Type)
		}
	}
	if p.Bundled != nil {
		ps.bundled(at.Field("bundled"), p.Bundled)
	}
	if p.Spire != nil && p.Spire.Agent != nil && p.Spire.Agent.Timeout != nil && p.Spire.Agent.Timeout.Duration <= 0 {
		ps.Add(at.Field("spire").Field("agent").Field("timeout"), "must be more than 0, not %s", p.Spire.Agent.Timeout)
	}
	if p.Extension != nil && p.Extension.Name == "" {
		ps.Add(at.Field("extension").Field("name"), "must be set")
	}
}

const (
	minExpiry = time.Minute
	maxExpiry = 365 * 24 * time.Hour
)

func (ps *problems) bundled(at resource.Path, b *BundledProvider) {
	if b.MeshTrustCreation != "" {
		oneOf(ps, at.Field("meshTrustCreation"), b.MeshTrustCreation, TrustCreationEnabled, TrustCreationDisabled)
	}
	auto := b.Autogenerate != nil && b.Autogenerate.Enabled
	switch {
	case auto && b.CA != nil:
		ps.Add(at.Field("ca"), "must not be set when autogenerate is enabled")
	case !auto && b.CA == nil:
		ps.Add(at.Field("ca"), "must be set unless autogenerate.enabled is true")
	}
	if b.CA != nil {
		ps.bundledCA(at.Field("ca"), b.CA)
	}
	if c := b.CertificateParameters; c != nil && c.Expiry != nil && (c.Expiry.Duration < minExpiry || c.Expiry.Duration > maxExpiry) {
		ps.Add(at.Field("certificateParameters").Field("expiry"), "must be from 1m to 8760h, not %s", c.Expiry)
	}
}

func (ps *problems) bundledCA(at resource.Path, ca *BundledCA) {
	for _, f := range []struct {
		name string
		src  *SecureDataSource
	}{{"certificate", ca.Certificate}, {"privateKey", ca.PrivateKey}} {
		if f.src == nil {
			ps.Add(at.Field(f.name), "must be set")
			continue
		}
		ps.dataSource(at.Field(f.name), f.src, SourceFile, SourceSecret, SourceEnvVar, SourceInsecureInline)
	}
	ps.inlineCertificates(at.Field("certificate"), ca.Certificate)
	ps.inlineKey(at.Field("privateKey"), ca.PrivateKey)
}

func warnMeshIdentity(r resource.Resource) []string {
	m := r.Spec.(*MeshIdentity)
	var out []string
	if m.Selector == nil || m.Selector.Dataplane == nil {
		out = append(out, "spec.selector: selects no proxy; write dataplane: {} to select all")
	}
	if m.Provider == nil {
		out = append(out, "spec.provider: without a provider identities are named but no certificate is issued")
	}
	t, err := ParseTemplate(m.trustDomainTemplate(), false, trustDomainVariables...)
	if err == nil && !t.Uses("Zone") && r.Label(resource.LabelOrigin) != resource.OriginZone && m.Provider != nil && m.Provider.Type == ProviderBundled {
		out = append(out, "spec.spiffeID.trustDomain: is the same in every zone, so every zone can issue every identity; use {{ .Zone }}")
	}
	return out
}

func validateMeshTrust(r resource.Resource) resource.Problems {
	m := r.Spec.(*MeshTrust)
	var ps problems
	at := resource.Path("spec")
	if reason := trustDomainProblem(m.TrustDomain); reason != "" {
		ps.Add(at.Field("trustDomain"), "%s", reason)
	}
	if len(m.CABundles) == 0 {
		ps.Add(at.Field("caBundles"), "must have at least one bundle")
	}
	for i, b := range m.CABundles {
		at := at.Field("caBundles").Index(i)
		oneOf(&ps, at.Field("type"), b.Type, CABundlePEM)
		if b.PEM == nil || b.PEM.Value == "" {
			ps.Add(at.Field("pem").Field("value"), "must be set")
			continue
		}
		ps.certificates(at.Field("pem").Field("value"), b.PEM.Value, true)
	}
	return ps.Problems
}
