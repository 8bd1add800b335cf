package pvcontroller

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	storagehelpers "k8s.io/component-helpers/storage/volume"
)

// syncClaim reconciles one claim, given as "namespace/name".
func (c *Controller) syncClaim(ctx context.Context, key string) error {
	claim, found, err := c.claims.get(key)
	if err != nil || !found {
		return err
	}
	switch {
	case bindCompleted(claim):
		return c.syncBound(ctx, claim)
	case claim.Spec.VolumeName != "":
		return c.syncNamed(ctx, claim)
	default:
		return c.syncUnbound(ctx, claim)
	}
}

// syncBound handles a claim whose bind was completed once: the volume may have changed or gone since.
func (c *Controller) syncBound(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	pv, _, err := c.volumes.get(claim.Spec.VolumeName)
	if err != nil {
		return err
	}
	d := decideBound(claim, pv)
	if d.action == actLost && claim.Status.Phase != corev1.ClaimLost && claim.Spec.VolumeName != "" {
		// To call a claim lost because a cache is behind would frighten people for nothing.
		if pv, err = c.readVolume(ctx, claim.Spec.VolumeName); err != nil {
			return err
		}
		d = decideBound(claim, pv)
	}
	if d.action == actBind {
		return c.bind(ctx, pv, claim)
	}
	if claim.Status.Phase == corev1.ClaimLost {
		return nil
	}
	if err := c.setClaimPhase(ctx, claim, corev1.ClaimLost); err != nil {
		return err
	}
	c.announce(claim, corev1.EventTypeWarning, d.reason, d.message)
	return nil
}

// syncNamed handles an unbound claim that names its volume.
func (c *Controller) syncNamed(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	pv, _, err := c.volumes.get(claim.Spec.VolumeName)
	if err != nil {
		return err
	}
	d := decideNamed(claim, pv)
	if d.action != actBind {
		return c.keepPending(ctx, claim, d)
	}
	if pv.Spec.ClaimRef == nil {
		if !c.reservations.take(pv.Name, claim.UID) {
			return fmt.Errorf("bind volume %s to claim %s: %w", pv.Name, keyOf(claim), errReserved)
		}
		defer c.reservations.release(pv.Name, claim.UID)
	}
	return c.bind(ctx, pv, claim)
}

// syncUnbound handles an unbound claim that leaves the choice of a volume to the cluster.
func (c *Controller) syncUnbound(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	class, err := c.class(storagehelpers.GetPersistentVolumeClaimClass(claim))
	if err != nil {
		return err
	}
	pv, release, err := c.choose(claim, isDelayed(class))
	if err != nil {
		return c.keepPending(ctx, claim, claimDecision{actPending, reasonFailedBinding, err.Error()})
	}
	defer release()
	if pv != nil {
		return c.bind(ctx, pv, claim)
	}
	if claim.DeletionTimestamp != nil {
		return nil // As in decideNamed.
	}
	defaultClass, err := c.defaultClass()
	if err != nil {
		return err
	}
	d := decideUnmatched(unmatched{claim: claim, class: class, defaultClass: defaultClass, own: c.own})
	switch d.action {
	case actAssignClass:
		return c.assignClass(ctx, claim, defaultClass)
	case actAwaitConsumer:
		if d, err = c.describeConsumers(claim, class); err != nil {
			return err
		}
	case actRequestVolume:
		if claim, err = c.requestVolume(ctx, claim, class); err != nil {
			return err
		}
	}
	return c.keepPending(ctx, claim, d)
}

// choose matches a claim with the volumes there are and reserves the result, so that no other worker takes it before
// the bind is written. release must be called in any case but that of an error.
func (c *Controller) choose(claim *corev1.PersistentVolumeClaim, delayed bool) (
	pv *corev1.PersistentVolume, release func(), err error,
) {
	own, err := c.volumes.byIndex(volumeByClaim, keyOf(claim))
	if err != nil {
		return nil, nil, err
	}
	unclaimed, err := c.volumes.byIndex(unclaimedByClass, storagehelpers.GetPersistentVolumeClaimClass(claim))
	if err != nil {
		return nil, nil, err
	}
	pv, release, err = c.reservations.choose(claim.UID, func(excluded map[string]*corev1.PersistentVolume) (
		*corev1.PersistentVolume, error) {
		if claim.DeletionTimestamp != nil {
			return match(claim, own, excluded, true)
		}
		return match(claim, slices.Concat(own, unclaimed), excluded, delayed)
	})
	if err != nil || pv != nil {
		return pv, release, err
	}
	for _, pv := range own {
		if err := fits(pv, claim); err != nil && storagehelpers.IsVolumeBoundToClaim(pv, claim) {
			c.announce(claim, corev1.EventTypeWarning, reasonVolumeMismatch,
				fmt.Sprintf("volume %q is reserved for this claim, but cannot be bound to it: %v", pv.Name, err))
		}
	}
	return nil, release, nil
}

// keepPending tells why a claim waits, and makes sure that its phase says so too.
func (c *Controller) keepPending(ctx context.Context, claim *corev1.PersistentVolumeClaim, d claimDecision) error {
	if d.reason != "" {
		eventType := corev1.EventTypeNormal
		if d.reason == reasonProvisioningFailed || d.reason == reasonVolumeMismatch {
			eventType = corev1.EventTypeWarning
		}
		c.announce(claim, eventType, d.reason, d.message)
		// Events are kept for an hour. A claim that waits longer still says why.
		c.claimQueue.AddAfter(keyOf(claim), c.announced.repeatAfter)
	}
	return c.setClaimPhase(ctx, claim, corev1.ClaimPending)
}

// describeConsumers says what a claim with delayed binding waits for.
func (c *Controller) describeConsumers(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) (
	claimDecision, error,
) {
	objs, err := c.pods.ByIndex(podByClaim, keyOf(claim))
	if err != nil {
		return claimDecision{}, err
	}
	names := map[string]bool{}
	for _, obj := range objs {
		if pod, ok := obj.(*corev1.Pod); ok && pod.Spec.NodeName == "" {
			names[pod.Name] = true
		}
	}
	if len(names) == 0 {
		return claimDecision{actAwaitConsumer, reasonWaitForFirstConsumer, fmt.Sprintf(
			"waiting for the first pod that uses this claim: storage class %q binds when that pod is scheduled", class.Name)}, nil
	}
	return claimDecision{actAwaitConsumer, reasonWaitForPodScheduled, fmt.Sprintf(
		"waiting for pod %s to be scheduled", strings.Join(slices.Sorted(maps.Keys(names)), ", "))}, nil
}

// assignClass gives a claim that asked for no class the default one. That the claim was made before there was a
// default makes no difference.
func (c *Controller) assignClass(
	ctx context.Context, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass,
) error {
	updated := claim.DeepCopy()
	updated.Spec.StorageClassName = &class.Name
	_, err := c.updateClaim(ctx, updated)
	return err // The claim comes back by its own event.
}

// requestVolume writes the annotations by which a foreign provisioner finds the claims that are its own.
func (c *Controller) requestVolume(
	ctx context.Context, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass,
) (*corev1.PersistentVolumeClaim, error) {
	provisioner, err := externalProvisioner(class.Provisioner)
	if err != nil {
		return nil, err
	}
	updated := claim.DeepCopy()
	if !setProvisioner(updated, provisioner) {
		return claim, nil
	}
	return c.updateClaim(ctx, updated)
}

// setProvisioner sets both annotations that name a claim's provisioner and tells whether that changed anything.
func setProvisioner(claim *corev1.PersistentVolumeClaim, provisioner string) (changed bool) {
	for _, key := range []string{storagehelpers.AnnStorageProvisioner, storagehelpers.AnnBetaStorageProvisioner} {
		if claim.Annotations[key] != provisioner {
			metav1.SetMetaDataAnnotation(&claim.ObjectMeta, key, provisioner)
			changed = true
		}
	}
	return changed
}

// class returns the storage class of a name, nil if there is none.
func (c *Controller) class(name string) (*storagev1.StorageClass, error) {
	if name == "" {
		return nil, nil
	}
	class, err := c.classes.Get(name)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return class, err
}

// The annotations that mark a class as the default, the second one from before storage classes were stable.
const (
	annDefaultClass     = "storageclass.kubernetes.io/is-default-class"
	annBetaDefaultClass = "storageclass.beta.kubernetes.io/is-default-class"
)

// defaultClass returns the default class, nil if there is none; of several the newest, as admission chooses.
func (c *Controller) defaultClass() (*storagev1.StorageClass, error) {
	classes, err := c.classes.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	return newestDefault(classes), nil
}

func newestDefault(classes []*storagev1.StorageClass) *storagev1.StorageClass {
	var best *storagev1.StorageClass
	for _, class := range classes {
		if class.Annotations[annDefaultClass] != "true" && class.Annotations[annBetaDefaultClass] != "true" {
			continue
		}
		if best == nil || best.CreationTimestamp.Before(&class.CreationTimestamp) ||
			best.CreationTimestamp.Equal(&class.CreationTimestamp) && class.Name < best.Name {
			best = class
		}
	}
	return best
}
