package provisioner

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	volumehelper "k8s.io/component-helpers/storage/volume"
	"k8s.io/klog/v2"
)

// core makes, abandons and deletes volumes of one driver. It holds no informers and decides nothing about whose turn
// it is; a role does. Calls about one claim or one volume must follow each other; others may run at the same time.
type core struct {
	client   kubernetes.Interface
	driver   *driverClient
	journal  Journal
	recorder record.EventRecorder
	log      klog.Logger
	// identity is the marker in volumeAttributes.
	identity string
	// patience is how long a claim waits before an Event says that it is being worked on.
	patience time.Duration

	// waiting holds the claims whose patience has been used up, so that the Event comes once a claim.
	waiting sync.Map // types.UID → struct{}
}

// rescheduleError says that the volume does not fit here and certainly does not exist.
type rescheduleError struct{ cause error }

func (e *rescheduleError) Error() string { return e.cause.Error() }
func (e *rescheduleError) Unwrap() error { return e.cause }

// provision makes the plan's volume and its PersistentVolume. It may be repeated after any error and after any crash.
// The claim is for Events alone. The error is a *rescheduleError when the place has no room.
func (c *core) provision(ctx context.Context, claim *corev1.PersistentVolumeClaim, plan *Plan) error {
	if recorded, _ := c.journal.Lookup(plan.ClaimUID); recorded != plan {
		if err := c.journal.Record(plan); err != nil {
			c.recorder.Event(claim, corev1.EventTypeWarning, ReasonProvisioningFailed, err.Error())
			return err
		}
	}
	volume, err := c.create(ctx, claim, plan)
	if err != nil {
		return err
	}
	if err := checkVolume(plan, volume); err != nil {
		err := &callError{c.driver.name, "CreateVolume", status.Error(codes.Internal, err.Error())}
		c.recorder.Event(claim, corev1.EventTypeWarning, ReasonProvisioningFailed, err.Error())
		return errors.Join(err, c.discard(ctx, plan, volume))
	}
	pv := persistentVolume(plan, volume, c.driver.name, c.identity)
	if err := c.createPV(ctx, pv); err != nil {
		if ctx.Err() == nil {
			c.recorder.Eventf(claim, corev1.EventTypeWarning, ReasonProvisioningFailed,
				"volume %s exists but its PersistentVolume can not be created; will try again: %v", pv.Name, err)
		}
		return err
	}
	c.waiting.Delete(plan.ClaimUID)
	c.recorder.Eventf(claim, corev1.EventTypeNormal, ReasonProvisioningSucceeded,
		"driver %s made volume %s", c.driver.name, pv.Name)
	if pv.Annotations[keyEnforcement] == enforcementNone {
		c.recorder.Eventf(claim, corev1.EventTypeWarning, ReasonCapacityNotEnforced,
			"nothing keeps volume %s to its size: it can use all the room that it shares with others; choose another "+
				"StorageClass if that matters", pv.Name)
	}
	c.log.Info("Provisioned", "pv", pv.Name, "claim", plan.ClaimNamespace+"/"+plan.ClaimName,
		"volume", volume.GetVolumeId())
	return c.journal.Forget(plan.ClaimUID)
}

// create asks the driver for the volume and says on the claim how it goes.
func (c *core) create(
	ctx context.Context, claim *corev1.PersistentVolumeClaim, plan *Plan,
) (*csi.Volume, error) {
	done := c.announceLater(claim)
	volume, err := c.driver.create(ctx, plan.Request)
	done()
	what := classify(err)
	// Our own shutdown is no news for the claim's author; the journal keeps the plan.
	if what == created || ctx.Err() != nil {
		return volume, err
	}
	err = fmt.Errorf("StorageClass %s: %w", plan.ClassName, err)
	switch what {
	case unfinished:
		c.recorder.Eventf(claim, corev1.EventTypeNormal, ReasonProvisioning,
			"volume %s may still be in the making, will ask again: %v", plan.Request.GetName(), err)
		return nil, err
	case exhausted:
		return nil, errors.Join(&rescheduleError{err}, c.journal.Forget(plan.ClaimUID))
	default:
		c.recorder.Event(claim, corev1.EventTypeWarning, ReasonProvisioningFailed, err.Error())
		return nil, errors.Join(err, c.journal.Forget(plan.ClaimUID))
	}
}

// announceLater writes an Event when the claim has had to wait for c.patience. The returned function ends the wait.
func (c *core) announceLater(claim *corev1.PersistentVolumeClaim) (done func()) {
	if _, announced := c.waiting.Load(claim.UID); announced {
		return func() {}
	}
	timer := time.AfterFunc(c.patience, func() {
		c.waiting.Store(claim.UID, struct{}{})
		c.recorder.Eventf(claim, corev1.EventTypeNormal, ReasonProvisioning,
			"waiting for driver %s to make volume %s", c.driver.name, VolumeName(claim.UID))
	})
	return func() { timer.Stop() }
}

// createPV creates the object, or finds that an earlier attempt has.
func (c *core) createPV(ctx context.Context, pv *corev1.PersistentVolume) error {
	volumes := c.client.CoreV1().PersistentVolumes()
	_, err := volumes.Create(ctx, pv, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	existing, err := volumes.Get(ctx, pv.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	source, ref := existing.Spec.CSI, existing.Spec.ClaimRef
	if source == nil || source.Driver != pv.Spec.CSI.Driver || source.VolumeHandle != pv.Spec.CSI.VolumeHandle ||
		ref == nil || ref.UID != pv.Spec.ClaimRef.UID {
		return fmt.Errorf("PersistentVolume %s exists and describes another volume; delete it if it is not needed",
			pv.Name)
	}
	if existing.DeletionTimestamp != nil {
		return fmt.Errorf("PersistentVolume %s is being deleted; waiting for its end", pv.Name)
	}
	return nil
}

// abandon makes sure that no volume of a recorded plan is left, when nobody wants it any more and no PersistentVolume
// holds it. The volume's ID is learnt by asking for it again.
func (c *core) abandon(ctx context.Context, plan *Plan) error {
	c.waiting.Delete(plan.ClaimUID)
	volume, err := c.driver.create(ctx, plan.Request)
	switch classify(err) {
	case created:
		return c.discard(ctx, plan, volume)
	case unfinished:
		return fmt.Errorf("clean up volume %s of a claim that is gone: %w", plan.Request.GetName(), err)
	default:
		return c.journal.Forget(plan.ClaimUID)
	}
}

// discard deletes a volume that has no PersistentVolume.
func (c *core) discard(ctx context.Context, plan *Plan, volume *csi.Volume) error {
	if err := c.driver.delete(ctx, volume.GetVolumeId()); err != nil {
		return fmt.Errorf("delete unused volume %s: %w", volume.GetVolumeId(), err)
	}
	c.log.Info("Deleted a volume that no claim uses", "volume", volume.GetVolumeId(),
		"claim", plan.ClaimNamespace+"/"+plan.ClaimName)
	return c.journal.Forget(plan.ClaimUID)
}

// unselect takes the node selection of a claim back, so that the scheduler (or Leader) selects again. A claim that has
// changed since it was read is left alone: the selection may be another by now.
func (c *core) unselect(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	return patchSelectedNode(ctx, c.client, claim, nil)
}

// refuse says on the claim why it is not provisioned.
func (c *core) refuse(claim *corev1.PersistentVolumeClaim, class string, refusal *Refusal) {
	c.driver.metrics.refusals.Inc()
	c.recorder.Eventf(claim, corev1.EventTypeWarning, ReasonProvisioningFailed, "StorageClass %s: %v", class, refusal)
}

// ours says whether a PersistentVolume was made by this provisioner's driver, and for provisioning.
func ours(pv *corev1.PersistentVolume, driver string) bool {
	return pv.Annotations[annProvisionedBy] == driver && pv.Spec.CSI != nil && pv.Spec.CSI.Driver == driver
}

// isLocal says whether a PersistentVolume is accessible from the given topology and from it in particular: a volume
// that is accessible from everywhere is nobody's in particular.
func isLocal(pv *corev1.PersistentVolume, segments map[string]string) bool {
	return pv.Spec.NodeAffinity != nil && pv.Spec.NodeAffinity.Required != nil &&
		volumehelper.CheckNodeAffinity(pv, segments) == nil
}

// unbound says whether a claim still waits for a volume. One that is being deleted waits no longer.
func unbound(claim *corev1.PersistentVolumeClaim) bool {
	return claim.Spec.VolumeName == "" && claim.DeletionTimestamp == nil
}

// claimKey names a claim in a work queue. With the UID, a claim and its successor of the same name are two keys.
type claimKey struct {
	types.NamespacedName
	UID types.UID
}

func keyOf(claim *corev1.PersistentVolumeClaim) claimKey {
	return claimKey{types.NamespacedName{Namespace: claim.Namespace, Name: claim.Name}, claim.UID}
}
