package rollout

import (
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/orlop-io/orlop/configsync/source"
)

// The reasons of events on workloads.
const (
	// ReasonRolled tells which objects' change rolls the workload.
	ReasonRolled = "ConfigRollout"
	// ReasonWaiting tells that as many rollouts run as may.
	ReasonWaiting = "ConfigRolloutWaiting"
	// ReasonPaused tells what changed while rollouts are paused, and by what.
	ReasonPaused = "ConfigRolloutPaused"
	// ReasonInvalid names an annotation that cannot be understood.
	ReasonInvalid = "ConfigRolloutInvalid"
	// ReasonUnreadable names objects that the controller may not read.
	ReasonUnreadable = "ConfigRolloutUnreadable"
	// ReasonGone names objects that were deleted.
	ReasonGone = "ConfigRolloutObjectGone"
	// ReasonFailed tells that the API server refused the roll.
	ReasonFailed = "ConfigRolloutFailed"
)

// repeat is when what has not changed is told again: within the hour that the API server keeps events.
const repeat = 30 * time.Minute

// announcer remembers what it told of each workload, so that it tells what is new. It may be used by several goroutines.
type announcer struct {
	mu   sync.Mutex
	last map[types.UID]map[string]announcement // by reason
}

type announcement struct {
	message string
	at      time.Time
}

// isNews reports whether a message should be told, and notes that it is.
func (a *announcer) isNews(workload types.UID, reason, message string, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	last, ok := a.last[workload][reason]
	if ok && last.message == message && now.Sub(last.at) < repeat {
		return false
	}
	if a.last == nil {
		a.last = map[types.UID]map[string]announcement{}
	}
	if a.last[workload] == nil {
		a.last[workload] = map[string]announcement{}
	}
	a.last[workload][reason] = announcement{message, now}
	return true
}

// over notes that a state has ended, so that its return is news.
func (a *announcer) over(workload types.UID, reasons ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, reason := range reasons {
		delete(a.last[workload], reason)
	}
	if len(a.last[workload]) == 0 {
		delete(a.last, workload)
	}
}

func (a *announcer) forget(workload types.UID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.last, workload)
}

// announce publishes an event about a state, unless it was published a short while ago.
func (c *Controller) announce(w *workload, eventType, reason, format string, args ...any) {
	message := fmt.Sprintf(format, args...)
	if c.announced.isNews(w.UID, reason, message, c.now()) {
		c.config.Recorder.Event(w.reference(), eventType, reason, message)
	}
}

func (c *Controller) warn(w *workload, reason, format string, args ...any) {
	c.announce(w, corev1.EventTypeWarning, reason, format, args...)
}

func (c *Controller) tell(w *workload, reason, format string, args ...any) {
	c.announce(w, corev1.EventTypeNormal, reason, format, args...)
}

// listing names objects, and not more than a message has room for.
func listing(keys []source.Key) string {
	const most = 5
	var names []string
	for i, key := range keys {
		if i == most {
			names = append(names, fmt.Sprintf("%d more", len(keys)-most))
			break
		}
		names = append(names, key.String())
	}
	if n := len(names); n > 1 {
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
	}
	return strings.Join(names, "")
}
