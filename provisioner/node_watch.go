package provisioner

import (
	"errors"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	volumehelper "k8s.io/component-helpers/storage/volume"
)

// watch connects the informers to the queues.
func (n *Node) watch() error {
	_, errClaims := n.cache.claimInformer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { n.claimSeen(nil, claimOf(object)) },
		UpdateFunc: func(old, object any) { n.claimSeen(claimOf(old), claimOf(object)) },
		DeleteFunc: func(object any) { n.claimGone(claimOf(object)) },
	})
	_, errVolumes := n.cache.volumeInformer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { n.volumeSeen(nil, volumeOf(object)) },
		UpdateFunc: func(old, object any) { n.volumeSeen(volumeOf(old), volumeOf(object)) },
		DeleteFunc: func(object any) { n.volumeGone(volumeOf(object)) },
	})
	_, errClasses := n.cache.classInformer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { n.classSeen(object) },
		UpdateFunc: func(_, object any) { n.classSeen(object) },
		DeleteFunc: func(any) { n.room.changed() },
	})
	return errors.Join(errClaims, errVolumes, errClasses)
}

// claimSeen queues a claim that is this node's to serve, or has been. What others write about the claim (conditions,
// their annotations) does not cut a backoff short.
func (n *Node) claimSeen(old, claim *corev1.PersistentVolumeClaim) {
	key := keyOf(claim)
	if old != nil && old.UID != claim.UID {
		n.claimGone(old)
		old = nil
	}
	_, pending := n.journal.Lookup(claim.UID)
	switch {
	case !selectedHere(claim, n.config.NodeName):
		n.forgetClaim(claim.UID)
		if pending {
			n.claims.restart(key)
		}
	case old == nil || !selectedHere(old, n.config.NodeName) ||
		!equality.Semantic.DeepEqual(old.Spec, claim.Spec):
		n.claims.restart(key)
	}
}

func (n *Node) claimGone(claim *corev1.PersistentVolumeClaim) {
	n.forgetClaim(claim.UID)
	if _, pending := n.journal.Lookup(claim.UID); pending {
		n.claims.restart(keyOf(claim))
	}
}

func (n *Node) forgetClaim(uid types.UID) {
	n.provisioned.Delete(uid)
	n.waiting.Delete(uid)
}

func (n *Node) volumeSeen(old, pv *corev1.PersistentVolume) {
	if ref := pv.Spec.ClaimRef; ref != nil && pv.Name == VolumeName(ref.UID) {
		n.provisioned.Delete(ref.UID)
	}
	if !ours(pv, n.config.Driver) || reclaim(pv) == keep {
		return
	}
	// Phases and finalizers change while the driver refuses to delete; only a new decision is a reason to hurry.
	if old != nil && ours(old, n.config.Driver) && reclaim(old) == reclaim(pv) {
		return
	}
	n.volumes.restart(pv.Name)
}

// volumeGone has a claim provisioned anew that lost its volume before it was bound to it.
func (n *Node) volumeGone(pv *corev1.PersistentVolume) {
	ref := pv.Spec.ClaimRef
	if ref == nil || pv.Name != VolumeName(ref.UID) {
		return
	}
	n.provisioned.Delete(ref.UID)
	claim, err := n.cache.claims.PersistentVolumeClaims(ref.Namespace).Get(ref.Name)
	if err == nil && claim.UID == ref.UID && selectedHere(claim, n.config.NodeName) {
		n.claims.restart(keyOf(claim))
	}
}

// classSeen tries the claims again that a new or changed class may help.
func (n *Node) classSeen(object any) {
	n.room.changed()
	class, ok := object.(*storagev1.StorageClass)
	if !ok || class.Provisioner != n.config.Driver {
		return
	}
	claims, err := n.cache.claims.List(labels.Everything())
	if err != nil {
		n.log.Error(err, "List claims in the cache")
		return
	}
	for _, claim := range claims {
		if selectedHere(claim, n.config.NodeName) &&
			volumehelper.GetPersistentVolumeClaimClass(claim) == class.Name {
			n.claims.restart(keyOf(claim))
		}
	}
}

func planKey(plan *Plan) claimKey {
	return claimKey{types.NamespacedName{Namespace: plan.ClaimNamespace, Name: plan.ClaimName}, plan.ClaimUID}
}

// claimOf unwraps what an informer hands to a handler; an object of another type becomes an empty one.
func claimOf(object any) *corev1.PersistentVolumeClaim {
	if tombstone, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = tombstone.Obj
	}
	if claim, ok := object.(*corev1.PersistentVolumeClaim); ok {
		return claim
	}
	return &corev1.PersistentVolumeClaim{}
}

// volumeOf is claimOf for PersistentVolumes.
func volumeOf(object any) *corev1.PersistentVolume {
	if tombstone, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = tombstone.Obj
	}
	if pv, ok := object.(*corev1.PersistentVolume); ok {
		return pv
	}
	return &corev1.PersistentVolume{}
}
