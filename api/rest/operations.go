package rest

import (
	"net/http"
	"reflect"
	"strings"

	"github.com/causeway-mesh/causeway/api/mesh"
	"github.com/causeway-mesh/causeway/api/openapi"
	"github.com/causeway-mesh/causeway/api/resource"
	"github.com/causeway-mesh/causeway/api/schema"
)

// Groups of operations.
const (
	tagResources = "Resources"
	tagPolicies  = "Policies"
	tagInsight   = "Insight"
	tagTokens    = "Tokens"
	tagZones     = "Zones"
	tagSystem    = "System"
)

var tags = []openapi.Tag{
	{Name: tagResources, Description: "What a mesh consists of: read, written and deleted one by one, or many together."},
	{Name: tagPolicies, Description: "What changes how proxies treat traffic."},
	{Name: tagInsight, Description: "What is observed of proxies and zones, and what they get."},
	{Name: tagTokens, Description: "Tokens with which users, proxies and zones prove who they are."},
	{Name: tagZones, Description: "How zones join a global control plane, are followed and are shut out."},
	{Name: tagSystem, Description: "The control plane itself."},
}

// Parameters and headers that many operations share.
var (
	pageParameters  = []string{"size", "offset", "after", "nameFilter", "filter"}
	proxyFilters    = []string{"gateway", "tag"}
	writeParameters = []string{"wait", "timeout", "IdempotencyKey", "CausewayReason"}
	writeHeaders    = []string{headerPosition, headerRevision, headerPropagation}
)

// operations describes every route, by method and path as echo writes them.
func (d describer) operations() map[string]operation {
	d.catalog.Name("Failure", d.catalog.Object(d.reader.Type(reflect.TypeFor[failure]()), true))
	ops := map[string]operation{}
	d.system(ops)
	d.tokens(ops)
	d.zones(ops)
	for _, k := range d.kinds.All() {
		d.resource(ops, k)
	}
	d.insight(ops)
	d.telemetry(ops)
	return ops
}

// of is the schema of what a handler answers.
func of[T any](d describer) openapi.Schema {
	return d.catalog.Of(d.reader.Type(reflect.TypeFor[T]()), true)
}

// request is the schema of what a handler reads.
func request[T any](d describer) openapi.Schema {
	return d.catalog.Of(d.reader.Type(reflect.TypeFor[T]()), false)
}

var anyObject = openapi.Schema{"type": "object"}

func (d describer) system(ops map[string]operation) {
	ops["GET /"] = operation{id: "index", tag: tagSystem, summary: "What this control plane is", answer: of[index](d), more: "Needs no token."}
	ops["GET /openapi.json"] = operation{id: "openAPI", tag: tagSystem, summary: "This document", answer: anyObject}
	ops["GET /who-am-i"] = operation{id: "whoAmI", tag: tagSystem, summary: "Who the token stands for", answer: of[identity](d)}
	ops["GET /config"] = operation{
		id: "config", tag: tagSystem, summary: "The settings in force, secrets masked", answer: anyObject, fails: []int{http.StatusNotFound},
	}
	ops["GET /policies"] = operation{id: "policies", tag: tagSystem, summary: "The kinds of policies", answer: of[policyList](d)}
	ops["GET /_resources"] = operation{id: "resourceTypes", tag: tagSystem, summary: "The kinds of resources", answer: of[resourceTypeList](d)}
	ops["GET /_kri/:kri"] = operation{
		id: "getByKRI", tag: tagResources, summary: "The resource that an identifier names", takes: []string{"format", "namespace", "IfNoneMatch"},
		answer: anyObject, gives: []string{"ETag"}, codes: []int{http.StatusOK, http.StatusNotModified}, fails: []int{http.StatusBadRequest},
	}
	ops["POST /batch"] = operation{
		id: "batch", tag: tagResources, summary: "Write several resources together, all of them or none",
		more:  "The body is a JSON list of resources, an object with items, or YAML documents.",
		takes: append([]string{"defaultMesh", "strict"}, writeParameters...), yaml: true,
		body:   openapi.Schema{"anyOf": []openapi.Schema{{"type": "array", "items": anyObject}, anyObject}},
		answer: of[batchAnswer](d), gives: writeHeaders,
		fails: []int{http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusConflict, http.StatusRequestEntityTooLarge},
	}
}

func (d describer) tokens(ops map[string]operation) {
	issue := func(kind, summary string, body openapi.Schema, more ...int) {
		ops["POST /tokens/"+kind] = operation{
			id: kind + "Token", tag: tagTokens, summary: summary, body: body, gives: []string{"Cache-Control"},
			fails: append([]int{http.StatusBadRequest, http.StatusNotFound, http.StatusRequestEntityTooLarge}, more...),
		}
	}
	issue("user", "Make a token for a user", request[userTokenRequest](d))
	issue("dataplane", "Make a token for proxies", request[dataplaneTokenRequest](d))
	issue("zone", "Make a token for a zone, as clients of the Kuma API ask for it", request[zoneTokenRequest](d))
	ops["POST /zones/:name/join-token"] = operation{
		id: "joinToken", tag: tagTokens, summary: "Make a token with which a zone joins once", body: request[joinTokenRequest](d), optional: true,
		gives: []string{"Cache-Control"}, fails: []int{http.StatusBadRequest, http.StatusRequestEntityTooLarge},
	}
}

func (d describer) zones(ops map[string]operation) {
	ops["POST /zones/:name/_revoke"] = operation{
		id: "revokeZone", tag: tagZones, summary: "Void everything that a zone was given to connect with", answer: of[written](d),
		fails: []int{http.StatusBadRequest},
	}
	for path, peer := range map[string]string{"/zones/:name/_adopt": "Zone", "/_adopt-global": "Global"} {
		ops["GET "+path] = operation{
			id: "pendingOf" + peer, tag: tagZones, summary: "What a peer lacks since its store was wiped or restored", answer: of[pendingRemovals](d),
			fails: []int{http.StatusNotFound},
		}
		ops["POST "+path] = operation{
			id: "adopt" + peer, tag: tagZones, summary: "Delete what the peer lacks: from then on its present store is all there is of it", answer: of[adopted](d),
			fails: []int{http.StatusNotFound},
		}
	}
	ops["GET /revisions/:revision"] = operation{
		id: "propagation", tag: tagZones, summary: "How far a revision of global's store has come in the zones", answer: of[mesh.Propagation](d),
		fails: []int{http.StatusBadRequest},
	}
}

// resource describes what a kind looks like, and the routes that every kind has.
func (d describer) resource(ops map[string]operation, k resource.Kind) {
	kind := d.reader.Kind(k)
	ref, list := d.resourceSchemas(kind)
	if k.Path == "" || observedKinds[k.Name] {
		return
	}
	tag := tagResources
	if k.Policy != nil {
		tag = tagPolicies
	}
	paths := []string{k.Path}
	if k.Name == "GlobalSecret" {
		paths = append(paths, olderGlobalSecrets)
	}
	for _, p := range paths {
		older := p != k.Path
		id := func(verb string) string {
			if older {
				return verb + "Older"
			}
			return verb
		}
		plural, takes := strings.ReplaceAll(k.Plural, " ", ""), pageParameters
		if k.Name == "Dataplane" {
			takes = append(takes[:len(takes):len(takes)], proxyFilters...)
		}
		lists := operation{id: id("list") + plural, tag: tag, summary: "List " + k.Plural, takes: takes, answer: list, fails: []int{http.StatusBadRequest}, deprecated: older}
		item := "/" + p + "/:name"
		if k.Scope == resource.ScopeMesh {
			ops["GET /meshes/:mesh/"+p] = lists
			lists.id, lists.summary = id("listAll")+plural, lists.summary+" of all meshes"
			item = "/meshes/:mesh" + item
		}
		ops["GET /"+p] = lists
		ops["GET "+item] = operation{
			id: id("get") + k.Name, tag: tag, summary: "Read " + article(k.Singular), takes: []string{"format", "namespace", "IfNoneMatch"},
			answer: openapi.Schema{"oneOf": []openapi.Schema{ref, openapi.Ref(kubernetesSchema)}}, gives: []string{"ETag"},
			codes: []int{http.StatusOK, http.StatusNotModified}, fails: []int{http.StatusBadRequest}, deprecated: older,
		}
		fails := []int{http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusConflict, http.StatusPreconditionFailed, http.StatusRequestEntityTooLarge}
		ops["PUT "+item] = operation{
			id: id("put") + k.Name, tag: tag, summary: "Create or replace " + article(k.Singular), takes: append([]string{"strict", "IfMatch", "IfNoneMatch"}, writeParameters...),
			body: ref, yaml: true, answer: of[written](d), gives: append([]string{"ETag"}, writeHeaders...),
			codes: []int{http.StatusOK, http.StatusCreated}, fails: fails, deprecated: older,
		}
		ops["DELETE "+item] = operation{
			id: id("delete") + k.Name, tag: tag, summary: "Delete " + article(k.Singular), takes: append([]string{"IfMatch"}, writeParameters...),
			answer: of[written](d), gives: writeHeaders, fails: fails, deprecated: older,
		}
	}
}

func article(noun string) string {
	if noun != "" && strings.ContainsRune("AEIOU", rune(noun[0])) {
		return "an " + noun
	}
	return "a " + noun
}

const kubernetesSchema = "KubernetesObject"

// resourceSchemas describes a kind as it is written and read, and a page of them.
func (d describer) resourceSchemas(k schema.Kind) (one, list openapi.Schema) {
	properties, required := d.meta(k.Kind, k.Name)
	if k.Inline {
		inline := d.catalog.Object(k.Spec, false)
		if fields, ok := inline["properties"].(openapi.Schema); ok {
			for name, f := range fields {
				properties[name] = f
			}
		}
		if more, ok := inline["required"].([]string); ok {
			required = append(required, more...)
		}
	} else {
		properties["spec"] = d.spec(k.Kind)
		required = append(required, "spec")
	}
	if k.Status != nil {
		status := d.catalog.Name(k.Name+"Status", d.catalog.Object(k.Status, true))
		properties["status"] = openapi.Schema{"$ref": status["$ref"], "readOnly": true, "description": "What the control plane computes."}
	}
	s := openapi.Schema{"type": "object", "properties": properties, "required": required}
	if k.Spec.Doc != "" {
		s["description"] = k.Spec.Doc
	}
	one = d.catalog.Name(k.Name, s)
	return one, d.page(k.Name, one)
}

// spec is the schema of what users write of a kind, apart from its name and labels.
func (d describer) spec(k resource.Kind) openapi.Schema {
	name := k.Name + "Spec"
	if _, known := d.catalog.Schemas()[name]; known {
		return openapi.Ref(name)
	}
	return d.catalog.Name(name, d.catalog.Object(d.reader.Kind(k).Spec, false))
}

// meta is what all resources have in front.
func (d describer) meta(k resource.Kind, typ string) (properties openapi.Schema, required []string) {
	front := d.catalog.Object(&schema.Type{Form: schema.Object, Fields: schema.Meta(k)}, false)
	properties = openapi.Schema{"type": openapi.Schema{"const": typ, "type": "string", "description": "Type of the resource."}}
	if fields, ok := front["properties"].(openapi.Schema); ok {
		for name, f := range fields {
			if name != "type" {
				properties[name] = f
			}
		}
	}
	if k.Destination {
		properties["snis"] = openapi.Schema{
			"type": "array", "items": of[sni](d), "readOnly": true, "description": "Server names of the ports, as other zones use them.",
		}
	}
	required, _ = front["required"].([]string)
	return properties, required
}

// page is one part of a list.
func (d describer) page(name string, item openapi.Schema) openapi.Schema {
	return d.catalog.Name(name+"List", openapi.Schema{
		"type": "object", "required": []string{"total", "items", "next"},
		"properties": openapi.Schema{
			"total": openapi.Schema{"type": "integer", "minimum": 0, "description": "How many there are on all pages."},
			"items": openapi.Schema{"type": "array", "items": item, "description": "Those of this page."},
			"next":  openapi.Schema{"type": []string{"string", "null"}, "description": "Where the next page is; null on the last."},
		},
	})
}

// insight describes what is observed of dataplanes, zones and meshes.
func (d describer) insight(ops map[string]operation) {
	d.catalog.Name(kubernetesSchema, openapi.Schema{
		"type": "object", "required": []string{"apiVersion", "kind", "metadata"}, "description": "The resource as kubectl would apply it.",
		"properties": openapi.Schema{
			"apiVersion": openapi.Schema{"type": "string"}, "kind": openapi.Schema{"type": "string"}, "metadata": request[kubernetesMeta](d),
			"mesh": openapi.Schema{"type": "string"}, "spec": anyObject, "data": anyObject, "type": openapi.Schema{"type": "string", "enum": []string{secretType, globalSecretType}},
		},
	})
	if k, ok := d.kinds.ByName("Dataplane"); ok {
		d.observed(ops, k, "dataplane", []string{"/dataplanes", "/meshes/:mesh/dataplanes"}, []string{"/dataplane-insights", "/meshes/:mesh/dataplane-insights"})
		ops["GET /meshes/:mesh/dataplanes/:name/_config"] = operation{
			id: "getProxyConfig", tag: tagInsight, summary: "The configuration that was computed for a proxy, whether or not it has taken it",
			takes: []string{"shadow", "include"}, answer: anyObject, fails: []int{http.StatusBadRequest, http.StatusMethodNotAllowed},
		}
		d.explained(ops)
		d.envoy(ops)
	}
	if k, ok := d.kinds.ByName("Zone"); ok {
		d.observed(ops, k, "zone", []string{"/zones"}, []string{"/zone-insights"})
	}
	if k, ok := d.kinds.ByName(meshType); ok {
		properties, required := d.meta(resource.Kind{Scope: k.Scope}, "MeshInsight")
		totals := d.catalog.Object(d.reader.Type(reflect.TypeFor[meshTotals]()), true)
		if fields, ok := totals["properties"].(openapi.Schema); ok {
			for name, f := range fields {
				properties[name] = f
			}
		}
		one := d.catalog.Name("MeshInsight", openapi.Schema{"type": "object", "properties": properties, "required": required})
		ops["GET /mesh-insights"] = operation{id: "listMeshInsights", tag: tagInsight, summary: "List what is counted in meshes", takes: pageParameters, answer: d.page("MeshInsight", one), fails: []int{http.StatusBadRequest}}
		ops["GET /mesh-insights/:name"] = operation{id: "getMeshInsight", tag: tagInsight, summary: "What is counted in a mesh", answer: one}
	}
	ops["GET /global-insight"] = operation{id: "getGlobalInsight", tag: tagInsight, summary: "What is counted in all meshes", answer: of[globalTotals](d)}
	ops["GET /global-insights"] = operation{id: "getGlobalInsights", tag: tagInsight, summary: "How many resources there are of each type", answer: of[globalCounts](d), deprecated: true}
	none := openapi.Schema{"type": "object", "description": "An empty page: services are MeshServices now."}
	ops["GET /service-insights"] = operation{id: "listAllServiceInsights", tag: tagInsight, summary: "Nothing, for older clients", answer: none, deprecated: true}
	ops["GET /meshes/:mesh/service-insights"] = operation{id: "listServiceInsights", tag: tagInsight, summary: "Nothing, for older clients", answer: none, deprecated: true}
}

// explained describes what is told of policies and the proxies that they concern.
func (d describer) explained(ops map[string]operation) {
	for path, op := range map[string]operation{
		"_layout":                   {id: "getProxyLayout", summary: "What a proxy consists of, with the names that its Envoy uses", answer: of[mesh.Layout](d)},
		"_rules":                    {id: "getProxyRules", summary: "All that policies put in force for a proxy, in one answer", answer: of[mesh.InspectedRules](d)},
		"_policies":                 {id: "getProxyPolicies", summary: "What policies put in force for a proxy as a whole", answer: of[mesh.InspectedPolicies](d)},
		"_inbounds/:kri/_policies":  {id: "getInboundPolicies", summary: "What policies put in force for what a proxy receives at an inbound", answer: of[mesh.InspectedPolicies](d)},
		"_outbounds/:kri/_policies": {id: "getOutboundPolicies", summary: "What policies put in force for what a proxy sends to a destination", answer: of[mesh.InspectedPolicies](d)},
		"_outbounds/:kri/_routes":   {id: "getOutboundRoutes", summary: "How what a proxy sends to a destination is routed", answer: of[mesh.InspectedRoutes](d)},
		"_outbounds/:kri/_routes/:route/_policies": {id: "getRoutePolicies", summary: "What policies put in force for requests that a route governs", answer: of[mesh.InspectedPolicies](d)},
	} {
		op.tag, op.more = tagInsight, "At global also while the zone is not connected."
		op.fails = []int{http.StatusBadRequest, http.StatusMethodNotAllowed}
		ops["GET /meshes/:mesh/dataplanes/:name/"+path] = op
	}
	meta := of[mesh.ResourceMeta](d)
	concerned := d.page("ConcernedDataplane", meta)
	for _, k := range d.kinds.All() {
		if k.Policy != nil && k.Path != "" {
			ops["GET /meshes/:mesh/"+k.Path+"/:name/_resources/dataplanes"] = operation{
				id: "listDataplanesOf" + k.Name, tag: tagInsight, summary: "List the Dataplanes that " + article(k.Singular) + " concerns",
				takes: append(append([]string{}, pageParameters...), proxyFilters...), answer: concerned, fails: []int{http.StatusBadRequest, http.StatusMethodNotAllowed},
			}
		}
	}
}

// envoy describes what can be asked of the Envoy of a proxy, at its zone and at global.
func (d describer) envoy(ops map[string]operation) {
	for _, x := range []struct {
		path, id, summary string
		takes             []string
		text              bool
	}{
		{"xds", "getEnvoyConfig", "The configuration that an Envoy has, without keys", []string{"include_eds"}, false},
		{"stats", "getEnvoyStats", "What an Envoy counts", []string{"usedonly", "envoyFormat"}, true},
		{"clusters", "getEnvoyClusters", "The endpoints that an Envoy knows, and how they are", []string{"envoyFormat"}, true},
	} {
		ops["GET /meshes/:mesh/dataplanes/:name/"+x.path] = operation{
			id: x.id, tag: tagInsight, summary: x.summary, more: "For administrators, and who was given the permission. A failure says which zone or agent is not connected.",
			takes: x.takes, answer: anyObject, text: x.text, fails: []int{http.StatusBadRequest, http.StatusMethodNotAllowed},
		}
	}
}

// telemetry describes what is counted of traffic, and where Prometheus finds proxies.
func (d describer) telemetry(ops map[string]operation) {
	ops["GET /meshes/:mesh/traffic"] = operation{
		id: "getTraffic", tag: tagInsight, summary: "What proxies sent in the last minute, by service port, zones and priority",
		more:  "A zone tells what its own proxies sent, global that of all zones.",
		takes: []string{"service", "fromZone", "toZone"}, answer: of[trafficAnswer](d),
	}
	more := "For http_sd_configs of Prometheus, at a control plane of a zone."
	for path, id := range map[string]string{"/meshes/:mesh/prometheus-targets": "listPrometheusTargets", "/prometheus-targets": "listAllPrometheusTargets"} {
		ops["GET "+path] = operation{
			id: id, tag: tagInsight, summary: "Where the proxies of a zone tell Prometheus their metrics", more: more,
			takes: []string{"clientId"}, answer: of[[]targetGroup](d), fails: []int{http.StatusNotFound},
		}
	}
	ops["POST "+assignmentsPath] = operation{
		id: "discoverMonitoringAssignments", tag: tagInsight, summary: "The same for kuma_sd_configs of Prometheus", more: "Answers when the client knows less, and otherwise when its time is up.",
		takes: []string{"fetchTimeout"}, body: request[discoveryRequest](d), answer: of[discoveryResponse](d),
		codes: []int{http.StatusOK, http.StatusNotModified}, fails: []int{http.StatusBadRequest, http.StatusNotFound},
	}
}

// observed describes the overviews and insights of a kind; the first of two lists is that of all meshes.
func (d describer) observed(ops map[string]operation, k resource.Kind, field string, overviews, insights []string) {
	takes := pageParameters
	if k.Name == "Dataplane" {
		takes = append(takes[:len(takes):len(takes)], proxyFilters...)
	}
	insightName, overviewName := k.Name+"Insight", k.Name+"Overview"
	insight := anyObject
	if ik, ok := d.kinds.ByName(insightName); ok {
		insight = d.spec(ik)
	}
	properties, required := d.meta(k, overviewName)
	properties[field], properties[field+"Insight"] = d.spec(k), insight
	if k.Name == "Zone" {
		properties["pendingRemovals"] = of[pendingRemovals](d)
	}
	overview := d.catalog.Name(overviewName, openapi.Schema{"type": "object", "properties": properties, "required": append(required, field, field+"Insight")})
	page := d.page(overviewName, overview)
	for i, p := range overviews {
		id := "list" + overviewName + "s"
		if i < len(overviews)-1 {
			id = "listAll" + overviewName + "s"
		}
		op := operation{id: id, tag: tagInsight, summary: "List " + k.Plural + " with what is observed of them", takes: takes, answer: page, fails: []int{http.StatusBadRequest}}
		ops["GET "+p+"/_overview"] = op
		op.id, op.deprecated = id+"Older", true
		ops["GET "+p+"+insights"] = op
	}
	last := overviews[len(overviews)-1]
	op := operation{id: "get" + overviewName, tag: tagInsight, summary: article(k.Singular) + " with what is observed of it", answer: overview}
	op.summary = strings.ToUpper(op.summary[:1]) + op.summary[1:]
	ops["GET "+last+"/:name/_overview"] = op
	op.id, op.deprecated = op.id+"Older", true
	ops["GET "+last+"+insights/:name"] = op

	one, list := openapi.Ref(insightName), openapi.Ref(insightName+"List")
	if _, ok := d.kinds.ByName(insightName); !ok {
		one = d.catalog.Name(insightName, anyObject)
		list = d.page(insightName, one)
	}
	for i, p := range insights {
		id := "list" + insightName + "s"
		if i < len(insights)-1 {
			id = "listAll" + insightName + "s"
		}
		ops["GET "+p] = operation{id: id, tag: tagInsight, summary: "List what is observed of " + k.Plural, takes: takes, answer: list, fails: []int{http.StatusBadRequest}}
	}
	ops["GET "+insights[len(insights)-1]+"/:name"] = operation{id: "get" + insightName, tag: tagInsight, summary: "What is observed of " + article(k.Singular), answer: one}
}
