package provisioner

import (
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// candidates lists the nodes that have the driver. l.mu must be held.
func (l *Leader) candidates(class string) ([]candidate, error) {
	csiNodes, err := l.csiNodes.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	capacities, err := l.capacities.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	var out []candidate
	for _, csiNode := range csiNodes {
		if !hasDriver(csiNode, l.config.Driver) {
			continue
		}
		node, err := l.nodes.Get(csiNode.Name)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		claims, err := l.claimsOn(node.Name)
		if err != nil {
			return nil, err
		}
		free, err := freeCapacity(capacities, class, node)
		if err != nil {
			return nil, err
		}
		out = append(out, candidate{node: node, claims: claims, free: free})
	}
	return out, nil
}

// claimsOn counts the volumes on a node, those made and those on the way, each once. l.mu must be held.
func (l *Leader) claimsOn(node string) (int, error) {
	pending, errPending := l.claimInformer.GetIndexer().ByIndex(l.claimIndex(), node)
	made, errMade := l.volumeInformer.GetIndexer().ByIndex(l.volumeIndex(), node)
	names := make(map[string]bool, len(pending)+len(made))
	for _, claim := range pending {
		names[VolumeName(claimOf(claim).UID)] = true
	}
	for _, pv := range made {
		names[volumeOf(pv).Name] = true
	}
	for uid, on := range l.assumed {
		if on == node {
			names[VolumeName(uid)] = true
		}
	}
	return len(names), errors.Join(errPending, errMade)
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
