package rollout

import (
	"reflect"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func ptr[T any](v T) *T { return &v }

func TestDeploymentProgress(t *testing.T) {
	stalled := []appsv1.DeploymentCondition{{
		Type: appsv1.DeploymentProgressing, Status: corev1.ConditionFalse, Reason: "ProgressDeadlineExceeded"}}
	for _, c := range []struct {
		name     string
		paused   bool
		replicas *int32
		status   appsv1.DeploymentStatus
		running  bool
	}{
		{"not seen yet", false, ptr[int32](2), appsv1.DeploymentStatus{ObservedGeneration: 4, Replicas: 2, UpdatedReplicas: 2,
			AvailableReplicas: 2}, true},
		{"not seen yet, stalled before", false, ptr[int32](2), appsv1.DeploymentStatus{ObservedGeneration: 4, Conditions: stalled}, true},
		{"some are old", false, ptr[int32](2), appsv1.DeploymentStatus{ObservedGeneration: 5, Replicas: 2, UpdatedReplicas: 1,
			AvailableReplicas: 2}, true},
		{"old ones still end", false, ptr[int32](2), appsv1.DeploymentStatus{ObservedGeneration: 5, Replicas: 3, UpdatedReplicas: 2,
			AvailableReplicas: 3}, true},
		{"not available", false, ptr[int32](2), appsv1.DeploymentStatus{ObservedGeneration: 5, Replicas: 2, UpdatedReplicas: 2,
			AvailableReplicas: 1}, true},
		{"stalled", false, ptr[int32](2), appsv1.DeploymentStatus{ObservedGeneration: 5, Replicas: 2, UpdatedReplicas: 1,
			Conditions: stalled}, false},
		{"paused", true, ptr[int32](2), appsv1.DeploymentStatus{ObservedGeneration: 5, Replicas: 2, UpdatedReplicas: 1}, false},
		{"complete", false, nil, appsv1.DeploymentStatus{ObservedGeneration: 5, Replicas: 1, UpdatedReplicas: 1,
			AvailableReplicas: 1}, false},
		{"of no pods", false, ptr[int32](0), appsv1.DeploymentStatus{ObservedGeneration: 5}, false},
	} {
		d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Generation: 5},
			Spec: appsv1.DeploymentSpec{Replicas: c.replicas, Paused: c.paused}, Status: c.status}
		if p := deploymentProgress(d); p.running() != c.running {
			t.Errorf("%s: %+v, want running %t", c.name, p, c.running)
		}
	}
}

func TestStatefulSetProgress(t *testing.T) {
	partition := func(n int32) appsv1.StatefulSetUpdateStrategy {
		return appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType,
			RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{Partition: &n}}
	}
	for _, c := range []struct {
		name     string
		strategy appsv1.StatefulSetUpdateStrategy
		status   appsv1.StatefulSetStatus
		running  bool
	}{
		{"not seen yet", partition(0), appsv1.StatefulSetStatus{ObservedGeneration: 4, UpdatedReplicas: 3, AvailableReplicas: 3}, true},
		{"some are old", partition(0), appsv1.StatefulSetStatus{ObservedGeneration: 5, UpdatedReplicas: 2, AvailableReplicas: 3,
			CurrentRevision: "a", UpdateRevision: "b"}, true},
		{"above the partition", partition(2), appsv1.StatefulSetStatus{ObservedGeneration: 5, UpdatedReplicas: 1,
			AvailableReplicas: 3, CurrentRevision: "a", UpdateRevision: "b"}, false},
		{"a partition beyond all", partition(9), appsv1.StatefulSetStatus{ObservedGeneration: 5, AvailableReplicas: 3,
			CurrentRevision: "a", UpdateRevision: "b"}, false},
		{"not available", partition(0), appsv1.StatefulSetStatus{ObservedGeneration: 5, UpdatedReplicas: 3, AvailableReplicas: 2}, true},
		{"complete", partition(0), appsv1.StatefulSetStatus{ObservedGeneration: 5, AvailableReplicas: 3, CurrentRevision: "b",
			UpdateRevision: "b"}, false},
		{"OnDelete", appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType},
			appsv1.StatefulSetStatus{ObservedGeneration: 5}, false},
	} {
		s := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Generation: 5},
			Spec: appsv1.StatefulSetSpec{Replicas: ptr[int32](3), UpdateStrategy: c.strategy}, Status: c.status}
		if p := statefulSetProgress(s); p.running() != c.running {
			t.Errorf("%s: %+v, want running %t", c.name, p, c.running)
		}
	}
}

func TestDaemonSetProgress(t *testing.T) {
	for _, c := range []struct {
		name     string
		strategy appsv1.DaemonSetUpdateStrategyType
		status   appsv1.DaemonSetStatus
		running  bool
	}{
		{"not seen yet", "", appsv1.DaemonSetStatus{ObservedGeneration: 4}, true},
		{"some are old", "", appsv1.DaemonSetStatus{ObservedGeneration: 5, DesiredNumberScheduled: 2, UpdatedNumberScheduled: 1,
			NumberAvailable: 2}, true},
		{"not available", "", appsv1.DaemonSetStatus{ObservedGeneration: 5, DesiredNumberScheduled: 2, UpdatedNumberScheduled: 2,
			NumberAvailable: 1}, true},
		{"complete", "", appsv1.DaemonSetStatus{ObservedGeneration: 5, DesiredNumberScheduled: 2, UpdatedNumberScheduled: 2,
			NumberAvailable: 2}, false},
		{"no node", "", appsv1.DaemonSetStatus{ObservedGeneration: 5}, false},
		{"OnDelete", appsv1.OnDeleteDaemonSetStrategyType, appsv1.DaemonSetStatus{ObservedGeneration: 4}, false},
	} {
		d := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Generation: 5},
			Spec: appsv1.DaemonSetSpec{UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: c.strategy}}, Status: c.status}
		if p := daemonSetProgress(d); p.running() != c.running {
			t.Errorf("%s: %+v, want running %t", c.name, p, c.running)
		}
	}
}

// TestTransform: little is kept of workloads that opted in, next to nothing of others; and keeping twice is keeping once.
func TestTransform(t *testing.T) {
	managed := func(manager, fields string) []metav1.ManagedFieldsEntry {
		return []metav1.ManagedFieldsEntry{{Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate,
			FieldsV1: metav1.NewFieldsV1(fields)}}
	}
	const baselineField = `{"f:metadata":{"f:annotations":{".":{},"f:config.orlop.io/observed":{}}}}`
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: "ns", UID: "u", ResourceVersion: "7", Generation: 3,
			Labels:        map[string]string{"l": "v"},
			Annotations:   map[string]string{AnnotationRollout: "true", "kubectl.kubernetes.io/last-applied-configuration": "{}"},
			ManagedFields: managed(fieldManager, baselineField)},
		Spec: appsv1.DeploymentSpec{Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{AnnotationHash: "h", AnnotationWindow: "1s", "x": "y"}},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{
				LocalObjectReference: corev1.LocalObjectReference{Name: "c"}}}}}}}}},
	}
	kept := keep(t, d.DeepCopy())
	if !reflect.DeepEqual(kept.Annotations, map[string]string{AnnotationRollout: "true"}) || kept.Labels != nil ||
		kept.ManagedFields != nil || !reflect.DeepEqual(kept.template, map[string]string{AnnotationWindow: "1s"}) {
		t.Errorf("kept %+v", kept)
	}
	if kept.hash != "h" || !kept.ours || len(kept.references) != 1 || kept.references[0].Key != configMap("c") ||
		kept.identity() != (identity{deployment, "ns", "d"}) || kept.Generation != 3 || kept.UID != "u" || kept.ResourceVersion != "7" {
		t.Errorf("kept %+v", kept)
	}
	if v, ok := kept.annotation(AnnotationWindow); v != "1s" || !ok {
		t.Errorf("annotation of the template: %q, %t", v, ok)
	}
	if again, err := transform(kept); err != nil || again != any(kept) {
		t.Errorf("a second time: %v, %v", again, err)
	}
	if c, ok := kept.DeepCopyObject().(*workload); !ok || !reflect.DeepEqual(c, kept) {
		t.Errorf("copy: %+v", c)
	}

	for _, m := range [][]metav1.ManagedFieldsEntry{
		managed("kubectl-rollout", baselineField), managed(fieldManager, `{"f:metadata":{"f:annotations":{"f:other":{}}}}`),
		managed(fieldManager, `{"f:spec":{"f:config.orlop.io/observed":{}}}`), managed(fieldManager, `x`), nil,
	} {
		d.ManagedFields = m
		if keep(t, d.DeepCopy()).ours {
			t.Errorf("somebody else's baseline is taken for ours: %v", m)
		}
	}
	d.Annotations, d.Spec.Template.Annotations = map[string]string{"x": "y"}, map[string]string{"x": "y"}
	want := &workload{TypeMeta: kept.TypeMeta,
		ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: "ns", UID: "u", ResourceVersion: "7"}}
	if got := keep(t, d); !reflect.DeepEqual(got, want) {
		t.Errorf("of a workload that did not opt in %+v is kept", got)
	}
	if kept := keep(t, &appsv1.StatefulSet{}); kept.Kind != "StatefulSet" {
		t.Errorf("kind %s", kept.Kind)
	}
	if kept := keep(t, &appsv1.DaemonSet{}); kept.Kind != "DaemonSet" {
		t.Errorf("kind %s", kept.Kind)
	}
}

func keep(t *testing.T, obj any) *workload {
	t.Helper()
	out, err := transform(obj)
	if err != nil {
		t.Fatal(err)
	}
	w, ok := out.(*workload)
	if !ok {
		t.Fatalf("%T is kept", out)
	}
	return w
}

func TestTransformNamespace(t *testing.T) {
	out, err := transform(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{"l": "v"},
		Annotations: map[string]string{AnnotationPaused: "true", "x": "y"}}})
	want := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "n", Annotations: map[string]string{AnnotationPaused: "true"}}}
	if err != nil || !reflect.DeepEqual(out, want) {
		t.Errorf("kept %v, %v", out, err)
	}
}
