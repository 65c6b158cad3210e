package policytest_test

import (
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/causeway-mesh/causeway/api/policies"
	"github.com/causeway-mesh/causeway/api/policies/policytest"
	"github.com/causeway-mesh/causeway/api/policy"
	"github.com/causeway-mesh/causeway/api/resource"
)

// words are values that fields of a name may have, most of them sensible. Other texts are drawn from all of them.
var words = map[string][]string{
	"kind":               {"Mesh", "Dataplane", "MeshService", "MeshExternalService", "MeshMultiZoneService", "MeshHTTPRoute"},
	"type":               {"Exact", "Prefix", "PathPrefix", "RegularExpression", "Present", "Absent", "", "ReplaceFullPath", "ReplacePrefixMatch"},
	"sectionName":        {"", "http", "8080"},
	"name":               {"x-a", "x-b", "a"},
	"value":              {"/a", "/", "/a/b", "spiffe://m/a", "a.b", "v", "100%", "[0-9]+"},
	"method":             {"GET", "POST", ""},
	"scheme":             {"", "http", "https"},
	"hostname":           {"", "example.com"},
	"replaceFullPath":    {"/", "/full", `/\1`},
	"replacePrefixMatch": {"", "/", "/new", "/new/"},
	"retryOn":            {"5xx", "GatewayError", "Reset", "ConnectFailure", "Unavailable", "Canceled", "429", "HttpMethodGet"},
	"predicate":          {"OmitPreviousHosts", "OmitHostsWithTags", "OmitPreviousPriorities"},
	"format":             {"Seconds", "UnixTimestamp"},
	"mode":               {"Strict", "Permissive", ""},
	"min":                {"", "TLSAuto", "TLS12", "TLS13"},
	"max":                {"", "TLSAuto", "TLS13"},
	"remove":             {"x-c", "x-d"},
	"tlsCiphers":         {"ECDHE-ECDSA-AES128-GCM-SHA256"},
	"hashFunction":       {"XXHash", "MurmurHash2"},
	"key":                {"zone/rack", "host", "a"},
	"address":            {"collector:5000", "127.0.0.1:5000"},
	"url":                {"http://10.0.0.1:9411/api/v2/spans", "https://zipkin/api", "http://datadog:8126"},
	"plain":              {"%KUMA_SOURCE_SERVICE% %REQ(:PATH)%", "x", "100%"},
	"zones":              {"east", "west", "south"},
	"path":               {"/", "/a"},
	"limit":              {"50kbps", "1 Mbps", "0kbps"},
	"eventLogPath":       {"/dev/null", "log"},
	"send":               {"UElORw==", "ping"},
	"operation":          {"Add", "Remove", "Patch", "AddFirst", "AddLast", "AddBefore", "AddAfter"},
	"op":                 {"add", "remove", "replace", "test"},
}

// variants are generated with the field of their type alone, or hardly any would be valid. Those without a type go by the field.
var variants = map[string]map[string]string{
	"Filter": {
		"requestHeaderModifier": "RequestHeaderModifier", "responseHeaderModifier": "ResponseHeaderModifier",
		"requestRedirect": "RequestRedirect", "urlRewrite": "URLRewrite", "requestMirror": "RequestMirror",
	},
	"LoadBalancer": {
		"roundRobin": "RoundRobin", "leastRequest": "LeastRequest", "ringHash": "RingHash", "random": "Random", "maglev": "Maglev",
	},
	"Modification": {"cluster": "", "listener": "", "networkFilter": "", "httpFilter": "", "virtualHost": ""},
	// Of backends of logs and of spans.
	"Backend": {"file": "File", "tcp": "Tcp", "openTelemetry": "OpenTelemetry", "zipkin": "Zipkin", "datadog": "Datadog"},
	"HashPolicy": {
		"header": "Header", "cookie": "Cookie", "connection": "Connection", "queryParameter": "QueryParameter", "filterState": "FilterState",
	},
}

// types are the words for the type of other structs.
var types = map[string][]string{"ToZones": {"None", "Only", "Any", "AnyExcept"}}

// needed fields are always drawn, for hardly anything is valid without them.
var needed = []string{"to", "rules", "default", "matches", "kind", "labels", "appendModifications"}

// removed fields exist only to be refused.
var removed = []string{"namespace", "mesh", "tags", "proxyTypes", "hostnames", "hostToBackendHostname"}

// generate draws a JSON value of a type; field is the name of the field it is for.
func generate(t *rapid.T, typ reflect.Type, field string) any {
	switch typ {
	case reflect.TypeFor[policy.Duration]():
		return rapid.SampledFrom([]string{"1ms", "5s", "1h", "0s", "-1s", "1us"}).Draw(t, field)
	case reflect.TypeFor[policy.Decimal]():
		return rapid.SampledFrom([]any{0, 1, 50, 100, "99.5", "0.001", "+1", 101, -1}).Draw(t, field)
	}
	switch typ.Kind() {
	case reflect.Pointer:
		return generate(t, typ.Elem(), field)
	case reflect.Struct:
		return object(t, typ)
	case reflect.Slice:
		list := []any{}
		for range rapid.SampledFrom([]int{1, 2, 1, 2, 1, 2, 1, 0}).Draw(t, field) {
			list = append(list, generate(t, typ.Elem(), field))
		}
		return list
	case reflect.Map:
		return rapid.SampledFrom([]map[string]string{{resource.LabelDisplayName: "backend"}, {}, {"a": "b"}}).Draw(t, field)
	case reflect.Bool:
		return rapid.Bool().Draw(t, field)
	case reflect.String:
		pool := words[field]
		if pool == nil || rapid.IntRange(0, 30).Draw(t, "odd") == 0 {
			pool = slices.Concat(slices.Collect(maps.Values(words))...)
			slices.Sort(pool)
		}
		return rapid.SampledFrom(pool).Draw(t, field)
	default:
		return rapid.SampledFrom([]int64{1, 2, 8080, 301, 100, 0, 1 << 20, 4294967295}).Draw(t, field)
	}
}

func object(t *rapid.T, typ reflect.Type) map[string]any {
	out := map[string]any{}
	var only string
	if fields := variants[typ.Name()]; fields != nil {
		only = rapid.SampledFrom(slices.Sorted(maps.Keys(fields))).Draw(t, "variant")
		if fields[only] != "" {
			out["type"] = fields[only]
		}
	}
	for i := range typ.NumField() {
		f := typ.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous:
			maps.Copy(out, object(t, f.Type))
		case name == "type" && types[typ.Name()] != nil:
			out[name] = rapid.SampledFrom(types[typ.Name()]).Draw(t, name)
		case only != "" && name != only && name != "terminal", slices.Contains(removed, name) || typ.Name() == "TargetRef" && name == "name" || typ.Name() == "BackendRef" && name == "name":
		case strings.Contains(f.Tag.Get("json"), "omitempty") && !slices.Contains(needed, name) && rapid.IntRange(0, 2).Draw(t, name) == 0:
		default:
			out[name] = generate(t, f.Type, name)
		}
	}
	return out
}

// repaired removes what is refused, one problem after the other, until the resource is accepted.
func repaired(t *rapid.T, kinds *resource.Kinds, tree map[string]any) (resource.Resource, bool) {
	for range 200 {
		data, err := json.Marshal(tree)
		if err != nil {
			t.Fatal(err)
		}
		d, err := kinds.Decode(data, true)
		var ps resource.Problems
		if err == nil {
			k, _ := kinds.ByName(d.Type)
			if ps = k.Validate(d.Resource); len(ps) == 0 {
				return d.Resource, true
			}
		} else if !errors.As(err, &ps) {
			t.Fatal(err)
		}
		path := strings.FieldsFunc(ps[0].Field, func(r rune) bool { return strings.ContainsRune(".[]", r) })
		if len(path) < 2 {
			return resource.Resource{}, false
		}
		mend(t, tree, path)
	}
	return resource.Resource{}, false
}

// mend draws another value where a word is refused, and removes everything else.
func mend(t *rapid.T, tree any, path []string) {
	last := path[len(path)-1]
	if pool := words[last]; pool != nil && rapid.IntRange(0, 9).Draw(t, "again") > 0 && replace(tree, path, rapid.SampledFrom(pool).Draw(t, last)) {
		return
	}
	remove(tree, path)
}

// replace puts another text in the place of one.
func replace(in any, path []string, with string) bool {
	switch v := in.(type) {
	case map[string]any:
		if _, ok := v[path[0]].(string); ok && len(path) == 1 {
			v[path[0]] = with
			return true
		}
		return len(path) > 1 && replace(v[path[0]], path[1:], with)
	case []any:
		i, err := strconv.Atoi(path[0])
		return err == nil && i < len(v) && len(path) > 1 && replace(v[i], path[1:], with)
	}
	return false
}

// remove takes away what a path leads to or, where that is missing, what it is missing in.
func remove(in any, path []string) any {
	switch v := in.(type) {
	case map[string]any:
		child, ok := v[path[0]]
		switch {
		case !ok:
			return nil
		case len(path) == 1:
			delete(v, path[0])
		default:
			if child = remove(child, path[1:]); child == nil {
				delete(v, path[0])
			} else {
				v[path[0]] = child
			}
		}
		return v
	case []any:
		i, err := strconv.Atoi(path[0])
		if err != nil || i >= len(v) {
			return nil
		}
		child := v[i]
		if len(path) > 1 {
			child = remove(child, path[1:])
		}
		if len(path) == 1 || child == nil {
			return slices.Delete(v, i, i+1)
		}
		v[i] = child
		return v
	}
	return nil
}

// Whatever validation accepts makes configuration that passes the rules of Envoy's own protobufs, and that is the same when made again.
func TestWhatIsAcceptedIsValid(t *testing.T) {
	kinds := resource.NewKinds(policies.Kinds()...)
	for _, p := range policies.All {
		kind := p.Resource()
		t.Run(kind.Name, func(t *testing.T) {
			accepted := 0
			rapid.Check(t, func(rt *rapid.T) {
				spec := object(rt, reflect.TypeOf(kind.New()).Elem())
				if sections := []string{"to", "rules"}; kind.Policy.HasTo && kind.Policy.HasRules {
					delete(spec, sections[rapid.IntRange(0, 1).Draw(rt, "side")])
				}
				if !kind.Policy.HasDefault {
					delete(spec, "default")
				}
				if !kind.Policy.HasTo {
					delete(spec, "to")
				}
				if !kind.Policy.HasRules {
					delete(spec, "rules")
				}
				r, ok := repaired(rt, kinds, map[string]any{"type": kind.Name, "mesh": "m", "name": "n", "spec": spec})
				if !ok {
					return
				}
				kind.Warn(r)
				accepted++
				policytest.Exercise(rt, p, r)
			})
			t.Logf("%d were accepted", accepted)
			if accepted == 0 {
				t.Error("nothing was accepted, so nothing was tested")
			}
		})
	}
}
