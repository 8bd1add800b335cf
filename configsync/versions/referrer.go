package versions

import (
	"encoding/json"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/orlop-io/orlop/configsync/payload"
	"github.com/orlop-io/orlop/configsync/reference"
	"github.com/orlop-io/orlop/configsync/source"
)

// referrer is what is kept of an object that can refer to configuration.
type referrer struct {
	metav1.ObjectMeta // name, namespace, UID and version alone
	kind              string
	refers            []source.Key
}

// String names the object as messages show it.
func (r *referrer) String() string { return fmt.Sprintf("%s %s/%s", r.kind, r.Namespace, r.Name) }

// trim makes a referrer of any object that can refer. It is an informer's transform, and leaves what it made itself.
func trim(object any) (any, error) {
	switch o := object.(type) {
	case *referrer:
		return o, nil
	case *corev1.Pod:
		if o.Status.Phase == corev1.PodSucceeded || o.Status.Phase == corev1.PodFailed {
			return refer("Pod", o, nil), nil // no container of it starts again
		}
		return refer("Pod", o, &o.Spec), nil
	case *corev1.ReplicationController:
		if o.Spec.Template == nil {
			return refer("ReplicationController", o, nil), nil
		}
		return refer("ReplicationController", o, &o.Spec.Template.Spec), nil
	case *corev1.ServiceAccount:
		return account(o), nil
	case *appsv1.Deployment:
		return refer("Deployment", o, &o.Spec.Template.Spec), nil
	case *appsv1.ReplicaSet:
		return refer("ReplicaSet", o, &o.Spec.Template.Spec), nil
	case *appsv1.StatefulSet:
		return refer("StatefulSet", o, &o.Spec.Template.Spec), nil
	case *appsv1.DaemonSet:
		return refer("DaemonSet", o, &o.Spec.Template.Spec), nil
	case *appsv1.ControllerRevision:
		return revision(o), nil
	case *batchv1.Job:
		if finished(o) {
			return refer("Job", o, nil), nil
		}
		return refer("Job", o, &o.Spec.Template.Spec), nil
	case *batchv1.CronJob:
		return refer("CronJob", o, &o.Spec.JobTemplate.Spec.Template.Spec), nil
	}
	return nil, fmt.Errorf("a %T refers to no configuration", object)
}

// refer makes a referrer of an object with a pod's specification, nil where it no longer counts.
func refer(kind string, o metav1.Object, spec *corev1.PodSpec) *referrer {
	r := &referrer{kind: kind, ObjectMeta: metav1.ObjectMeta{
		Name: o.GetName(), Namespace: o.GetNamespace(), UID: o.GetUID(), ResourceVersion: o.GetResourceVersion(),
	}}
	if spec != nil {
		for _, found := range reference.Of(r.Namespace, spec) {
			r.refers = append(r.refers, found.Key)
		}
	}
	return r
}

// finished reports whether a Job makes no more pods.
func finished(job *batchv1.Job) bool {
	for _, c := range job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return true
		}
	}
	return false
}

// account is what a ServiceAccount lends to pods that are yet to come.
func account(o *corev1.ServiceAccount) *referrer {
	r := refer("ServiceAccount", o, nil)
	add := func(name string) {
		if name != "" {
			r.refers = append(r.refers, source.Key{Kind: payload.Secret, Namespace: o.Namespace, Name: name})
		}
	}
	for _, s := range o.ImagePullSecrets {
		add(s.Name)
	}
	for _, s := range o.Secrets {
		add(s.Name)
	}
	return r
}

// revision is what a revision of a StatefulSet or DaemonSet refers to: its data is the patch that brings the template
// back. Those of other controllers have data of another form: every word in it that could be a name counts as one.
func revision(o *appsv1.ControllerRevision) *referrer {
	var patch struct {
		Spec struct {
			Template *corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(o.Data.Raw, &patch); err == nil && patch.Spec.Template != nil {
		return refer("ControllerRevision", o, &patch.Spec.Template.Spec)
	}
	r := refer("ControllerRevision", o, nil)
	seen := map[string]bool{}
	var data any
	if json.Unmarshal(o.Data.Raw, &data) == nil {
		words(data, seen)
	}
	for word := range seen {
		for _, kind := range []payload.Kind{payload.ConfigMap, payload.Secret} {
			r.refers = append(r.refers, source.Key{Kind: kind, Namespace: o.Namespace, Name: word})
		}
	}
	return r
}

// words collects the strings in decoded JSON that could be names.
func words(data any, into map[string]bool) {
	switch d := data.(type) {
	case string:
		if len(validation.IsDNS1123Subdomain(d)) == 0 {
			into[d] = true
		}
	case []any:
		for _, e := range d {
			words(e, into)
		}
	case map[string]any:
		for _, e := range d {
			words(e, into)
		}
	}
}
