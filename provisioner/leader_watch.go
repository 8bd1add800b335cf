package provisioner

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/cache"
)

// watch connects the informers to the queues. The returned function disconnects them, also after an error.
func (l *Leader) watch() (synced []cache.InformerSynced, unwatch func(), err error) {
	var undo []func()
	unwatch = func() {
		for _, f := range undo {
			f()
		}
	}
	anyChange := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { l.retryWaiting() },
		UpdateFunc: func(_, _ any) { l.retryWaiting() },
	}
	for _, w := range []struct {
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandlerFuncs
	}{
		{l.classInformer, cache.ResourceEventHandlerFuncs{
			AddFunc:    func(object any) { l.classSeen(object) },
			UpdateFunc: func(_, object any) { l.classSeen(object) },
		}},
		{l.claimInformer, cache.ResourceEventHandlerFuncs{
			AddFunc:    func(object any) { l.claimSeen(nil, claimOf(object)) },
			UpdateFunc: func(old, object any) { l.claimSeen(claimOf(old), claimOf(object)) },
			DeleteFunc: func(object any) { l.forgetClaim(keyOf(claimOf(object))) },
		}},
		{l.volumeInformer, cache.ResourceEventHandlerFuncs{
			AddFunc:    func(object any) { l.volumeSeen(nil, volumeOf(object)) },
			UpdateFunc: func(old, object any) { l.volumeSeen(volumeOf(old), volumeOf(object)) },
			DeleteFunc: func(object any) { l.volumeGone(volumeOf(object)) },
		}},
		{l.podInformer, cache.ResourceEventHandlerFuncs{
			AddFunc:    func(object any) { l.podSeen(nil, object) },
			UpdateFunc: func(old, object any) { l.podSeen(old, object) },
		}},
		{l.nodeInformer, cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { l.retryWaiting() },
			UpdateFunc: func(old, object any) { l.nodeSeen(old, object) },
			DeleteFunc: func(object any) { l.nodeGone(object) },
		}},
		{l.csiNodeInformer, anyChange},
		{l.capacityInformer, anyChange},
	} {
		registration, err := w.informer.AddEventHandler(w.handler)
		if err != nil {
			return nil, unwatch, err
		}
		undo = append(undo, func() {
			if err := w.informer.RemoveEventHandler(registration); err != nil {
				l.log.Error(err, "Stop watching")
			}
		})
		synced = append(synced, registration.HasSynced)
	}
	return synced, unwatch, nil
}

func (l *Leader) claimSeen(old, claim *corev1.PersistentVolumeClaim) {
	key := keyOf(claim)
	if old != nil && old.UID != claim.UID {
		l.forgetClaim(keyOf(old))
		old = nil
	}
	if !unbound(claim) {
		l.settled(claim)
		return
	}
	selected := claim.Annotations[annSelectedNode]
	l.mu.Lock()
	if old != nil && selected != old.Annotations[annSelectedNode] {
		delete(l.told, claim.UID)
		delete(l.driverless, claim.UID)
	}
	l.mu.Unlock()
	switch {
	case old == nil:
		l.claimQueue.restart(key)
	case selected == "" && old.Annotations[annSelectedNode] != "":
		l.handedBack(key, old.Annotations[annSelectedNode])
	case selected != old.Annotations[annSelectedNode], !equality.Semantic.DeepEqual(old.Spec, claim.Spec):
		l.claimQueue.restart(key)
	}
}

// handedBack remembers the node that could not serve the claim and selects again after a while that grows.
func (l *Leader) handedBack(key claimKey, node string) {
	l.mu.Lock()
	delete(l.assumed, key.UID)
	if l.refused[key.UID] == nil {
		l.refused[key.UID] = make(map[string]bool)
	}
	l.refused[key.UID][node] = true
	l.mu.Unlock()
	l.claimQueue.AddAfter(key, l.pace.When(key))
}

// settled forgets all about a claim but the selection, as long as its volume is on the way.
func (l *Leader) settled(claim *corev1.PersistentVolumeClaim) {
	key := keyOf(claim)
	l.mu.Lock()
	node, assumed := l.assumed[claim.UID]
	l.mu.Unlock()
	l.forgetClaim(key)
	if !assumed || claim.Spec.VolumeName != VolumeName(claim.UID) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	// Under the lock that volumeSeen takes after the volume has come into the cache.
	if _, err := l.volumes.Get(claim.Spec.VolumeName); err != nil {
		l.assumed[claim.UID] = node
	}
}

func (l *Leader) forgetClaim(key claimKey) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.waiting, key)
	delete(l.assumed, key.UID)
	delete(l.refused, key.UID)
	delete(l.reasons, key.UID)
	delete(l.told, key.UID)
	delete(l.driverless, key.UID)
	l.pace.Forget(key)
}

// retryWaiting looks again for a node for the claims that had none: something about the nodes has changed.
func (l *Leader) retryWaiting() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key := range l.waiting {
		l.claimQueue.restart(key)
	}
	clear(l.waiting)
}

func (l *Leader) classSeen(object any) {
	if class, ok := object.(*storagev1.StorageClass); ok && class.Provisioner == l.config.Driver {
		l.retryClass(class.Name)
	}
}

func (l *Leader) volumeSeen(old, pv *corev1.PersistentVolume) {
	if ref := pv.Spec.ClaimRef; ref != nil && pv.Name == VolumeName(ref.UID) {
		l.mu.Lock()
		delete(l.assumed, ref.UID)
		l.mu.Unlock()
	}
	if old != nil && old.Spec.ClaimRef == nil && pv.Spec.ClaimRef != nil {
		// Another claim may have counted on this volume and not got it.
		l.retryClass(pv.Spec.StorageClassName)
	}
	if ours(pv, l.config.Driver) && slices.Contains([]reclaimAction{remove, release}, reclaim(pv)) {
		l.volumeQueue.restart(pv.Name)
	}
}

func (l *Leader) volumeGone(pv *corev1.PersistentVolume) {
	l.mu.Lock()
	delete(l.told, pv.UID)
	l.mu.Unlock()
	l.retryClass(pv.Spec.StorageClassName)
}

// retryClass looks again at the claims of a class that have no node.
func (l *Leader) retryClass(name string) {
	class, err := l.classes.Get(name)
	if err != nil || class.Provisioner != l.config.Driver || lateBinding(class) {
		return
	}
	claims, err := l.claims.List(labels.Everything())
	if err != nil {
		l.log.Error(err, "List claims in the cache")
		return
	}
	for _, claim := range claims {
		if unbound(claim) && claim.Annotations[annSelectedNode] == "" && className(claim) == name {
			l.claimQueue.Add(keyOf(claim))
		}
	}
}

// nodeSeen ignores the heartbeats.
func (l *Leader) nodeSeen(old, object any) {
	before, ok := old.(*corev1.Node)
	after, ok2 := object.(*corev1.Node)
	if ok && ok2 && usable(before) == usable(after) && repels(before) == repels(after) &&
		equality.Semantic.DeepEqual(before.Labels, after.Labels) {
		return
	}
	l.retryWaiting()
}

// nodeGone looks after what the node leaves: claims that wait for it, and volumes on it.
func (l *Leader) nodeGone(object any) {
	if tombstone, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = tombstone.Obj
	}
	node, ok := object.(*corev1.Node)
	if !ok {
		return
	}
	claims, err := l.claimInformer.GetIndexer().ByIndex(l.claimIndex(), node.Name)
	if err != nil {
		l.log.Error(err, "List claims of a node in the cache", "node", node.Name)
	}
	for _, claim := range claims {
		l.claimQueue.restart(keyOf(claimOf(claim)))
	}
	volumes, err := l.volumeInformer.GetIndexer().ByIndex(l.volumeIndex(), node.Name)
	if err != nil {
		l.log.Error(err, "List volumes of a node in the cache", "node", node.Name)
	}
	for _, pv := range volumes {
		l.volumeQueue.restart(volumeOf(pv).Name)
	}
}
