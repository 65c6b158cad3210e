package rest

import (
	"strconv"

	"github.com/causeway-mesh/causeway/api/openapi"
)

// parameters describes what requests can say in their paths, queries and headers, by the names that operations use.
func parameters() map[string]openapi.Parameter {
	out := map[string]openapi.Parameter{}
	text := openapi.Schema{"type": "string"}
	flag := func(standard bool) openapi.Schema { return openapi.Schema{"type": "boolean", "default": standard} }
	choice := func(values ...string) openapi.Schema { return openapi.Schema{"type": "string", "enum": values} }
	number := func(lo int) openapi.Schema { return openapi.Schema{"type": "integer", "minimum": lo} }
	size := number(1)
	size["maximum"], size["default"] = maxPage, defaultPage
	for _, p := range []struct {
		key, in, name, description string
		schema                     openapi.Schema
	}{
		{"mesh", "path", "mesh", "Name of the mesh.", text},
		{"name", "path", "name", "Name of the resource.", text},
		{"kri", "path", "kri", "Identifier of a resource, as in its field kri.", text},
		{"revision", "path", "revision", "Revision of the store, as in the header " + headerRevision + ".", number(0)},
		{"size", "query", "size", "How many items a page has.", size},
		{"offset", "query", "offset", "How many items come before the page. With after it is ignored.", number(0)},
		{"after", "query", "after", "The last item of the page before, as in its next. With it a list that others change is read without gaps.", text},
		{"nameFilter", "query", "name", "Only what has this in its name.", text},
		{"gateway", "query", "gateway", "Only gateways, only others, or only delegated gateways.", choice("true", "false", "delegated")},
		{"format", "query", "format", "How the resource is written.", choice("universal", "k8s", "kubernetes")},
		{"namespace", "query", "namespace", "Namespace of the resource, where it is written for Kubernetes. Default " + systemNamespace + ".", text},
		{"defaultMesh", "query", "mesh", "Mesh of resources that name none.", text},
		{"strict", "query", "strict", "Refuse unknown fields instead of warning about them.", flag(false)},
		{"wait", "query", "wait", "Answer when the zones have come this far. Only at global.", choice(waitStates...)},
		{"timeout", "query", "timeout", "How long to wait at most, up to " + maxWait.String() + ". Default " + defaultWait.String() + ".", text},
		{"IfMatch", "header", "If-Match", "Only if the resource has this ETag; * if it exists.", text},
		{"IfNoneMatch", "header", "If-None-Match", "Reading: only if the resource has another ETag. Writing: * only if it does not exist.", text},
		{
			"IdempotencyKey", "header", "Idempotency-Key", "The same request with the same key is done once, and answered alike again.",
			openapi.Schema{"type": "string", "maxLength": maxIdempotencyKey},
		},
		{"route", "path", "route", "Identifier of a MeshHTTPRoute, as in its field kri.", text},
		{"shadow", "query", "shadow", "Take policies with the label kuma.io/effect: shadow for real ones.", flag(false)},
		{"include", "query", "include", "What to show beside it: diff is what shadow policies change, as a JSON patch of xds.", choice("diff")},
		{"include_eds", "query", "include_eds", "With endpoints.", flag(false)},
		{"usedonly", "query", "usedonly", "Only what has ever counted.", flag(true)},
		{"envoyFormat", "query", "format", "Text, or JSON.", choice("text", "json")},
		{"service", "query", "service", "Only to this service, by the name or KRI of it or the KRI of one of its ports.", text},
		{"fromZone", "query", "fromZone", "Only from the proxies of this zone.", text},
		{"toZone", "query", "toZone", "Only to the endpoints of this zone.", text},
		{"clientId", "query", "clientId", "Of backends that name a Prometheus only those that name this one; where none does, those that name none.", text},
		{"fetchTimeout", "query", "fetch-timeout", "How long to wait for news, up to " + maxFetch.String() + ". Default not at all.", text},
		{"CausewayReason", "header", "Causeway-Reason", "Why, for the history.", openapi.Schema{"type": "string", "maxLength": maxReason}},
	} {
		out[p.key] = openapi.Parameter{Name: p.name, In: p.in, Description: p.description, Required: p.in == "path", Schema: p.schema}
	}
	explode := true
	out["tag"] = openapi.Parameter{
		Name: "tag", In: "query", Description: "Only what has a label or tag with this in its value, as key:value. All must hold.", Explode: &explode,
		Schema: openapi.Schema{"type": "array", "items": openapi.Schema{"type": "string", "pattern": "^[^:]+:"}},
	}
	out["filter"] = openapi.Parameter{
		Name: "filter", In: "query", Style: "deepObject", Explode: &explode,
		Description: "Only what has a label of this value, as filter[labels.<key>]=<value>. All must hold.",
		Schema: openapi.Schema{
			"type": "object", "propertyNames": openapi.Schema{"pattern": `^labels\..+$`}, "additionalProperties": openapi.Schema{"type": "string"},
		},
	}
	return out
}

// answerHeaders describes the headers of successes.
func answerHeaders() map[string]openapi.Header {
	text := openapi.Schema{"type": "string"}
	return map[string]openapi.Header{
		"ETag":            {Description: "Version of the resource, for If-Match.", Schema: text},
		"Cache-Control":   {Description: "no-store.", Schema: text},
		headerPosition:    {Description: "Position of the store that holds the result.", Schema: text},
		headerRevision:    {Description: "Revision of the store that holds the result, for /revisions.", Schema: openapi.Schema{"type": "string", "pattern": "^[0-9]+$"}},
		headerPropagation: {Description: "With wait: what it came to.", Schema: openapi.Schema{"type": "string", "enum": append([]string{"timeout", "unknown"}, waitStates...)}},
	}
}

// retryAfter describes the header of answers that say to come back later.
var retryAfter = openapi.Header{Description: "Seconds to wait, such as " + strconv.Itoa(retryAfterSeconds) + ".", Schema: openapi.Schema{"type": "integer"}}
