// Package rollout rolls workloads when the content of a ConfigMap or Secret that they use changes, which is what brings
// a change to environment variables and to files mounted by subPath: neither can change in a running container.
//
// Deployments, StatefulSets and DaemonSets opt in by an annotation (see settings.go and reloader.go). One informer a kind
// finds them, keeping next to nothing of the others. Only objects that they use are read, one watch each (package source).
//
// A baseline on the workload's own metadata says of which content its pods are: a keyed hash an object. It is what makes
// opting in roll nothing, and a change that was made while no controller ran be caught up. A roll is one patch, of the
// baseline and of an annotation in the pod template together, made on the condition that nobody changed the workload since
// it was read. From there on it is the workload's own strategy that replaces the pods.
//
// The way of one workload, at every change of it and of what it uses, is sync.go: settings -> objects -> baseline
// (pure) -> window -> pause -> turn -> patch.
package rollout
