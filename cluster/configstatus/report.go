// Package configstatus tells, for every configuration volume on a node, which generation it shows, of which versions of
// which objects that is, and what the API server has by now. It reads the volumes' directories and the metadata of
// objects, never what is in them.
//
// A volume is behind where the API has a newer version of an object than the one that the volume's files agree with, as
// noted beside them by configsync/writer; an edit that changed no file is noted as well, so it leaves no volume behind.
// An immutable object is the same for as long as its UID is. Of a pod's own fields labels and annotations are compared:
// nothing else that a volume shows changes while the pod runs, and the kubelet's copy of a pod has no current version.
package configstatus

import (
	"time"

	"github.com/orlop-io/orlop/configsync/payload"
)

// State says how a volume, or what it shows of an object, stands to the API.
type State string

// The states.
const (
	Current State = "current"
	// Behind is a volume that does not show what the API has.
	Behind State = "behind"
	// Pending is a volume of a pod that has not been set up yet.
	Pending State = "pending"
	// Gone is a volume whose pod the API does not have any more.
	Gone State = "gone"
	// Unknown is a volume that there is nothing to compare with: no API server, or upstream's plugin wrote it.
	Unknown State = "unknown"
)

// Report is what is known of a node's configuration volumes.
type Report struct {
	// Compared is false where the API server could not be asked; Failure then says why.
	Compared bool   `json:"compared"`
	Failure  string `json:"failure,omitempty"`
	// Volumes are sorted by namespace, pod and name.
	Volumes []Volume `json:"volumes"`
	// Fixed is what does not follow its object while a container runs.
	Fixed []Fixed `json:"fixed"`
}

// Behind reports whether a volume is behind or pending.
func (r *Report) Behind() bool {
	for _, v := range r.Volumes {
		if v.State == Behind || v.State == Pending {
			return true
		}
	}
	return false
}

// Volume is one volume of a pod.
type Volume struct {
	// Namespace and Pod are empty where there is no API server, and nothing on the node tells them.
	Namespace string `json:"namespace,omitempty"`
	Pod       string `json:"pod,omitempty"`
	PodUID    string `json:"podUID"`
	Name      string `json:"name"`
	Kind      string `json:"kind"` // configMap, secret, projected, downwardAPI or csi
	Path      string `json:"path,omitempty"`
	// Generation is the directory that is visible, and Since when it was written, to the second.
	Generation string    `json:"generation,omitempty"`
	Since      time.Time `json:"since,omitzero"`
	Objects    []Object  `json:"objects,omitempty"`
	State      State     `json:"state"`
	Message    string    `json:"message,omitempty"` // why it is in a state other than current
}

// Object is an object that a volume shows, at the version that its files agree with.
type Object struct {
	payload.Version

	State State `json:"state"`
	// Present is the version that the API has, where that is another one.
	Present string `json:"presentResourceVersion,omitempty"`
	Message string `json:"message,omitempty"`
}

// Fixed is something a running container has of an object and keeps until it is started again.
type Fixed struct {
	Namespace string       `json:"namespace"`
	Pod       string       `json:"pod"`
	Container string       `json:"container"`
	What      string       `json:"what"` // "env A, B", "envFrom" or "subPath /path"
	Kind      payload.Kind `json:"kind"`
	Name      string       `json:"name"`
	// Changed is true where the object was edited, made again or deleted since the container started.
	Changed bool   `json:"changed"`
	Message string `json:"message"`
}
