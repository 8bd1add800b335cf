package pvcontroller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// ErrNotRecyclable is what a Recycler's error wraps when trying again is of no use: the volume is of a kind, or in a
// place, that it does not touch.
var ErrNotRecyclable = errors.New("not recyclable")

// Recycler empties volumes, so that the next claim gets them as if they were new.
type Recycler interface {
	// Recycle removes everything from a released volume. It returns when that is done, and tolerates that it was done
	// before, wholly or in part. It is called for several volumes at a time, for each by one caller; it honours ctx. An
	// error that wraps ErrNotRecyclable ends the attempts; it says what can be recycled.
	Recycle(ctx context.Context, pv *corev1.PersistentVolume) error
}

// recycling remembers which releases of which volumes the recycle queue has taken on, so that the events of a volume
// neither hurry a retry that backs off nor begin again what is final. It is safe for concurrent use.
type recycling struct {
	mu sync.Mutex
	of map[types.UID]types.UID // volume to the claim that released it
}

// begin tells whether a volume's release is news.
func (r *recycling) begin(pv *corev1.PersistentVolume) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of[pv.UID] == pv.Spec.ClaimRef.UID {
		return false
	}
	if r.of == nil {
		r.of = map[types.UID]types.UID{}
	}
	r.of[pv.UID] = pv.Spec.ClaimRef.UID
	return true
}

func (r *recycling) forget(volume types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.of, volume)
}

// recycle scrubs a released volume, given by its name, and makes it available again. It has a queue of its own
// because it takes as long as there is data.
func (c *Controller) recycle(ctx context.Context, name string) error {
	// Everything is read anew: to recycle a volume that is in use again would destroy data.
	pv, err := c.readVolume(ctx, name)
	if err != nil || pv == nil || pv.DeletionTimestamp != nil {
		return err
	}
	if pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimRecycle ||
		pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID == "" ||
		pv.Status.Phase != corev1.VolumeReleased && pv.Status.Phase != corev1.VolumeFailed {
		c.recycling.forget(pv.UID)
		return nil
	}
	claim, err := c.readClaim(ctx, pv.Spec.ClaimRef.Namespace, pv.Spec.ClaimRef.Name)
	if err != nil {
		return err
	}
	if claim != nil && claim.UID == pv.Spec.ClaimRef.UID {
		c.recycling.forget(pv.UID)
		return nil // The claim is there after all.
	}
	if claim == nil {
		if users, err := c.usersOf(claimKey(pv)); err != nil {
			return err
		} else if len(users) > 0 {
			c.announce(pv, corev1.EventTypeNormal, reasonVolumeFailedRecycle,
				"still used by pod "+strings.Join(users, ", ")+": delete it, the volume is recycled after that")
			return fmt.Errorf("volume %s is still used by pod %s", name, strings.Join(users, ", "))
		}
	}
	if c.recycler == nil {
		return c.fail(ctx, pv, reasonVolumeFailedRecycle, fmt.Sprintf("no recycler for volumes of kind %s: remove the data "+
			"and then this PersistentVolume by hand, or set its persistentVolumeReclaimPolicy to Retain", sourceKind(pv)))
	}
	if err := c.recycler.Recycle(ctx, pv); err != nil {
		if ctx.Err() != nil {
			return err
		}
		failErr := c.fail(ctx, pv, reasonVolumeFailedRecycle, fmt.Sprintf("recycling failed: %v", err))
		if errors.Is(err, ErrNotRecyclable) {
			return failErr
		}
		return errors.Join(fmt.Errorf("recycle volume %s: %w", name, err), failErr)
	}
	c.announce(pv, corev1.EventTypeNormal, reasonVolumeRecycled, "volume recycled: it is empty and available again")
	if err := c.unbind(ctx, pv); err != nil {
		return err
	}
	c.recycling.forget(pv.UID)
	return nil
}

// usersOf names the unfinished pods that use a claim.
func (c *Controller) usersOf(claim string) ([]string, error) {
	objs, err := c.pods.ByIndex(podByClaim, claim)
	if err != nil {
		return nil, err
	}
	users := map[string]bool{}
	for _, obj := range objs {
		if pod, ok := obj.(*corev1.Pod); ok {
			users[keyOf(pod)] = true
		}
	}
	return slices.Sorted(maps.Keys(users)), nil
}
