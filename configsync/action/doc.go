// Package action acts on a change of a pod's configuration: it sends a signal, runs a command in a container, makes an
// HTTP request to the pod, or restarts a container, after the new files have become visible.
//
// Annotations of the pod say what is to be done; Parse reads them. A Tracker, one a volume, decides which writes of the
// volume are changes, and remembers on disk up to which of them was acted on, so that a change is acted on at least once
// even if the process dies in between. A Runner, one a node, gathers the changes of a pod, acts, tries again, and
// reports on the pod. The container runtime is behind the Runtime interface; package cri has the real one.
package action
