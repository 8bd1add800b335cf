package configstatus

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/orlop-io/orlop/configsync/payload"
	podreference "github.com/orlop-io/orlop/configsync/reference"
)

// start is when the objects are made, a minute before the containers start.
var start = time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)

func uidOf(s string) types.UID { return types.UID(s) }

// Variables and files mounted by subPath are told of running containers alone, with what became of their objects.
func TestFixed(t *testing.T) {
	ref := func(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }
	env := func(name, object string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{
			ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: ref(object), Key: "k"}}}
	}
	yes := true
	p := pod("p", configMapVolume("cm", false))
	p.Spec.InitContainers = []corev1.Container{{Name: "done", Env: []corev1.EnvVar{env("X", "cm")}}}
	p.Spec.Containers = []corev1.Container{{Name: "c",
		Env: []corev1.EnvVar{env("A", "cm"), {Name: "PLAIN", Value: "1"}, env("B", "cm"), {Name: "S", ValueFrom: &corev1.EnvVarSource{
			SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: ref("s"), Key: "k"}}}},
		EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: ref("lost")}},
			{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: ref("none"), Optional: &yes}}},
		VolumeMounts: []corev1.VolumeMount{{Name: "v-cm", MountPath: "/live"}, {Name: "v-cm", MountPath: "/sub", SubPath: "k"}},
	}}
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(start.Add(time.Minute))}}
	p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "done"}}
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: running}}
	h := newHost(t)
	h.pods = append(h.pods, p)
	h.has(payload.ConfigMap, "ns", "cm", "u1", "5", map[string]time.Time{"f:data": start, "f:metadata": start.Add(time.Hour)})
	h.has(payload.Secret, "ns", "s", "u2", "5", map[string]time.Time{"f:data": start.Add(time.Hour)})

	r := h.report(Filter{Namespace: "ns"})
	want := []string{
		"env A, B of ConfigMap cm: false, unchanged", "env S of Secret s: true, edited at 2026-11-20T11:00:00Z",
		"envFrom of ConfigMap lost: true, deleted", "envFrom of Secret none: false, there is none",
		"subPath /sub of ConfigMap cm: false, unchanged",
	}
	if len(r.Fixed) != len(want) {
		t.Fatalf("%d entries, want %d: %+v", len(r.Fixed), len(want), r.Fixed)
	}
	for i, f := range r.Fixed {
		got := f.What + " of " + string(f.Kind) + " " + f.Name + ": " + map[bool]string{true: "true", false: "false"}[f.Changed] + ", " + f.Message
		if !strings.HasPrefix(got, want[i]) || f.Container != "c" || f.Pod != "p" || f.Namespace != "ns" {
			t.Errorf("%q, want %q: %+v", got, want[i], f)
		}
	}
}

// A pod that asks for it has its files overwritten.
func TestFixedInPlace(t *testing.T) {
	p := pod("p", configMapVolume("cm", false))
	p.Annotations[podreference.SubPathAnnotation] = podreference.SubPathInPlace
	p.Spec.Containers = []corev1.Container{{Name: "c", VolumeMounts: []corev1.VolumeMount{{Name: "v-cm", MountPath: "/sub", SubPath: "k"}}}}
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{
		Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(start)}}}}
	h := newHost(t)
	h.pods = append(h.pods, p)
	h.has(payload.ConfigMap, "ns", "cm", "u1", "5", map[string]time.Time{"f:data": start.Add(time.Hour)})
	if f := h.report(Filter{}).Fixed; len(f) != 1 || f[0].Changed || !strings.Contains(f[0].Message, "overwritten in place") {
		t.Errorf("%+v", f)
	}
}

func TestVerdict(t *testing.T) {
	started := start.Add(time.Minute)
	for name, x := range map[string]struct {
		meta    *metav1.ObjectMeta
		changed bool
		says    string
	}{
		"nothing noted": {&metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(start)}, false, "keeps what it was"},
		"made again":    {&metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(start.Add(time.Hour))}, true, "made after"},
		"deleted":       {nil, true, "deleted"},
		"in one second": {&metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{
			{Time: &metav1.Time{Time: started}, FieldsV1: metav1.NewFieldsV1(`{"f:data":{}}`)}}}, false, "either state"},
		"no time, no fields, a format to come": {&metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{
			{FieldsV1: metav1.NewFieldsV1(`{"f:data":{}}`)}, {Time: &metav1.Time{Time: start.Add(time.Hour)}},
			{Time: &metav1.Time{Time: start.Add(time.Hour)}, FieldsV1: metav1.NewFieldsV1(`[]`)}}}, false, "keeps what it was"},
	} {
		if changed, says := verdict(x.meta, started, false); changed != x.changed || !strings.Contains(says, x.says) {
			t.Errorf("%s: %v, %q; want %v, %q", name, changed, says, x.changed, x.says)
		}
	}
}
