// Package driver speaks the Container Storage Interface (CSI) over gRPC, for a volume.Service, and does nothing else: it
// checks that requests are well formed, translates them into the terms of csi/volume and the answers back. It knows no
// backend and makes no system call.
//
// Every call passes one chain of interceptors (see Server), and every error becomes a protocol code in one place (see
// code): codes are protocol. Aborted, Canceled, DeadlineExceeded and Unavailable tell the caller that the operation may
// still be under way, ResourceExhausted that another place may have room, and all others that the failure is final.
package driver

import (
	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"

	"github.com/orlop-io/orlop/csi/volume"
)

// Info says who the driver is and where it runs.
type Info struct {
	// Name of the driver, as "local.csi.orlop.io".
	Name string
	// Version of the program, for people.
	Version string
	// NodeID is the name of the node.
	NodeID string
	// TopologyKey is the key of the topology segment whose value is NodeID: volumes can be reached there alone.
	TopologyKey string
}

// topology is the one place from where the driver's volumes can be reached.
func (i Info) topology() *csi.Topology {
	return &csi.Topology{Segments: map[string]string{i.TopologyKey: i.NodeID}}
}

// Driver implements the three CSI services. Its methods are safe for concurrent use.
type Driver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedControllerServer
	csi.UnimplementedNodeServer

	info    Info
	volumes volume.Service
	ready   func() error
}

var (
	_ csi.IdentityServer   = (*Driver)(nil)
	_ csi.ControllerServer = (*Driver)(nil)
	_ csi.NodeServer       = (*Driver)(nil)
)

// New returns a driver for volumes, whose operations on one volume must not overlap (see volume.Serialize). ready says
// why the driver cannot serve at the moment, for Probe; nil when it can.
func New(info Info, volumes volume.Service, ready func() error) *Driver {
	return &Driver{info: info, volumes: volumes, ready: ready}
}

// Register adds the driver's services to a gRPC server.
func (d *Driver) Register(s grpc.ServiceRegistrar) {
	csi.RegisterIdentityServer(s, d)
	csi.RegisterControllerServer(s, d)
	csi.RegisterNodeServer(s, d)
}
