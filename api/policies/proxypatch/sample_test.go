package proxypatch_test

import (
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/types/known/durationpb"
)

type anyCluster = clusterv3.Cluster

// sample is a cluster with a little of everything.
func sample() *anyCluster {
	return &clusterv3.Cluster{
		Name: "backend", ConnectTimeout: durationpb.New(5 * time.Second),
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		CommonLbConfig:       &clusterv3.Cluster_CommonLbConfig{},
	}
}
