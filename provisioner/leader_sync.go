package provisioner

import (
	"context"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	if lateBinding(class) {
		return nil
	}
	return l.selectNode(ctx, claim, class)
}

// checkSelection takes the selection of a node back that no longer exists, which nobody else would ever do: the
// scheduler keeps to a selection, and the node's own provisioner is gone with the node.
func (l *Leader) checkSelection(ctx context.Context, claim *corev1.PersistentVolumeClaim, node string) error {
	gone, err := l.isGone(node)
	if err != nil || !gone {
		return err
	}
	if err := patchSelectedNode(ctx, l.config.Client, claim, nil); err != nil {
		return ignoreNotFound(err)
	}
	l.config.Recorder.Eventf(claim, corev1.EventTypeNormal, ReasonSelectedNodeGone,
		"node %s, which was to hold the volume, is gone; another one will be selected", node)
	return nil
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

// assign picks a node and counts the claim as the node's from then on; or remembers the claim for when nodes change.
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
		return "", why, nil
	}
	if l.refused[claim.UID][node] {
		// Every node has refused; the next round starts with all of them.
		delete(l.refused, claim.UID)
	}
	l.assumed[claim.UID] = node
	return node, "", nil
}

// candidates lists the nodes that have the driver. l.mu must be held.
func (l *Leader) candidates(class string) ([]candidate, error) {
	csiNodes, err := l.csiNodes.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	assumed := make(map[string]int, len(l.assumed))
	for node := range maps.Values(l.assumed) {
		assumed[node]++
	}
	capacities, err := l.capacities.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	var out []candidate
	for _, csiNode := range csiNodes {
		if !slices.ContainsFunc(csiNode.Spec.Drivers, func(d storagev1.CSINodeDriver) bool {
			return d.Name == l.config.Driver
		}) {
			continue
		}
		node, err := l.nodes.Get(csiNode.Name)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		pending, err := l.claimInformer.GetIndexer().IndexKeys(l.claimIndex(), node.Name)
		if err != nil {
			return nil, err
		}
		made, err := l.volumeInformer.GetIndexer().IndexKeys(l.volumeIndex(), node.Name)
		if err != nil {
			return nil, err
		}
		free, err := freeCapacity(capacities, class, node)
		if err != nil {
			return nil, err
		}
		out = append(out, candidate{node: node, claims: len(pending) + len(made) + assumed[node.Name], free: free})
	}
	return out, nil
}

// freeCapacity returns what the CSIStorageCapacity objects of a class say about a node, nil if nothing. As for the
// scheduler, MaximumVolumeSize counts before Capacity.
func freeCapacity(capacities []*storagev1.CSIStorageCapacity, class string, node *corev1.Node) (*int64, error) {
	var free *int64
	for _, c := range capacities {
		if c.StorageClassName != class || c.NodeTopology == nil {
			continue
		}
		selector, err := metav1.LabelSelectorAsSelector(c.NodeTopology)
		if err != nil {
			return nil, fmt.Errorf("CSIStorageCapacity %s/%s: %w", c.Namespace, c.Name, err)
		}
		limit := c.Capacity
		if c.MaximumVolumeSize != nil {
			limit = c.MaximumVolumeSize
		}
		if limit == nil || !selector.Matches(labels.Set(node.Labels)) {
			continue
		}
		if bytes := limit.Value(); free == nil || bytes > *free {
			free = &bytes
		}
	}
	return free, nil
}

// syncVolume looks after a PersistentVolume that is to go and whose node is gone: nobody else can.
func (l *Leader) syncVolume(ctx context.Context, name string) error {
	pv, err := l.volumes.Get(name)
	if err != nil {
		return ignoreNotFound(err)
	}
	if !ours(pv, l.config.Driver) {
		return nil
	}
	action := reclaim(pv)
	if action != remove && action != release {
		return nil
	}
	orphaned, err := l.isOrphaned(pv)
	if err != nil || !orphaned {
		return err
	}
	if action == release {
		return ignoreNotFound(patchFinalizer(ctx, l.config.Client, pv, false))
	}
	l.mu.Lock()
	told := l.told[pv.UID]
	l.told[pv.UID] = true
	l.mu.Unlock()
	if !told {
		l.config.Recorder.Eventf(pv, corev1.EventTypeWarning, ReasonVolumeNodeGone,
			"the volume can not be deleted because its node %v is gone; if the node comes back under this name, it is "+
				"deleted then; if not, give it up: set persistentVolumeReclaimPolicy to Retain and delete this "+
				"PersistentVolume", affinityValues(pv, l.config.TopologyKey))
	}
	return nil
}

// isOrphaned says whether no node is left that a PersistentVolume could be reached from.
func (l *Leader) isOrphaned(pv *corev1.PersistentVolume) (bool, error) {
	names := affinityValues(pv, l.config.TopologyKey)
	for _, name := range names {
		if gone, err := l.isGone(name); err != nil || !gone {
			return false, err
		}
	}
	// A node may be known to the driver under another name than to the cluster.
	nodes, err := l.nodes.List(labels.Everything())
	if err != nil {
		return false, err
	}
	return len(names) > 0 && !slices.ContainsFunc(nodes, func(n *corev1.Node) bool { return isLocal(pv, n.Labels) }), nil
}

func className(claim *corev1.PersistentVolumeClaim) string {
	return volumehelper.GetPersistentVolumeClaimClass(claim)
}

func lateBinding(class *storagev1.StorageClass) bool {
	return class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
}
