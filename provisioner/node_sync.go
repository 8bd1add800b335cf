package provisioner

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	volumehelper "k8s.io/component-helpers/storage/volume"
)

// errStale asks for another try when the informer has caught up.
var errStale = errors.New("the cache is behind the API server")

// syncClaim brings one claim forward: it is provisioned if it is this node's to serve, and whatever was begun for it
// is cleaned up if it is not, or no longer.
func (n *Node) syncClaim(ctx context.Context, key claimKey) error {
	recorded, pending := n.journal.Lookup(key.UID)
	claim, err := n.wanted(key)
	switch {
	case err != nil:
		return err
	case claim != nil:
		err = n.serve(ctx, claim, recorded)
	case pending:
		err = n.settle(ctx, recorded)
	default:
		return nil
	}
	n.room.changed()
	return err
}

// wanted returns the claim if, by the cache, this node is to make a volume for it.
func (n *Node) wanted(key claimKey) (*corev1.PersistentVolumeClaim, error) {
	claim, err := n.cache.claims.PersistentVolumeClaims(key.Namespace).Get(key.Name)
	if err != nil {
		return nil, ignoreNotFound(err)
	}
	if claim.UID != key.UID || !selectedHere(claim, n.config.NodeName) {
		return nil, nil
	}
	if _, done := n.provisioned.Load(claim.UID); done {
		return nil, nil
	}
	_, err = n.cache.volumes.Get(VolumeName(claim.UID))
	if err == nil {
		return nil, nil
	}
	return claim, ignoreNotFound(err)
}

// serve provisions a claim, after the plan that was recorded for it if there is one.
func (n *Node) serve(ctx context.Context, claim *corev1.PersistentVolumeClaim, plan *Plan) error {
	if plan == nil {
		var err error
		if plan, err = n.plan(claim); plan == nil {
			return err
		}
	}
	err := n.provision(ctx, claim, plan)
	var full *rescheduleError
	if errors.As(err, &full) {
		n.recorder.Eventf(claim, corev1.EventTypeWarning, ReasonProvisioningFailed,
			"node %s has no room, another one will be selected: %v", n.config.NodeName, full)
		return n.unselect(ctx, claim)
	}
	if err == nil {
		n.provisioned.Store(claim.UID, struct{}{})
	}
	return err
}

// plan returns nil, nil for a claim that is not this driver's or is refused: nothing but a change of the claim or its
// class helps, and both come as events.
func (n *Node) plan(claim *corev1.PersistentVolumeClaim) (*Plan, error) {
	class, err := n.cache.classes.Get(volumehelper.GetPersistentVolumeClaimClass(claim))
	if err != nil {
		return nil, ignoreNotFound(err)
	}
	if class.Provisioner != n.config.Driver {
		return nil, nil
	}
	plan, err := NewPlan(PlanInput{
		Claim: claim, Class: class, Topology: n.topology, SingleNodeMultiWriter: n.info.singleNodeMultiWriter,
	})
	var refusal *Refusal
	if errors.As(err, &refusal) {
		n.refuse(claim, class.Name, refusal)
		return nil, nil
	}
	return plan, err
}

// settle ends a recorded plan whose claim is gone, bound, or another node's now. It asks the API server and not the
// cache, because a volume is deleted on the strength of the answer.
func (n *Node) settle(ctx context.Context, plan *Plan) error {
	name := plan.Request.GetName()
	pv, err := n.client.CoreV1().PersistentVolumes().Get(ctx, name, metav1.GetOptions{})
	exists := err == nil
	if ignoreNotFound(err) != nil {
		return err
	}
	if exists && ours(pv, n.config.Driver) && isLocal(pv, n.topology) {
		return n.journal.Forget(plan.ClaimUID)
	}
	claim, err := n.client.CoreV1().PersistentVolumeClaims(plan.ClaimNamespace).
		Get(ctx, plan.ClaimName, metav1.GetOptions{})
	if ignoreNotFound(err) != nil {
		return err
	}
	if !exists && !apierrors.IsNotFound(err) && claim.UID == plan.ClaimUID && selectedHere(claim, n.config.NodeName) {
		return fmt.Errorf("claim %s/%s: %w", plan.ClaimNamespace, plan.ClaimName, errStale)
	}
	return n.abandon(ctx, plan)
}

func (n *Node) syncVolume(ctx context.Context, name string) error {
	pv, err := n.cache.volumes.Get(name)
	if err != nil {
		return ignoreNotFound(err)
	}
	if !ours(pv, n.config.Driver) || !isLocal(pv, n.topology) {
		return nil
	}
	err = n.reclaimVolume(ctx, pv)
	n.room.changed()
	return err
}
