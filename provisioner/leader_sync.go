package provisioner

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	volumehelper "k8s.io/component-helpers/storage/volume"
)

// syncClaim gives a claim a node, or takes one away that is gone.
func (l *Leader) syncClaim(ctx context.Context, key claimKey) error {
	claim, err := l.claims.PersistentVolumeClaims(key.Namespace).Get(key.Name)
	if err != nil {
		return ignoreNotFound(err)
	}
	if claim.UID != key.UID || !unbound(claim) {
		return nil
	}
	if _, err := l.volumes.Get(VolumeName(claim.UID)); err == nil {
		// Its volume exists and only has to be bound.
		return nil
	}
	class, err := l.classes.Get(className(claim))
	if err != nil {
		return ignoreNotFound(err)
	}
	if class.Provisioner != l.config.Driver {
		return nil
	}
	if selected := claim.Annotations[annSelectedNode]; selected != "" {
		return l.checkSelection(ctx, claim, selected)
	}
	if !lateBinding(class) {
		return l.selectNode(ctx, claim, class)
	}
	node, err := l.nodeOfPod(claim)
	if err != nil || node == "" {
		return err
	}
	return ignoreNotFound(patchSelectedNode(ctx, l.config.Client, claim, &node))
}

// checkSelection takes the selection of a node back that no longer exists, which nobody else would ever do: the
// scheduler keeps to a selection, and the node's own provisioner is gone with the node.
func (l *Leader) checkSelection(ctx context.Context, claim *corev1.PersistentVolumeClaim, node string) error {
	gone, err := l.isGone(node)
	if err != nil {
		return err
	}
	if !gone {
		return l.checkDriver(claim, node)
	}
	if err := patchSelectedNode(ctx, l.config.Client, claim, nil); err != nil {
		return ignoreNotFound(err)
	}
	l.config.Recorder.Eventf(claim, corev1.EventTypeNormal, ReasonSelectedNodeGone,
		"node %s, which was to hold the volume, is gone; another one will be selected", node)
	return nil
}

// checkDriver tells a claim that its node has no driver: that may be about to start, so it gets some time.
func (l *Leader) checkDriver(claim *corev1.PersistentVolumeClaim, node string) error {
	csiNode, err := l.csiNodes.Get(node)
	if ignoreNotFound(err) != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil && hasDriver(csiNode, l.config.Driver) {
		delete(l.driverless, claim.UID)
		return nil
	}
	since, seen := l.driverless[claim.UID]
	if !seen {
		since = time.Now()
		l.driverless[claim.UID] = since
	}
	if left := l.config.Grace - time.Since(since); left > 0 {
		l.claimQueue.AddAfter(keyOf(claim), left)
		return nil
	}
	if !l.told[claim.UID] {
		l.told[claim.UID] = true
		l.config.Recorder.Eventf(claim, corev1.EventTypeWarning, ReasonProvisioningFailed,
			"the selected node %s does not run driver %s, so nobody can make the volume; start the driver there, or "+
				"keep the pod away from that node and remove the annotation %s", node, l.config.Driver, annSelectedNode)
	}
	return nil
}

func hasDriver(node *storagev1.CSINode, driver string) bool {
	return slices.ContainsFunc(node.Spec.Drivers, func(d storagev1.CSINodeDriver) bool { return d.Name == driver })
}

// isGone says whether there is no Node of that name. The cache is good enough: what follows from an error, a second
// selection or an Event, costs no data.
func (l *Leader) isGone(node string) (bool, error) {
	_, err := l.nodes.Get(node)
	return apierrors.IsNotFound(err), ignoreNotFound(err)
}

// selectNode selects a node for a claim that does not wait for its consumer.
func (l *Leader) selectNode(
	ctx context.Context, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass,
) error {
	if refusal := CheckClaim(claim); refusal != nil {
		l.config.Recorder.Eventf(claim, corev1.EventTypeWarning, ReasonProvisioningFailed, "StorageClass %s: %v",
			class.Name, refusal)
		return nil
	}
	matched, err := l.hasStaticMatch(claim, class.Name)
	if err != nil || matched {
		return err
	}
	node, why, err := l.assign(claim, class)
	if err != nil {
		return err
	}
	if node == "" && why == "" {
		return nil
	}
	if node == "" {
		l.config.Recorder.Eventf(claim, corev1.EventTypeNormal, ReasonWaitForNode,
			"driver %s, StorageClass %s: no node for the volume: %s", l.config.Driver, class.Name, why)
		return nil
	}
	if err := patchSelectedNode(ctx, l.config.Client, claim, &node); err != nil {
		l.mu.Lock()
		delete(l.assumed, claim.UID)
		l.mu.Unlock()
		return ignoreNotFound(err)
	}
	l.log.Info("Selected a node", "claim", claim.Namespace+"/"+claim.Name, "node", node)
	return nil
}

// hasStaticMatch says whether an existing PersistentVolume suits the claim, which the binder prefers to a new one.
func (l *Leader) hasStaticMatch(claim *corev1.PersistentVolumeClaim, class string) (bool, error) {
	all, err := l.volumes.List(labels.Everything())
	if err != nil {
		return false, err
	}
	all = slices.DeleteFunc(all, func(pv *corev1.PersistentVolume) bool {
		return volumehelper.GetPersistentVolumeClass(pv) != class || pv.DeletionTimestamp != nil
	})
	pv, err := volumehelper.FindMatchingVolume(claim, all, nil, nil, false, true)
	return pv != nil, err
}

// assign picks a node and counts the claim as the node's from then on; or remembers the claim for when nodes change,
// and says why there is none if that is news.
func (l *Leader) assign(
	claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass,
) (node, why string, err error) {
	size, refusal := capacityRange(claim)
	if refusal != nil {
		return "", "", refusal
	}
	// Under the lock, so that claims selected at the same time see each other, and no change of a node is missed between
	// the look at it and the entry in the list of those that wait for one.
	l.mu.Lock()
	defer l.mu.Unlock()
	candidates, err := l.candidates(class.Name)
	if err != nil {
		return "", "", err
	}
	node, why = pickNode(candidates, class.AllowedTopologies, size.GetRequiredBytes(), l.refused[claim.UID])
	if node == "" {
		l.waiting[keyOf(claim)] = true
		if l.reasons[claim.UID] == why {
			return "", "", nil
		}
		l.reasons[claim.UID] = why
		return "", why, nil
	}
	if l.refused[claim.UID][node] {
		// Every node has refused; the next round starts with all of them.
		delete(l.refused, claim.UID)
	}
	l.assumed[claim.UID] = node
	return node, "", nil
}

func className(claim *corev1.PersistentVolumeClaim) string {
	return volumehelper.GetPersistentVolumeClaimClass(claim)
}

func lateBinding(class *storagev1.StorageClass) bool {
	return class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
}
