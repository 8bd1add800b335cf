package pvcontroller

import (
	"errors"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// errReserved says that a worker is binding a volume to another claim at this moment.
var errReserved = errors.New("another claim is being bound to the volume")

// reservations keeps the workers of one controller from choosing the same volume for two claims. It only saves
// conflicts: what makes a choice good is the compare-and-swap on the volume. It is safe for concurrent use.
type reservations struct {
	mu sync.Mutex
	by map[string]types.UID // the claim that each volume is being bound to
}

// choose calls pick with the volumes that are not to be had, and reserves what it returns until release.
func (r *reservations) choose(claim types.UID, pick func(excluded map[string]*corev1.PersistentVolume) (
	*corev1.PersistentVolume, error)) (pv *corev1.PersistentVolume, release func(), err error,
) {
	r.mu.Lock()
	defer r.mu.Unlock()
	excluded := make(map[string]*corev1.PersistentVolume, len(r.by))
	for name, by := range r.by {
		if by != claim {
			excluded[name] = nil
		}
	}
	pv, err = pick(excluded)
	if err != nil || pv == nil {
		return nil, func() {}, err
	}
	r.set(pv.Name, claim)
	return pv, func() { r.release(pv.Name, claim) }, nil
}

// take reserves one volume, unless another claim has it.
func (r *reservations) take(volume string, claim types.UID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if by, ok := r.by[volume]; ok && by != claim {
		return false
	}
	r.set(volume, claim)
	return true
}

func (r *reservations) set(volume string, claim types.UID) {
	if r.by == nil {
		r.by = map[string]types.UID{}
	}
	r.by[volume] = claim
}

func (r *reservations) release(volume string, claim types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.by[volume] == claim {
		delete(r.by, volume)
	}
}
