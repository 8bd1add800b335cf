package rollout

import (
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/orlop-io/orlop/configsync/payload"
	"github.com/orlop-io/orlop/configsync/reference"
	"github.com/orlop-io/orlop/configsync/source"
)

// The annotations of a workload. They are looked for on the workload first, then on its pod template.
const (
	// AnnotationRollout opts a workload in ("true"), or out of everything, Reloader's annotations included ("false").
	AnnotationRollout = "config.orlop.io/rollout"
	// AnnotationOnly lists the objects to follow, such as "configmap/a,secret/b", instead of all that the pods use. They
	// need not be in the pod template.
	AnnotationOnly = "config.orlop.io/rollout-only"
	// AnnotationIgnore lists objects not to follow.
	AnnotationIgnore = "config.orlop.io/rollout-ignore"
	// AnnotationWindow is how long no edit must have come before the workload is rolled, as "10s": 0s to 1h.
	AnnotationWindow = "config.orlop.io/rollout-window"
	// AnnotationPaused, on a workload or on a Namespace, has changes wait ("true").
	AnnotationPaused = "config.orlop.io/rollout-paused"
)

// The annotations that the controller writes.
const (
	// AnnotationObserved, on the workload, is the baseline.
	AnnotationObserved = "config.orlop.io/observed"
	// AnnotationHash, on the pod template, changes with each roll.
	AnnotationHash = "config.orlop.io/hash"
)

// maxWindow is the longest window: longer, and a forgotten annotation looks like a controller that is broken.
const maxWindow = time.Hour

// InvalidError is an annotation that cannot be understood. Nothing is rolled until it is mended.
type InvalidError struct {
	Annotation, Value, Allowed string
}

var _ error = (*InvalidError)(nil)

// Error names the annotation, its value and what is allowed.
func (e *InvalidError) Error() string {
	value := e.Value
	if len(value) > 80 {
		value = value[:80] + "…"
	}
	return fmt.Sprintf("annotation %s is %q: allowed is %s", e.Annotation, value, e.Allowed)
}

// settings is what a workload's annotations ask for.
type settings struct {
	// all are the kinds of which every object that the pods use is followed.
	all map[payload.Kind]bool
	// only, where not empty, takes the place of all.
	only   []source.Key
	ignore map[source.Key]bool
	reloader
	window time.Duration // negative where the workload does not say
	paused bool
}

// followed reports whether the workload opted in.
func (s *settings) followed() bool {
	return len(s.all) > 0 || len(s.only) > 0 || len(s.named) > 0 || s.search
}

// parse reads the annotations of a workload in a namespace. withReloader has it read Reloader's as well. A workload that is
// not followed may have wrong ones.
func parse(namespace string, get lookup, withReloader bool) (settings, error) {
	s := settings{all: map[payload.Kind]bool{}, ignore: map[source.Key]bool{}, window: -1}
	rollout, set, err := boolean(get, AnnotationRollout)
	if err != nil || set && !rollout {
		return s, err
	}
	if rollout {
		s.all[payload.ConfigMap], s.all[payload.Secret] = true, true
		if s.only, err = list(namespace, get, AnnotationOnly); err != nil {
			return s, err
		}
	}
	if withReloader {
		if err := s.parseReloader(namespace, get); err != nil {
			return s, err
		}
	}
	if !s.followed() {
		return s, nil
	}
	ignore, err := list(namespace, get, AnnotationIgnore)
	if err != nil {
		return s, err
	}
	for _, key := range ignore {
		s.ignore[key] = true
	}
	if s.paused, _, err = boolean(get, AnnotationPaused); err != nil {
		return s, err
	}
	if v, ok := get(AnnotationWindow); ok {
		if s.window, err = time.ParseDuration(v); err != nil || s.window < 0 || s.window > maxWindow {
			return s, &InvalidError{AnnotationWindow, v, `a duration between "0s" and "1h", as "10s"`}
		}
	}
	return s, nil
}

// lookup finds an annotation of a workload.
type lookup func(annotation string) (value string, ok bool)

func boolean(get lookup, annotation string) (value, set bool, _ error) {
	switch v, ok := get(annotation); {
	case !ok:
		return false, false, nil
	case v == "true", v == "false":
		return v == "true", true, nil
	default:
		return false, true, &InvalidError{annotation, v, `"true" or "false"`}
	}
}

// list reads a list of objects.
func list(namespace string, get lookup, annotation string) ([]source.Key, error) {
	v, ok := get(annotation)
	if !ok {
		return nil, nil
	}
	var keys []source.Key
	for item := range strings.SplitSeq(v, ",") {
		kind, name, _ := strings.Cut(strings.TrimSpace(item), "/")
		key := source.Key{Namespace: namespace, Name: name}
		switch strings.ToLower(kind) {
		case "configmap":
			key.Kind = payload.ConfigMap
		case "secret":
			key.Kind = payload.Secret
		}
		if key.Kind == "" || !isName(name) {
			return nil, &InvalidError{annotation, v,
				`a list of objects in the workload's namespace, as "configmap/a,secret/b"`}
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func isName(name string) bool { return len(validation.IsDNS1123Subdomain(name)) == 0 }

// demand is what a workload wants of an object.
type demand struct {
	// optional: the pods start without it.
	optional bool
	// tagged: it is followed only where its own annotation says so.
	tagged bool
}

// follow returns which objects the workload follows, by its settings and what its pods refer to.
//
// Image pull secrets and the credentials of volume drivers are not among them unless they are listed: the kubelet reads
// them anew whenever it needs them. Nor are objects of other namespaces: the controller may read what those who may edit
// the workload may not, and would tell them that there is such an object, and when it changes.
func (s *settings) follow(namespace string, references []reference.Reference) map[source.Key]demand {
	optional := map[source.Key]bool{}
	wanted := map[source.Key]demand{}
	for _, r := range references {
		if r.Key.Namespace != namespace {
			continue
		}
		optional[r.Key] = r.Optional
		if !r.Uses.Has(reference.Env | reference.Volume) {
			continue
		}
		switch {
		case s.all[r.Key.Kind] && len(s.only) == 0, s.matches(r.Key):
			wanted[r.Key] = demand{optional: r.Optional}
		case s.search:
			wanted[r.Key] = demand{optional: r.Optional, tagged: true}
		}
	}
	listed := s.only
	for _, n := range s.named {
		if n.pattern == nil {
			listed = append(listed[:len(listed):len(listed)], n.key)
		}
	}
	for _, key := range listed {
		needed, used := optional[key]
		wanted[key] = demand{optional: !used || needed}
	}
	for key := range wanted {
		if s.ignore[key] {
			delete(wanted, key)
		}
	}
	return wanted
}
