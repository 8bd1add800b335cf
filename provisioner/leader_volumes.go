package provisioner

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

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
