package action

import (
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// Kind is what is done on a change.
type Kind string

// The kinds, as they are written before the "=" of the annotation.
const (
	KindSignal  Kind = "signal"
	KindExec    Kind = "exec"
	KindHTTP    Kind = "http"
	KindHTTPS   Kind = "https"
	KindRestart Kind = "restart-container"
)

// What holds where the annotations say nothing, and the bounds of what they may say.
const (
	DefaultDebounce = 500 * time.Millisecond
	MinDebounce     = 10 * time.Millisecond
	MaxDebounce     = 10 * time.Minute
	DefaultRetries  = 5
	MaxRetries      = 20
	DefaultTimeout  = 30 * time.Second
	MinTimeout      = time.Second
	MaxTimeout      = 10 * time.Minute
)

// Spec is what is to be done when the configuration of a pod changes. It is not changed after Parse.
type Spec struct {
	Kind    Kind
	Signal  Signal   // of KindSignal
	Command []string // of KindExec; never empty, and not run by a shell
	Request Request  // of KindHTTP and KindHTTPS
	// Container limits the action to the container of that name. Where it is empty, the action is for every running
	// container that mounts a changed volume.
	Container string
	// Volumes are the volumes that count. Where it is empty, all but those that Kubernetes adds by itself do.
	Volumes []string
	// Debounce is how long nothing may change any more before the action runs. It never waits longer than ten times
	// that after the first change.
	Debounce time.Duration
	// Retries is how often a failed action is tried again before it is given up.
	Retries int
	// Timeout bounds one run of the command or one request.
	Timeout time.Duration
}

// Request is an HTTP request to the pod.
type Request struct {
	Method string
	// Port is a number, or the name of a container's port.
	Port string
	// Path begins with a slash, and may have a query.
	Path string
}

// addedVolume begins the name of the volume with the service account's token, which Kubernetes adds to a pod by itself.
const addedVolume = "kube-api-access-"

// Follows reports whether a change of the volume is to be acted on.
func (s *Spec) Follows(volume string) bool {
	if len(s.Volumes) == 0 {
		return !strings.HasPrefix(volume, addedVolume)
	}
	return slices.Contains(s.Volumes, volume)
}

// String returns the action in the form in which Parse takes it, without what other annotations say.
func (s *Spec) String() string {
	b := string(s.Kind)
	switch s.Kind {
	case KindSignal:
		b += "=" + s.Signal.String()
	case KindExec:
		raw, err := json.Marshal(s.Command)
		if err != nil {
			return b // strings cannot fail
		}
		b += "=" + string(raw)
	case KindHTTP, KindHTTPS:
		b += "=" + s.Request.Method + " :" + s.Request.Port + s.Request.Path
	}
	if s.Container != "" {
		b += containerOption + s.Container
	}
	return b
}
