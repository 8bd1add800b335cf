package provisioner

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// outcome is what an answer to CreateVolume says about the volume.
type outcome int

const (
	// created: the volume exists and its ID is known.
	created outcome = iota
	// unfinished: the driver may still be working, or be done without our knowing. The same request must be repeated.
	unfinished
	// exhausted: there is no volume, and none fits at this place; another node may have room.
	exhausted
	// failed: there is no volume.
	failed
)

func (o outcome) String() string {
	return [...]string{"created", "unfinished", "exhausted", "failed"}[o]
}

// classify reads the error of a CreateVolume call. The four codes that the CSI spec's error scheme and upstream's
// provisioner take as "an operation may be pending" are unfinished. Unknown is too, unlike upstream: it is what a bare
// error becomes on the wire, and takes nothing back that the driver had begun.
func classify(err error) outcome {
	switch status.Code(err) {
	case codes.OK:
		return created
	case codes.Aborted, codes.Canceled, codes.DeadlineExceeded, codes.Unavailable, codes.Unknown:
		return unfinished
	case codes.ResourceExhausted:
		return exhausted
	default:
		return failed
	}
}
