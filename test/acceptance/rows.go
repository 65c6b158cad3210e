// Package acceptance lists what a mesh that is compatible with Kuma has to prove, row by row, and finds the tests that prove it: those
// whose doc comment has a line "Acceptance: U meshratelimit". It runs no test; the command in report reads what a run of them said.
package acceptance

// A Row is one thing to prove.
type Row struct {
	// Letters of the sort of deployment that it is proven on elsewhere: U machines, M several zones, K Kubernetes, G Gateway API.
	Letters string
	// Suite is its name. Tests name it with one or more of the letters in front: "U meshretry", "U/K meshretry".
	Suite string
	// Proves says what, in our own words.
	Proves string
	// Needs is what the row cannot be proven without and this repository has not: Kubernetes, Gateway API. Empty for none.
	Needs string
	// Unproven rows have no test yet. This is a debt: a row that has one must not be marked, and in the end none is.
	Unproven bool
}

// A Part groups rows.
type Part struct {
	Title string
	Rows  []Row
}

// What rows need.
const (
	kubernetes = "Kubernetes"
	gatewayAPI = "Gateway API"
	platform   = "Kubernetes installation"
)

// Parts is every row.
var Parts = []Part{
	{"Security and identity", []Row{
		{Letters: "U", Suite: "mtls", Proves: "permissive proxies take mesh TLS, plaintext and the TLS of their workload; strict ones take mesh TLS alone, also when the workload speaks TLS itself"},
		{Letters: "U", Suite: "mtls table", Proves: "without a permission everything is denied and an allow opens it, whether the authority is generated, a given root or a given intermediate"},
		{Letters: "U", Suite: "meshtls", Proves: "one proxy alone is made permissive or strict; TLS 1.3 and the set of ciphers are enforced"},
		{Letters: "M", Suite: "meshtls", Proves: "the TLS version of a whole mesh changes and traffic between zones goes on"},
		{Letters: "K", Suite: "meshtls delegated gateway", Proves: "TLS 1.3 between a delegated gateway and its destinations"},
		{Letters: "U/K", Suite: "meshtrafficpermission", Proves: "clients are allowed by exact and prefix SPIFFE ID, over HTTP and TCP, also with a permissive destination; a denial for one proxy beats an allow for the mesh"},
		{Letters: "M", Suite: "meshtrafficpermission", Proves: "allowing everybody lets traffic flow between zones"},
		{Letters: "M", Suite: "meshtrafficpermission egress", Proves: "permissions are enforced for what goes out through an egress"},
		{Letters: "U", Suite: "meshidentity rotate", Proves: "an authority is replaced under constant traffic without one error"},
		{Letters: "U/K", Suite: "meshidentity spire", Proves: "an identity comes from an agent of SPIRE and traffic uses it"},
		{Letters: "M", Suite: "meshidentity", Proves: "each zone has identities of its own: mTLS works inside a zone, and between zones once they trust each other"},
		{Letters: "U", Suite: "meshservice", Proves: "permissive mTLS is switched on while requests run and none is lost; generated hostnames work"},
		{Letters: "U", Suite: "strictinbounds", Proves: "without mTLS and with permissive mTLS every port is open; with strict mTLS only declared inbounds can be reached"},
		{Letters: "U", Suite: "auth dp", Proves: "a token of another service cannot take over a proxy, one of the same service can; the workload label has to fit the token"},
		{Letters: "U", Suite: "auth offline", Proves: "tokens signed outside the control plane are taken"},
		{Letters: "U", Suite: "auth user", Proves: "administrators and members may do different things; what is open to all asks for no token"},
		{Letters: "U", Suite: "certs rotation", Proves: "the certificate of a control plane is replaced on disk and served without a restart, and proxies stay connected"},
		{Letters: "U", Suite: "projectedsatoken", Proves: "a proxy uses the refreshed token file after a restart of the control plane, without a restart of its own"},
		{Letters: "U/K/M", Suite: "workload", Proves: "workloads come into being by themselves and count their proxies; a proxy whose identity needs a label it lacks is refused"},
	}},
	{"Routing", []Row{
		{Letters: "K", Suite: "meshhttproute", Proves: "requests go to their destination without a policy; redirects; rewritten URLs"},
		{Letters: "M", Suite: "meshhttproute", Proves: "routes to a service of another zone, to a multi-zone service, and to services by their labels"},
		{Letters: "U", Suite: "grpc", Proves: "both sides count gRPC calls; a route splits them"},
		{Letters: "K", Suite: "meshtcproute", Proves: "a TCP route is used; for HTTP services the HTTP route wins over it, for TCP services the TCP route wins"},
		{Letters: "M", Suite: "meshtcproute", Proves: "connections are divided between zones"},
		{Letters: "U", Suite: "meshexternalservice", Proves: "plaintext, one host with several ports, TLS; retries, timeouts, routes and logs for external services; endpoints by priority"},
		{Letters: "K", Suite: "meshexternalservice", Proves: "HTTP, TCP, HTTPS and TLS 1.3; permissions switched; a route to an external service"},
		{Letters: "M", Suite: "meshservice connectivity", Proves: "services of the own and of other zones are reached by local and mesh-wide hostnames; a name no generator made does not resolve"},
		{Letters: "M", Suite: "meshservice policies", Proves: "rewriting, splitting, retries and health checks for services of another zone"},
		{Letters: "M", Suite: "meshservice sync", Proves: "global knows status and virtual addresses; equal names in several zones are no conflict; long names; multi-zone services get status and hostname"},
		{Letters: "U", Suite: "meshservicelabelpropagation", Proves: "labels of proxies reach the services generated from them, when they come, change and go"},
		{Letters: "G", Suite: "conformance", Proves: "the conformance suite of the Gateway API for HTTP in a mesh", Needs: gatewayAPI},
		{Letters: "U/M", Suite: "reachablebackends", Proves: "only listed destinations can be reached; without a list all; by labels"},
		{Letters: "U", Suite: "bindoutbounds", Proves: "a service is reached at a loopback address of its own without redirection"},
		{Letters: "M", Suite: "connectivity", Proves: "workloads bound to every address or to that of the proxy are reached, also without redirection of what comes in"},
		{Letters: "M", Suite: "inbound_communication", Proves: "a workload bound to another address than the proxy forwards to is not reached; with and without passing on what comes in"},
		{Letters: "K", Suite: "connectivity", Proves: "headless services; ports that init containers keep to themselves", Needs: kubernetes},
		{Letters: "K", Suite: "externalname-services", Proves: "services that are only names elsewhere are left alone", Needs: kubernetes},
		{Letters: "K", Suite: "gateway delegated", Proves: "what a gateway of others sends is routed, split, balanced, tried again, limited, checked and timed out by policies"},
		{Letters: "K", Suite: "gateway delegated observed", Proves: "what a gateway of others sends is traced, logged, let past the mesh and patched by policies"},
		{Letters: "K", Suite: "kic", Proves: "an ingress controller of others in front of the mesh", Needs: kubernetes},
		{Letters: "K", Suite: "k8s_api_bypass", Proves: "workloads still reach the API server", Needs: kubernetes},
	}},
	{"Load balancing and resilience", []Row{
		{Letters: "M", Suite: "localityawarelb", Proves: "failover to one zone, then to any: with a threshold of 100 only that zone gets traffic; local alone without a policy; all zones when locality does not count"},
		{Letters: "M", Suite: "meshmultizoneservice", Proves: "local instances are preferred; when they are gone other zones answer"},
		{Letters: "U", Suite: "meshloadbalancingstrategy", Proves: "requests with equal headers stay with one instance, also on a route"},
		{Letters: "U", Suite: "meshloadbalancingstrategy mixed", Proves: "two clients balance the same destination in different ways"},
		{Letters: "U", Suite: "meshhealthcheck", Proves: "HTTP, TCP and gRPC checks, for the mesh or a service, also of a permissive destination: an instance that fails leaves the pool"},
		{Letters: "M", Suite: "healthcheck", Proves: "an instance whose workload is not up gets no traffic from other zones"},
		{Letters: "U", Suite: "healthcheck service probes", Proves: "probes set the state of inbounds; an agent that drains marks its proxy unhealthy"},
		{Letters: "U", Suite: "meshretry", Proves: "failed connections and answers are tried again, for HTTP and gRPC, on a route and on a service"},
		{Letters: "K", Suite: "meshcircuitbreaker", Proves: "limits and detectors are applied to what is sent and what is received; the limit of connections trips"},
		{Letters: "U/K", Suite: "timeout", Proves: "timeouts of what is sent and received, for one proxy, one inbound, a route"},
		{Letters: "M", Suite: "meshtimeout", Proves: "timeouts made in a zone and at global, for a service of another zone and for a route"},
		{Letters: "U", Suite: "meshratelimit", Proves: "429 with a header for every client; a limit of TCP connections"},
		{Letters: "U/K", Suite: "meshfaultinjection", Proves: "aborts and delays for clients by exact and prefix SPIFFE ID; others notice nothing"},
		{Letters: "K", Suite: "graceful", Proves: "instances are added and removed one after the other and no request is lost"},
		{Letters: "K", Suite: "graceful service switch", Proves: "the instances of a service are replaced by those of another workload and no request is lost"},
		{Letters: "K", Suite: "graceful eviction", Proves: "the proxy of an evicted pod is forgotten; the workload starts once Envoy is ready", Needs: kubernetes},
		{Letters: "K", Suite: "jobs", Proves: "the sidecar of a job ends with it", Needs: kubernetes},
		{Letters: "U", Suite: "resilience", Proves: "a proxy is shown offline after an outage of the control plane; of several instances on PostgreSQL one leads, and stops when it loses the database"},
		{Letters: "M", Suite: "resilience", Proves: "a zone is shown offline when its control plane is killed, while global is down, and after global's restart"},
		{Letters: "M", Suite: "zonedisable", Proves: "a disabled zone gets no traffic from others and goes on serving its own"},
		{Letters: "U", Suite: "compatibility", Proves: "proxies of an older and the present version talk to each other"},
	}},
	{"Observability, patching, passthrough", []Row{
		{Letters: "U", Suite: "meshaccesslog", Proves: "logs of what is sent, of a service, of a route, of passthrough and of what is received, as text and JSON; rules by client"},
		{Letters: "M", Suite: "meshaccesslog", Proves: "an ingress logs only connections for the server name asked for"},
		{Letters: "U/K", Suite: "observability", Proves: "spans reach a collector, those of an egress say for which workload"},
		{Letters: "K", Suite: "meshmetric", Proves: "ports, profiles, two Prometheus backends, metrics of the workload beside those of Envoy"},
		{Letters: "K", Suite: "meshmetric otel", Proves: "metrics are pushed to a collector of OpenTelemetry"},
		{Letters: "M", Suite: "meshmetric", Proves: "proxies of a zone have no workload to ask and say which role they play"},
		{Letters: "U/K", Suite: "meshproxypatch", Proves: "a filter in Lua is added; JSON patches; patches for all proxies of zones or for some by label"},
		{Letters: "K", Suite: "meshpassthrough", Proves: "nothing, everything or what matches passes: domains and addresses"},
		{Letters: "U", Suite: "envoyconfig", Proves: "the exact configuration each policy makes at a client, a server and proxies of a zone"},
		{Letters: "U/M/K", Suite: "inspect", Proves: "configuration, statistics and clusters of proxies through the control planes of global and zone; which policies meet which proxies"},
	}},
	{"Proxies of zones", []Row{
		{Letters: "M", Suite: "meshproxy", Proves: "other zones are reached through an ingress, external services through an egress; both count it"},
		{Letters: "U", Suite: "mrl zone_proxy", Proves: "a rate limit for a server name meets only the external service of that name"},
		{Letters: "U", Suite: "mfi zone_proxy", Proves: "a fault for a server name meets only the external service of that name"},
		{Letters: "K", Suite: "mt zone_proxy", Proves: "a timeout for a server name meets only the external service of that name"},
	}},
	{"Several zones, and what it runs on", []Row{
		{Letters: "M", Suite: "sync", Proves: "zones are online and known on both sides; proxies, ingresses and secrets travel the way they should; labels that must not travel are dropped"},
		{Letters: "M", Suite: "producer", Proves: "what the owner of a service decides reaches clients in other zones, also on the owner's routes; what concerns a foreign namespace does not travel"},
		{Letters: "M", Suite: "ownership", Proves: "what is observed of a zone or proxy goes with it"},
		{Letters: "M", Suite: "validation", Proves: "labels have to fit origin and role; what another control plane owns cannot be deleted"},
		{Letters: "M/K", Suite: "defaults", Proves: "meshes and zones start with their default policies and generators"},
		{Letters: "K/U", Suite: "api", Proves: "lists have the shape clients expect; secrets in both of their forms"},
		{Letters: "K", Suite: "appprobeproxy", Proves: "probes of pods go through the proxy, or not when that is switched off", Needs: kubernetes},
		{Letters: "K", Suite: "container_patch", Proves: "patches of containers apply only from the namespace of the system", Needs: kubernetes},
		{Letters: "U", Suite: "transparentproxy", Proves: "rules of redirection are installed again without harm"},
		{Letters: "M", Suite: "cni", Proves: "the network plugin honours what is excluded", Needs: platform},
		{Letters: "U", Suite: "intercp", Proves: "instances of one control plane reach each other"},
	}},
}

// Rows lists the rows of all parts.
func Rows() []Row { return rowsOf(Parts) }
