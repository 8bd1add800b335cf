package versions

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What objects carry.
const (
	// LabelCollect with the value CollectUnused has an immutable ConfigMap or Secret deleted when it is no longer used.
	LabelCollect = "config.orlop.io/collect"
	// CollectUnused is the one value of LabelCollect.
	CollectUnused = "unused"
	// AnnotationAfter is for how long the object must have been unused, as a Go duration such as "24h". It takes the
	// place of Config.After.
	AnnotationAfter = "config.orlop.io/collect-after"
	// AnnotationSince is since when the object is unused (RFC 3339). The controller writes it, so that a restart does not
	// begin anew, and takes it off when something refers to the object again.
	AnnotationSince = "config.orlop.io/unused-since"
)

// action is what an object needs.
type action int

const (
	nothing action = iota // and nothing will, until the object or what refers to it changes
	wait                  // until a time
	mark                  // as unused since now
	unmark                // it is used
	collect               // its time has come
)

// verdict says what to do with an object.
type verdict struct {
	action action
	// wait is how long to wait.
	wait time.Duration
	// grace is for how long the object was unused at the least, with collect.
	grace time.Duration
	// problem says what of the object keeps it from being collected, for its owner.
	problem string
}

// decide is the whole policy. It is pure.
func decide(o metav1.Object, used bool, after time.Duration, now time.Time) verdict {
	if o.GetDeletionTimestamp() != nil || o.GetLabels()[LabelCollect] != CollectUnused {
		return verdict{}
	}
	annotations := o.GetAnnotations()
	stamp, marked := annotations[AnnotationSince]
	if used {
		if marked {
			return verdict{action: unmark}
		}
		return verdict{}
	}
	grace := after
	if text, own := annotations[AnnotationAfter]; own {
		var err error
		// One that cannot be read keeps the object: whoever wrote it wanted something else than the default.
		if grace, err = time.ParseDuration(text); err != nil || grace < 0 {
			return verdict{problem: fmt.Sprintf("annotation %s is %q: give a duration such as 30m or 24h", AnnotationAfter, text)}
		}
	}
	since, err := time.Parse(time.RFC3339, stamp)
	if !marked || err != nil || since.After(now) {
		return verdict{action: mark, grace: grace}
	}
	// An annotation that is older than the object was copied from another one.
	if created := o.GetCreationTimestamp().Time; created.After(since) {
		since = created
	}
	if due := since.Add(grace).Sub(now); due > 0 {
		return verdict{action: wait, wait: due}
	}
	return verdict{action: collect, grace: grace}
}
