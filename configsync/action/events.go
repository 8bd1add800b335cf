package action

import (
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
)

// The reasons of the events.
const (
	// EventApplied is an action that was taken.
	EventApplied = "ConfigChangeApplied"
	// EventFailed is an action that failed and is tried again, or was given up.
	EventFailed = "ConfigChangeFailed"
	// EventInvalid is an action that cannot be taken because what asks for it is wrong.
	EventInvalid = "ConfigChangeInvalid"
)

const (
	// burst is how many events of one reason a pod gets before they are spread over time, interval the time from one to
	// the next then. Their messages are the same for the same action, so that the API server has one object of many.
	burst    = 5
	interval = time.Minute
	// maxMessage bounds an event, whose message the API server limits to 1024 bytes.
	maxMessage = 900
)

// reporter writes events on pods, not too many.
type reporter struct {
	recorder record.EventRecorder

	mu      sync.Mutex
	buckets map[bucketKey]bucket
}

type bucketKey struct{ pod, reason string }

// bucket holds what may be reported still; a full one need not be kept.
type bucket struct {
	tokens float64
	at     time.Time
}

func newReporter(recorder record.EventRecorder) *reporter {
	return &reporter{recorder: recorder, buckets: map[bucketKey]bucket{}}
}

// allow reports whether an event may be written now.
func (r *reporter) allow(key bucketKey) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	filled := func(b bucket) float64 { return b.tokens + float64(now.Sub(b.at))/float64(interval) }
	for k, b := range r.buckets {
		if filled(b) >= burst {
			delete(r.buckets, k)
		}
	}
	tokens := float64(burst)
	if b, ok := r.buckets[key]; ok {
		tokens = filled(b)
	}
	if tokens < 1 {
		return false
	}
	r.buckets[key] = bucket{tokens - 1, now}
	return true
}

func (r *reporter) report(pod Pod, kind, reason, message string) {
	if r.recorder == nil || !r.allow(bucketKey{pod.UID, reason}) {
		return
	}
	if len(message) > maxMessage {
		message = strings.ToValidUTF8(message[:maxMessage], "") + "…"
	}
	r.recorder.Event(pod.reference(), kind, reason, message)
}

func (p Pod) reference() *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: types.UID(p.UID)}
}

func (r *reporter) applied(b *batch, did []string) {
	r.report(b.pod, corev1.EventTypeNormal, EventApplied, fmt.Sprintf("%s changed: %s", b.subject(), strings.Join(did, ", ")))
}

func (r *reporter) failed(b *batch, err error) {
	r.report(b.pod, corev1.EventTypeWarning, EventFailed, fmt.Sprintf("%s changed: %s; trying again", b.subject(), oneLine(err)))
}

func (r *reporter) gaveUp(b *batch, attempts int, err error) {
	r.report(b.pod, corev1.EventTypeWarning, EventFailed,
		fmt.Sprintf("%s changed: %s; given up after attempt %d, until the next change", b.subject(), oneLine(err), attempts))
}

func (b *batch) subject() string {
	names := b.changed()
	if len(names) == 1 {
		return "Volume " + names[0]
	}
	return "Volumes " + strings.Join(names, ", ")
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// Invalid tells the user of a pod that its action cannot be taken.
func (r *Runner) Invalid(pod Pod, err error) {
	r.events.report(pod, corev1.EventTypeWarning, EventInvalid, oneLine(err)+"; files change without the action")
}
