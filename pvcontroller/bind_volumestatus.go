package pvcontroller

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// setVolumePhase sets a volume's phase, takes back what explained the one before, and returns the volume as it is
// then. As the second write of a bind it says Bound.
func (c *Controller) setVolumePhase(
	ctx context.Context, pv *corev1.PersistentVolume, phase corev1.PersistentVolumePhase,
) (*corev1.PersistentVolume, error) {
	if pv.Status.Phase == phase {
		return pv, nil
	}
	updated := pv.DeepCopy()
	updated.Status.Phase, updated.Status.Reason, updated.Status.Message = phase, "", ""
	updated, err := c.updateVolumeStatus(ctx, updated)
	if err != nil {
		return nil, fmt.Errorf("set volume %s to %s: %w", pv.Name, phase, err)
	}
	c.log.V(2).Info("Volume changed phase", "volume", pv.Name, "from", pv.Status.Phase, "to", phase)
	return updated, nil
}
