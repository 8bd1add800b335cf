package rollout

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/orlop-io/orlop/configsync/reference"
)

// fieldManager names the controller in the managed fields of what it writes.
const fieldManager = "orlop-rollouts"

// kind is a kind of workload.
type kind string

const (
	deployment  kind = "Deployment"
	statefulSet kind = "StatefulSet"
	daemonSet   kind = "DaemonSet"
)

// identity names a workload.
type identity struct {
	kind            kind
	namespace, name string
}

// String returns the identity as log lines show it.
func (i identity) String() string { return fmt.Sprintf("%s %s/%s", i.kind, i.namespace, i.name) }

// workload is all that is kept of a Deployment, StatefulSet or DaemonSet. Of one that has none of the annotations only its
// name, UID and resource version are. It must not be changed: caches share it.
type workload struct {
	metav1.TypeMeta
	metav1.ObjectMeta // with the annotations of interest alone

	template   map[string]string // the annotations of interest of the pod template
	hash       string            // the pod template's AnnotationHash
	references []reference.Reference
	// ours: the baseline was written by this controller. A rollback of a Deployment brings back the one of old, a copy of
	// a manifest that of another workload: these say nothing of the content that the pods started with.
	ours bool
	progress
}

var _ runtime.Object = (*workload)(nil)

// DeepCopyObject returns a copy that shares nothing with the workload.
func (w *workload) DeepCopyObject() runtime.Object {
	c := *w
	w.DeepCopyInto(&c.ObjectMeta)
	c.template, c.references = maps.Clone(w.template), slices.Clone(w.references)
	return &c
}

func (w *workload) identity() identity { return identity{kind(w.Kind), w.Namespace, w.Name} }

// reference is what events are about.
func (w *workload) reference() *corev1.ObjectReference {
	return &corev1.ObjectReference{Kind: w.Kind, APIVersion: w.APIVersion, Namespace: w.Namespace, Name: w.Name,
		UID: w.UID, ResourceVersion: w.ResourceVersion}
}

// annotation finds an annotation on the workload, or else on its pod template.
func (w *workload) annotation(name string) (string, bool) {
	if v, ok := w.Annotations[name]; ok {
		return v, true
	}
	v, ok := w.template[name]
	return v, ok
}

// annotated reports whether the controller has anything to do with the workload.
func (w *workload) annotated() bool { return len(w.Annotations) > 0 || len(w.template) > 0 }

// transform keeps of an informer's object what the controller needs. It takes over the object.
func transform(obj any) (any, error) {
	switch o := obj.(type) {
	case *appsv1.Deployment:
		return shrink(deployment, &o.ObjectMeta, &o.Spec.Template, func() progress { return deploymentProgress(o) }), nil
	case *appsv1.StatefulSet:
		return shrink(statefulSet, &o.ObjectMeta, &o.Spec.Template, func() progress { return statefulSetProgress(o) }), nil
	case *appsv1.DaemonSet:
		return shrink(daemonSet, &o.ObjectMeta, &o.Spec.Template, func() progress { return daemonSetProgress(o) }), nil
	case *corev1.Namespace:
		n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: o.Name, ResourceVersion: o.ResourceVersion}}
		if v, ok := o.Annotations[AnnotationPaused]; ok {
			n.Annotations = map[string]string{AnnotationPaused: v}
		}
		return n, nil
	}
	return obj, nil // shrunk already, or a tombstone
}

func shrink(k kind, meta *metav1.ObjectMeta, template *corev1.PodTemplateSpec, read func() progress) *workload {
	w := &workload{
		TypeMeta: metav1.TypeMeta{Kind: string(k), APIVersion: appsv1.SchemeGroupVersion.String()},
		ObjectMeta: metav1.ObjectMeta{
			Name: meta.Name, Namespace: meta.Namespace, UID: meta.UID, ResourceVersion: meta.ResourceVersion,
			Annotations: ofInterest(meta.Annotations),
		},
		template: ofInterest(template.Annotations),
	}
	if !w.annotated() {
		return w
	}
	w.Generation, w.DeletionTimestamp = meta.Generation, meta.DeletionTimestamp
	w.hash = template.Annotations[AnnotationHash]
	w.references = reference.Of(meta.Namespace, &template.Spec)
	w.ours = wroteBaseline(meta.ManagedFields)
	w.progress = read()
	return w
}

func ofInterest(annotations map[string]string) map[string]string {
	var kept map[string]string
	for name, value := range annotations {
		if strings.HasPrefix(name, AnnotationRollout) || name == AnnotationObserved || strings.Contains(name, reloaderPrefix) {
			if kept == nil {
				kept = map[string]string{}
			}
			kept[name] = value
		}
	}
	return kept
}

// wroteBaseline reports whether the controller was the last to change the baseline. The API server keeps the fields of ten
// managers and merges those of older ones as ancient changes.
func wroteBaseline(managed []metav1.ManagedFieldsEntry) bool {
	for i := range managed {
		m := &managed[i]
		if m.Manager != fieldManager && m.Manager != "ancient-changes" || m.FieldsV1 == nil {
			continue
		}
		var fields struct {
			Metadata struct {
				Annotations map[string]json.RawMessage `json:"f:annotations"`
			} `json:"f:metadata"`
		}
		if err := json.Unmarshal(m.FieldsV1.GetRawBytes(), &fields); err != nil {
			continue // the API server wrote it; a form that is not known is nobody's
		}
		if _, ok := fields.Metadata.Annotations["f:"+AnnotationObserved]; ok {
			return true
		}
	}
	return false
}
