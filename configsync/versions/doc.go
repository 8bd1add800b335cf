// Package versions removes the old versions of immutable ConfigMaps and Secrets.
//
// Configuration that is versioned has a new object, with a new name, for each content (kustomize's generators make them
// so), and workloads refer to the name: that rolls them, and rolls them back. What nobody cleans up is the objects. A
// Controller deletes those that carry the label LabelCollect once nothing has referred to them for a while: no pod that
// can still run, no template of a workload, and none of the old templates (ReplicaSets, ControllerRevisions) to which a
// rollout can be undone.
//
// It reads metadata of ConfigMaps and Secrets alone, and never of one without the label. That an object is immutable is
// no metadata: the API server is asked by a JSON patch that consists of a test (RFC 6902) and is a dry run.
//
// # Races
//
// The informers that tell what is referred to may be behind. So right before a deletion everything that can refer is
// listed anew, by consistent reads; the informers are asked once more between that and each delete; and the delete itself
// has the object's UID and version as preconditions. What is left is a reference that is created in the milliseconds
// between the list and the delete, to an object that nothing had referred to for the whole grace period: its pods wait,
// with an event that says what is missing, until the object is applied again. Kubernetes has no precondition that
// spans two objects, so this cannot be closed, only made small.
package versions
