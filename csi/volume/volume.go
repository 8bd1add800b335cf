// Package volume is the domain of Orlop's CSI drivers: what a volume is, what may be asked of it, and the interfaces
// that those who keep volumes implement.
//
// A request flows down from csi/driver, which turns the words of the CSI protocol into the types of this package,
// through the decorator Serialize, which keeps two operations on one volume apart, to a Backend and a Mounter (such as
// csi/local). Errors climb back as the sentinels of errors.go and become protocol codes in csi/driver alone.
//
// The package imports the standard library alone and makes no system call.
package volume

import "context"

// Backend makes, removes and describes volumes: what the CSI specification calls the controller service.
//
// Implementations are idempotent as the specification demands, survive being killed at any point (a repeated call
// completes or undoes what an earlier one left), and are safe for concurrent use by operations on different volumes.
// Operations on one volume must not overlap: wrap the implementation with Serialize.
type Backend interface {
	// Create makes the volume that spec names, or returns the one made before for the same name. It fails with
	// ErrIncompatible when that one does not satisfy spec, ErrInvalid when spec cannot be satisfied by any pool,
	// ErrOutOfRange when no volume can have the size, and ErrExhausted when this pool has no room for it.
	Create(ctx context.Context, spec Spec) (Volume, error)

	// Delete removes the volume and its data for good. A volume that does not exist is no error; one that is in use
	// fails with ErrInUse and stays whole.
	Delete(ctx context.Context, id ID) error

	// Get returns the volume, or ErrNotFound.
	Get(ctx context.Context, id ID) (Volume, error)

	// List returns all volumes in the order of their IDs.
	List(ctx context.Context) ([]Volume, error)

	// Capacity says how much a volume with these parameters and capabilities could have. Capabilities that no volume
	// can have make it zero.
	Capacity(ctx context.Context, parameters map[string]string, caps []Capability) (Capacity, error)

	// CheckVolume reports, as ErrInvalid, why v cannot be used in these ways, or was not made with these parameters.
	CheckVolume(v Volume, parameters map[string]string, caps []Capability) error
}

// Mounter makes volumes usable on this node: what the CSI specification calls the node service. The rules of Backend
// on idempotency, kills and concurrency hold here too.
type Mounter interface {
	// Stage makes the volume ready at path, from where Publish takes it. Repeating it restores a mount that was lost.
	Stage(ctx context.Context, id ID, path string, capability Capability) error

	// Unstage undoes Stage. Nothing there is no error.
	Unstage(ctx context.Context, id ID, path string) error

	// Publish makes the staged volume appear at the target of one workload.
	Publish(ctx context.Context, id ID, req PublishRequest) error

	// Unpublish undoes Publish and removes target. Nothing there is no error.
	Unpublish(ctx context.Context, id ID, target string) error

	// Stats says how full the volume is that is staged or published at path, and whether it is healthy. It fails with
	// ErrNotFound when the volume does not exist or is not at path.
	Stats(ctx context.Context, id ID, path string) (Stats, error)
}

// Service is a Backend and a Mounter of the same volumes.
type Service interface {
	Backend
	Mounter
}

// Kind says how a volume is kept. It is part of the volume's ID.
type Kind string

// The kinds of node-local volumes.
const (
	KindDir  Kind = "dir"  // a plain directory; its size is not enforced
	KindLoop Kind = "loop" // a file system in an image file behind a loop device
)

// Spec is what a volume is asked to be.
type Spec struct {
	// Name identifies the request: the same name always means the same volume.
	Name string
	// Size is the range the capacity must lie in.
	Size SizeRange
	// Capabilities lists every way the volume will be used in. There is at least one.
	Capabilities []Capability
	// Parameters come from the StorageClass.
	Parameters map[string]string
}

// Volume describes a volume that exists.
type Volume struct {
	ID ID
	// Capacity in bytes.
	Capacity int64
	// Context is handed to those who use the volume, and shown on its PersistentVolume.
	Context map[string]string
	// Block says that the volume is a block device and has no file system.
	Block bool
}

// PublishRequest says where and how a staged volume is to appear.
type PublishRequest struct {
	// Staging is the path that was given to Stage.
	Staging string
	// Target is the path to make: a directory for a mounted volume, a file for a block device.
	Target     string
	Capability Capability
	// ReadOnly asks for a read-only view of a volume that others may write to.
	ReadOnly bool
}

// Capacity is how much room is left for volumes, in bytes.
type Capacity struct {
	Available int64 // for all volumes together
	Maximum   int64 // for a single one
	Minimum   int64 // the smallest a volume can be
}

// Stats says how full a volume is.
type Stats struct {
	// Bytes; for a block device only the total is known.
	TotalBytes, UsedBytes, AvailableBytes int64
	// Inodes; all zero for a block device.
	TotalInodes, UsedInodes, FreeInodes int64
	// Block says that the volume is a block device.
	Block bool
	// Abnormal says, when not empty, what is wrong with the volume.
	Abnormal string
}

// AccessMode says who may use a volume at a time, in the terms of the CSI specification's
// VolumeCapability.AccessMode.
type AccessMode string

// The access modes of volumes that live on a single node.
const (
	SingleNodeWriter       AccessMode = "SINGLE_NODE_WRITER"
	SingleNodeReaderOnly   AccessMode = "SINGLE_NODE_READER_ONLY"
	SingleNodeSingleWriter AccessMode = "SINGLE_NODE_SINGLE_WRITER"
	SingleNodeMultiWriter  AccessMode = "SINGLE_NODE_MULTI_WRITER"
)

// Capability is one way of using a volume.
type Capability struct {
	Mode AccessMode
	// Block asks for the raw device; FSType and MountFlags are empty then.
	Block bool
	// FSType is the file system asked for; empty leaves the choice to the backend.
	FSType string
	// MountFlags are the mount options asked for, as in mount(8) -o.
	MountFlags []string
}
