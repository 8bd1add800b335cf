package pvcontroller

import (
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// The reasons of events, with the names that upstream gave them.
const (
	reasonClaimLost            = "ClaimLost"
	reasonClaimMisbound        = "ClaimMisbound"
	reasonExternalProvisioning = "ExternalProvisioning"
	reasonFailedBinding        = "FailedBinding"
	reasonProvisioningFailed   = "ProvisioningFailed"
	reasonUnknownReclaimPolicy = "VolumeUnknownReclaimPolicy"
	reasonVolumeFailedDelete   = "VolumeFailedDelete"
	reasonVolumeFailedRecycle  = "VolumeFailedRecycle"
	reasonVolumeMismatch       = "VolumeMismatch"
	reasonVolumeRecycled       = "VolumeRecycled"
	reasonWaitForFirstConsumer = "WaitForFirstConsumer"
	reasonWaitForPodScheduled  = "WaitForPodScheduled"
)

// defaultRepeat is when an unchanged reason for waiting is told again: well within the hour that the API server keeps
// events for.
const defaultRepeat = 15 * time.Minute

// announcer remembers what was last told about each object, so that a claim which is looked at often says once why it
// waits. It is safe for concurrent use.
type announcer struct {
	repeatAfter time.Duration // when what was said is worth saying again

	mu   sync.Mutex
	last map[types.UID]map[string]announcement // by reason
}

type announcement struct {
	message string
	at      time.Time
}

// isNews tells whether a message is worth an event, and remembers it if so.
func (a *announcer) isNews(object types.UID, reason, message string, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	last, ok := a.last[object][reason]
	if ok && last.message == message && now.Sub(last.at) < a.repeatAfter {
		return false
	}
	if a.last == nil {
		a.last = map[types.UID]map[string]announcement{}
	}
	if a.last[object] == nil {
		a.last[object] = map[string]announcement{}
	}
	a.last[object][reason] = announcement{message, now}
	return true
}

func (a *announcer) forget(object types.UID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.last, object)
}

// eventObject is what events are about.
type eventObject interface {
	runtime.Object
	metav1.Object
}

// announce publishes an event, unless it says what was said of the object a short while ago.
func (c *Controller) announce(object eventObject, eventType, reason, message string) {
	if c.announced.isNews(object.GetUID(), reason, message, time.Now()) {
		c.recorder.Event(object, eventType, reason, message)
	}
}
