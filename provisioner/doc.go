// Package provisioner makes and removes volumes for claims whose StorageClass names a CSI driver.
//
// What flows through it: a claim and its class go into NewPlan, a pure function that answers a CreateVolumeRequest or
// a *Refusal. The plan is written to a Journal, sent to the driver over gRPC, and the answer becomes a
// PersistentVolume whose claimRef is already set. Binding the claim to it is somebody else's work (a PV binder such as
// this project's pvcontroller, or upstream's). When a volume is Released and its policy is Delete, the same package
// deletes it from the driver and then removes the PersistentVolume and its finalizer.
//
// Two roles share that core. Node runs on every node beside a driver whose volumes live on that node: it serves the
// claims whose selected node it is. Leader runs once in the cluster: it selects a node for claims that bind at once,
// takes a selection back when its node is gone, and says on a PersistentVolume when its node is gone for good.
//
// # Why a journal
//
// Aborted, Canceled, DeadlineExceeded and Unavailable mean that a volume may exist although nobody was told its ID.
// If the claim is deleted then, only the request can find the volume again: CSI makes CreateVolume idempotent by name.
// So the request is recorded before it is sent and forgotten only when a PersistentVolume holds the answer or the
// driver has said definitely that there is no volume. After a restart every recorded request is settled: its claim
// is served as before, or the request is repeated to learn the volume's ID and that volume is deleted.
//
// The alternatives were a finalizer on the claim (one more write to the API server for every claim, and a claim that
// cannot be deleted while the node is down) and a comparison of ListVolumes with all PersistentVolumes. The latter is
// unsafe: a volume whose PersistentVolume an administrator removed under the Retain policy looks exactly like a leaked
// one. A local file costs one fsync and names only volumes that never reached a PersistentVolume.
//
// # What it never does
//
// It never binds claims, never imports a driver, never sends a secret, and never deletes a volume because it
// is unknown.
package provisioner
