package provisioner

import (
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

func term(pairs ...string) corev1.TopologySelectorTerm {
	var out corev1.TopologySelectorTerm
	for i := 0; i < len(pairs); i += 2 {
		out.MatchLabelExpressions = append(out.MatchLabelExpressions, corev1.TopologySelectorLabelRequirement{
			Key: pairs[i], Values: []string{"other", pairs[i+1]},
		})
	}
	return out
}

func TestAllowedTopologies(t *testing.T) {
	labels := map[string]string{"zone": "a", "disk": "ssd"}
	for name, tt := range map[string]struct {
		terms              []corev1.TopologySelectorTerm
		onLabels, segments bool
	}{
		"none":                   {nil, true, true},
		"match":                  {[]corev1.TopologySelectorTerm{term("zone", "a")}, true, true},
		"mismatch":               {[]corev1.TopologySelectorTerm{term("zone", "b")}, false, false},
		"all of a term":          {[]corev1.TopologySelectorTerm{term("zone", "a", "disk", "hdd")}, false, false},
		"any term":               {[]corev1.TopologySelectorTerm{term("zone", "b"), term("disk", "ssd")}, true, true},
		"a key of the Node only": {[]corev1.TopologySelectorTerm{term("zone", "a", "arch", "arm64")}, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := allowedOnLabels(tt.terms, labels); got != tt.onLabels {
				t.Errorf("on labels: %v", got)
			}
			if got := allowedOnSegments(tt.terms, labels); got != tt.segments {
				t.Errorf("on segments: %v", got)
			}
		})
	}
}

func TestNodeAffinity(t *testing.T) {
	if got := nodeAffinity(nil); got != nil {
		t.Errorf("no topology: %v", got)
	}
	got := nodeAffinity([]*csi.Topology{
		{Segments: map[string]string{"b": "2", "a": "1"}}, {}, {Segments: map[string]string{"a": "3"}},
	})
	in := func(key, value string) corev1.NodeSelectorRequirement {
		return corev1.NodeSelectorRequirement{Key: key, Operator: corev1.NodeSelectorOpIn, Values: []string{value}}
	}
	want := &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
		{MatchExpressions: []corev1.NodeSelectorRequirement{in("a", "1"), in("b", "2")}},
		{MatchExpressions: []corev1.NodeSelectorRequirement{in("a", "3")}},
	}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("affinity (-want +got):\n%s", diff)
	}
	values := affinityValues(&corev1.PersistentVolume{Spec: corev1.PersistentVolumeSpec{NodeAffinity: got}}, "a")
	if diff := cmp.Diff([]string{"1", "3"}, values); diff != "" {
		t.Errorf("values (-want +got):\n%s", diff)
	}
}
