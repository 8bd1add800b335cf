package provisioner

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// candidate is a node that has the driver, as far as it matters for a volume that is made before there is a pod.
type candidate struct {
	node *corev1.Node
	// claims counts the volumes the driver has there, and the claims that are on the way to it.
	claims int
	// free is how many bytes the node can still give, or nil where nobody says.
	free *int64
}

// pickNode selects the node for a claim of so many bytes: the one with the most free capacity, or where no node tells
// its capacity, with the fewest claims. A node that refused the claim before comes after all that did not. The second
// result says, when there is no node, why.
func pickNode(
	candidates []candidate, allowed []corev1.TopologySelectorTerm, size int64, refused map[string]bool,
) (node, why string) {
	if len(candidates) == 0 {
		return "", "no node has the driver yet"
	}
	var disallowed, unready, full int
	var fit []candidate
	for _, c := range candidates {
		switch {
		case !allowedOnLabels(allowed, c.node.Labels):
			disallowed++
		case !usable(c.node):
			unready++
		case c.free != nil && *c.free < size:
			full++
		default:
			fit = append(fit, c)
		}
	}
	if len(fit) == 0 {
		return "", fmt.Sprintf("of %d nodes with the driver, %d are outside of the class's allowedTopologies, %d are not "+
			"ready or cordoned, %d have less than %s free", len(candidates), disallowed, unready, full,
			bytesQuantity(size))
	}
	best := slices.MinFunc(fit, func(a, b candidate) int {
		return cmp.Or(
			compareBool(refused[a.node.Name], refused[b.node.Name]),
			compareBool(repels(a.node), repels(b.node)),
			compareFree(a.free, b.free),
			cmp.Compare(a.claims, b.claims),
			cmp.Compare(a.node.Name, b.node.Name),
		)
	})
	return best.node.Name, ""
}

// usable says whether a pod could be scheduled to the node at all: a volume bound to it is of no use otherwise.
func usable(node *corev1.Node) bool {
	if node.DeletionTimestamp != nil || node.Spec.Unschedulable {
		return false
	}
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// repels says whether most pods would not be scheduled to the node, a control-plane node for example.
func repels(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool {
		return t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute
	})
}

// compareBool puts false first.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// compareFree puts more room first, and known room before unknown.
func compareFree(a, b *int64) int {
	if a == nil || b == nil {
		return compareBool(a == nil, b == nil)
	}
	return cmp.Compare(*b, *a)
}
