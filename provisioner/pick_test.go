package provisioner

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func readyNode(name string, change func(*corev1.Node)) *corev1.Node {
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"zone": "zone-of-" + name}},
		Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
			{Type: corev1.NodeReady, Status: corev1.ConditionTrue},
		}},
	}
	if change != nil {
		change(node)
	}
	return node
}

func TestPickNode(t *testing.T) {
	a, b := readyNode("a", nil), readyNode("b", nil)
	cordoned := readyNode("cordoned", func(n *corev1.Node) { n.Spec.Unschedulable = true })
	deleted := readyNode("deleted", func(n *corev1.Node) { n.DeletionTimestamp = &metav1.Time{} })
	unready := readyNode("unready", func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown })
	tainted := readyNode("0-tainted", func(n *corev1.Node) {
		n.Spec.Taints = []corev1.Taint{{Key: "control-plane", Effect: corev1.TaintEffectNoSchedule}}
	})
	for name, tt := range map[string]struct {
		in       []candidate
		allowed  []corev1.TopologySelectorTerm
		refused  map[string]bool
		node     string
		whyParts []string
	}{
		"none":                    {whyParts: []string{"no node has the driver"}},
		"by name":                 {in: []candidate{{node: b}, {node: a}}, node: "a"},
		"fewest claims":           {in: []candidate{{node: a, claims: 2}, {node: b, claims: 1}}, node: "b"},
		"allowed topology":        {in: []candidate{{node: a}, {node: b}}, allowed: zone("zone-of-b"), node: "b"},
		"repelling node last":     {in: []candidate{{node: tainted}, {node: b, claims: 9}}, node: "b"},
		"repelling node alone":    {in: []candidate{{node: tainted}}, node: "0-tainted"},
		"refused last":            {in: []candidate{{node: a}, {node: tainted}}, refused: set("a"), node: "0-tainted"},
		"all refused":             {in: []candidate{{node: a}, {node: b}}, refused: set("a", "b"), node: "a"},
		"most room before claims": {in: []candidate{room(a, 20, 0), room(b, 30, 5)}, node: "b"},
		"known room first":        {in: []candidate{{node: a}, room(b, 20, 5)}, node: "b"},
		"enough room exactly":     {in: []candidate{room(a, 10, 0)}, node: "a"},
		"says why": {
			in:      []candidate{{node: cordoned}, {node: unready}, {node: deleted}, room(a, 9, 0), {node: b}},
			allowed: zone("zone-of-a", "zone-of-cordoned", "zone-of-unready", "zone-of-deleted"),
			whyParts: []string{"of 5 nodes", "1 are outside", "3 are not ready or cordoned",
				"1 have less than 10 free"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			node, why := pickNode(tt.in, tt.allowed, 10, tt.refused)
			if node != tt.node || (why == "") != (node != "") {
				t.Errorf("node %q, why %q; want node %q", node, why, tt.node)
			}
			for _, part := range tt.whyParts {
				if !strings.Contains(why, part) {
					t.Errorf("reason %q lacks %q", why, part)
				}
			}
		})
	}
}

func room(node *corev1.Node, free int64, claims int) candidate {
	return candidate{node: node, free: ptr.To(free), claims: claims}
}

func set(names ...string) map[string]bool {
	out := make(map[string]bool)
	for _, name := range names {
		out[name] = true
	}
	return out
}

func zone(values ...string) []corev1.TopologySelectorTerm {
	return []corev1.TopologySelectorTerm{{
		MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{Key: "zone", Values: values}},
	}}
}
