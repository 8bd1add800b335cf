package provisioner

import (
	"maps"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
)

// topologyRequirement asks for a volume on exactly the selected node's topology: with a node selected there is no
// second choice, so requisite and preferred are the same (external-provisioner's strict topology).
func topologyRequirement(
	allowed []corev1.TopologySelectorTerm, segments map[string]string,
) (*csi.TopologyRequirement, *Refusal) {
	if segments == nil {
		return nil, nil
	}
	if !allowedOnSegments(allowed, segments) {
		return nil, refuse("allowedTopologies", "the StorageClass does not allow the selected node's topology %s; "+
			"schedule the pod elsewhere or recreate the StorageClass", formatSegments(segments))
	}
	topology := []*csi.Topology{{Segments: maps.Clone(segments)}}
	return &csi.TopologyRequirement{Requisite: topology, Preferred: topology}, nil
}

// allowedOnSegments checks the keys that the driver's topology has. Other keys are labels of the Node, which whoever
// selected the node (the scheduler, or Leader) has checked.
func allowedOnSegments(allowed []corev1.TopologySelectorTerm, segments map[string]string) bool {
	return matchTerms(allowed, segments, true)
}

// allowedOnLabels checks a class's allowedTopologies against the labels of a Node. No terms allow every node.
func allowedOnLabels(allowed []corev1.TopologySelectorTerm, labels map[string]string) bool {
	return matchTerms(allowed, labels, false)
}

func matchTerms(terms []corev1.TopologySelectorTerm, labels map[string]string, ignoreAbsent bool) bool {
	if len(terms) == 0 {
		return true
	}
	return slices.ContainsFunc(terms, func(term corev1.TopologySelectorTerm) bool {
		return !slices.ContainsFunc(term.MatchLabelExpressions, func(e corev1.TopologySelectorLabelRequirement) bool {
			value, found := labels[e.Key]
			if !found {
				return !ignoreAbsent
			}
			return !slices.Contains(e.Values, value)
		})
	})
}

// nodeAffinity turns the topology that a volume is accessible from into the PersistentVolume's. Every topology is one
// term; the terms are alternatives. Nil when the volume is accessible from everywhere.
func nodeAffinity(accessible []*csi.Topology) *corev1.VolumeNodeAffinity {
	var terms []corev1.NodeSelectorTerm
	for _, topology := range accessible {
		var term corev1.NodeSelectorTerm
		for _, key := range slices.Sorted(maps.Keys(topology.GetSegments())) {
			term.MatchExpressions = append(term.MatchExpressions, corev1.NodeSelectorRequirement{
				Key: key, Operator: corev1.NodeSelectorOpIn, Values: []string{topology.GetSegments()[key]},
			})
		}
		// An empty term matches no node, so it would make the volume unusable instead of unrestricted.
		if len(term.MatchExpressions) > 0 {
			terms = append(terms, term)
		}
	}
	if len(terms) == 0 {
		return nil
	}
	return &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: terms}}
}

// affinityValues returns the values that a PersistentVolume's node affinity requires of a label.
func affinityValues(pv *corev1.PersistentVolume, key string) []string {
	if pv.Spec.NodeAffinity == nil || pv.Spec.NodeAffinity.Required == nil {
		return nil
	}
	var values []string
	for _, term := range pv.Spec.NodeAffinity.Required.NodeSelectorTerms {
		for _, e := range term.MatchExpressions {
			if e.Key == key && e.Operator == corev1.NodeSelectorOpIn {
				values = append(values, e.Values...)
			}
		}
	}
	return values
}

func formatSegments(segments map[string]string) string {
	parts := make([]string, 0, len(segments))
	for _, key := range slices.Sorted(maps.Keys(segments)) {
		parts = append(parts, key+"="+segments[key])
	}
	return strings.Join(parts, ",")
}
