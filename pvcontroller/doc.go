// Package pvcontroller binds PersistentVolumeClaims to PersistentVolumes and carries out what is to happen to a
// volume when its claim is gone. It takes the place of upstream's persistentvolume-binder-controller, which must be
// switched off where this one runs, and keeps that controller's contract with users, the scheduler and external
// provisioners: the same phases, annotations and event reasons.
//
// Claims and volumes flow in from shared informers, through one queue each, to a reconciler each. A reconciler first
// decides (pure functions of what was observed: decideUnbound, decideNamed, decideBound, decideVolume, match) and
// then acts. What it never does: create or delete volumes, in a cluster or on a disk. That is a provisioner's work;
// the two meet only in the objects' annotations, finalizers and phases.
//
// # Binding
//
// A bind is four writes in a fixed order, each in a file of its own:
//
//	PV.spec.claimRef -> PV.status.phase=Bound -> PVC.spec.volumeName and annotations -> PVC.status.phase=Bound
//
// Every one of them is a compare-and-swap on the resource version, and every state between two of them is a state the
// reconcilers recognize and carry on from, so a crash at any point, a stale cache and a second controller cost
// repeated work but never a second claim on a volume. PVC.spec.volumeName is what decides: the API server lets it be
// set once. A volume that refers to a claim which has another volume is let go again.
//
// Nothing is concluded from the absence of an object in a cache: before a volume counts as released or a claim as
// lost, the API server is asked.
package pvcontroller
