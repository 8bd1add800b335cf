package pvcontroller

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/client-go/tools/cache"
	storagehelpers "k8s.io/component-helpers/storage/volume"
)

// addHandlers connects the informers to the queues. What changes wakes everything that may have waited for it, so
// that nothing needs a periodic round. remove disconnects what was connected, even after an error.
func (c *Controller) addHandlers() (synced []cache.InformerSynced, remove func(), err error) {
	var removers []func() error
	remove = func() {
		for _, r := range removers {
			if err := r(); err != nil {
				c.log.Error(err, "Handler not removed from its informer; it goes with the informer")
			}
		}
	}
	for _, h := range []struct {
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandler
	}{
		{c.informers.claims, cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { handle(obj, c.claimChanged) },
			UpdateFunc: func(_, obj any) { handle(obj, c.claimChanged) },
			DeleteFunc: func(obj any) { handle(obj, c.claimDeleted) },
		}},
		{c.informers.volumes, cache.ResourceEventHandlerFuncs{
			AddFunc: func(obj any) { handle(obj, c.volumeAdded) },
			UpdateFunc: func(old, obj any) {
				handle(old, func(old *corev1.PersistentVolume) {
					handle(obj, func(pv *corev1.PersistentVolume) { c.volumeUpdated(old, pv) })
				})
			},
			DeleteFunc: func(obj any) { handle(obj, c.volumeDeleted) },
		}},
		{c.informers.classes, cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { handle(obj, c.classChanged) },
			UpdateFunc: func(_, obj any) { handle(obj, c.classChanged) },
			DeleteFunc: func(obj any) { handle(obj, c.classChanged) },
		}},
		{c.informers.pods, cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { handle(obj, c.podChanged) },
			DeleteFunc: func(obj any) { handle(obj, c.podChanged) },
		}},
	} {
		registration, err := h.informer.AddEventHandler(h.handler)
		if err != nil {
			return nil, remove, err
		}
		removers = append(removers, func() error { return h.informer.RemoveEventHandler(registration) })
		synced = append(synced, registration.HasSynced)
	}
	return synced, remove, nil
}

// handle calls f with the object of an informer's event, also when the event is a deletion that was missed.
func handle[T any](obj any, f func(T)) {
	if missed, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = missed.Obj
	}
	if t, ok := obj.(T); ok {
		f(t)
	}
}

// claimChanged also wakes the volumes that refer to the claim: once the claim has chosen, all others are to let go.
func (c *Controller) claimChanged(claim *corev1.PersistentVolumeClaim) {
	c.claimQueue.Add(keyOf(claim))
	if claim.Spec.VolumeName != "" {
		c.enqueueVolumesOf(claim)
	}
}

func (c *Controller) claimDeleted(claim *corev1.PersistentVolumeClaim) {
	c.claims.forget(keyOf(claim))
	c.announced.forget(claim.UID)
	c.enqueueVolumesOf(claim)
}

func (c *Controller) enqueueVolumesOf(claim *corev1.PersistentVolumeClaim) {
	if claim.Spec.VolumeName != "" {
		c.volumeQueue.Add(claim.Spec.VolumeName)
	}
	c.enqueueIndexed(c.volumeQueue.Add, c.informers.volumes.GetIndexer(), volumeByClaim, keyOf(claim))
}

func (c *Controller) volumeAdded(pv *corev1.PersistentVolume) {
	c.volumeQueue.Add(pv.Name)
	c.enqueueIndexed(c.claimQueue.Add, c.informers.claims.GetIndexer(), claimByVolume, pv.Name)
}

// volumeUpdated also wakes the claims that the volume may serve, if it did not serve them before.
func (c *Controller) volumeUpdated(old, pv *corev1.PersistentVolume) {
	c.volumeQueue.Add(pv.Name)
	if pv.Status.Phase != corev1.VolumeAvailable || pv.Spec.ClaimRef != nil {
		return
	}
	if old.Status.Phase == pv.Status.Phase && maps.Equal(old.Labels, pv.Labels) &&
		equality.Semantic.DeepEqual(&old.Spec, &pv.Spec) {
		return
	}
	claims, err := c.claims.byIndex(unboundByClass, storagehelpers.GetPersistentVolumeClass(pv))
	if err != nil { // As in enqueueIndexed.
		c.log.Error(err, "Cannot look up the claims that wait for a volume", "volume", pv.Name)
		return
	}
	for _, claim := range claims {
		if claim.Spec.VolumeName == "" && suits(pv, claim) == nil {
			c.claimQueue.Add(keyOf(claim))
		}
	}
}

func (c *Controller) volumeDeleted(pv *corev1.PersistentVolume) {
	c.volumes.forget(pv.Name)
	c.announced.forget(pv.UID)
	c.recycling.forget(pv.UID)
	c.enqueueIndexed(c.claimQueue.Add, c.informers.claims.GetIndexer(), claimByVolume, pv.Name)
	if pv.Spec.ClaimRef != nil {
		c.claimQueue.Add(claimKey(pv))
	}
}

// classChanged wakes the claims of the class, and those without a class: it may have become the default.
func (c *Controller) classChanged(class *storagev1.StorageClass) {
	indexer := c.informers.claims.GetIndexer()
	c.enqueueIndexed(c.claimQueue.Add, indexer, unboundByClass, class.Name)
	c.enqueueIndexed(c.claimQueue.Add, indexer, unboundByClass, "")
}

// podChanged wakes the pod's unbound claims, because what they wait for is another thing now, and the volumes of claims
// that are gone: recycling them may have waited for the pod.
func (c *Controller) podChanged(pod *corev1.Pod) {
	for _, key := range claimsOfPod(pod) {
		claim, found, err := c.claims.get(key)
		if err != nil {
			c.log.Error(err, "Cannot read claim from the cache", "claim", key)
			continue
		}
		switch {
		case !found:
			c.enqueueIndexed(c.recycleQueue.Add, c.informers.volumes.GetIndexer(), volumeByClaim, key)
		case !bindCompleted(claim):
			c.claimQueue.Add(key)
		}
	}
}

func (c *Controller) enqueueIndexed(add func(string), indexer cache.Indexer, index, value string) {
	keys, err := indexer.IndexKeys(index, value)
	if err != nil { // The index is missing: a mistake in addIndexers that every test finds.
		c.log.Error(err, "Cannot look up what depends on a change", "index", index, "value", value)
		return
	}
	for _, key := range keys {
		add(key)
	}
}
