package load

import (
	"bytes"

	"google.golang.org/protobuf/encoding/protowire"
)

// What a proxy reads of a message is a few fields deep inside; decoding the messages would cost more than serving them.

// fields calls f for each length-delimited field of a message until it returns false. Broken messages end early.
func fields(msg []byte, f func(num protowire.Number, value []byte) bool) bool {
	for len(msg) > 0 {
		num, typ, n := protowire.ConsumeTag(msg)
		if n < 0 {
			return true
		}
		msg = msg[n:]
		if typ != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(num, typ, msg); n < 0 {
				return true
			}
			msg = msg[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(msg)
		if n < 0 {
			return true
		}
		msg = msg[n:]
		if !f(num, value) {
			return false
		}
	}
	return true
}

// field is the last value of a length-delimited field, nil when it is absent.
func field(msg []byte, want protowire.Number) (found []byte) {
	fields(msg, func(num protowire.Number, value []byte) bool {
		if num == want {
			found = value
		}
		return true
	})
	return found
}

// endpointsOf is the assignment that a Cluster asks for, nil when it is not an EDS cluster.
func endpointsOf(cluster []byte) []byte {
	eds := field(cluster, 3)
	if eds == nil {
		return nil
	}
	if name := field(eds, 2); len(name) > 0 {
		return name
	}
	return field(cluster, 1)
}

const connectionManager = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"

// needsOf calls route and extension for each name that a Listener asks for.
func needsOf(listener []byte, route, extension func(name []byte)) {
	fields(listener, func(num protowire.Number, v []byte) bool {
		switch num {
		case 3, 25: // filter_chains, default_filter_chain
			fields(v, func(num protowire.Number, filter []byte) bool {
				if num == 3 {
					needsOfFilter(filter, route, extension)
				}
				return true
			})
		case 9: // listener_filters
			if field(v, 5) != nil {
				extension(field(v, 1))
			}
		}
		return true
	})
}

func needsOfFilter(filter []byte, route, extension func(name []byte)) {
	if field(filter, 5) != nil { // config_discovery
		extension(field(filter, 1))
		return
	}
	typed := field(filter, 4)
	if !bytes.HasSuffix(field(typed, 1), []byte(connectionManager)) {
		return
	}
	fields(field(typed, 2), func(num protowire.Number, v []byte) bool {
		switch num {
		case 3: // rds
			if name := field(v, 2); len(name) > 0 {
				route(name)
			}
		case 5: // http_filters
			if field(v, 5) != nil {
				extension(field(v, 1))
			}
		}
		return true
	})
}
