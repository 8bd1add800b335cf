package controllers

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/orlop-io/orlop/configsync/versions"
)

// referrerKinds make an object of each kind that refers to the ConfigMap of a name, and return what deletes it.
var referrerKinds = map[string]func(w *versionsWorld, configMap string) (remove func() error){
	"pod": func(w *versionsWorld, configMap string) func() error {
		return made(w, w.client.CoreV1().Pods(w.ns), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "pod"}, Spec: podTemplate(configMap).Spec})
	},
	"replicationcontroller": func(w *versionsWorld, configMap string) func() error {
		template := podTemplate(configMap)
		return made(w, w.client.CoreV1().ReplicationControllers(w.ns), &corev1.ReplicationController{
			ObjectMeta: metav1.ObjectMeta{Name: "rc"}, Spec: corev1.ReplicationControllerSpec{Replicas: new(int32), Template: &template}})
	},
	"deployment": func(w *versionsWorld, configMap string) func() error {
		return made(w, w.client.AppsV1().Deployments(w.ns), &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Name: "deployment"},
			// Paused, so that no controller makes ReplicaSets of it.
			Spec: appsv1.DeploymentSpec{Replicas: new(int32), Paused: true, Selector: selector(), Template: podTemplate(configMap)}})
	},
	"replicaset": func(w *versionsWorld, configMap string) func() error {
		return made(w, w.client.AppsV1().ReplicaSets(w.ns), &appsv1.ReplicaSet{
			ObjectMeta: metav1.ObjectMeta{Name: "replicaset"},
			Spec:       appsv1.ReplicaSetSpec{Replicas: new(int32), Selector: selector(), Template: podTemplate(configMap)}})
	},
	"statefulset": func(w *versionsWorld, configMap string) func() error {
		return made(w, w.client.AppsV1().StatefulSets(w.ns), &appsv1.StatefulSet{
			ObjectMeta: metav1.ObjectMeta{Name: "statefulset"},
			Spec:       appsv1.StatefulSetSpec{Replicas: new(int32), Selector: selector(), Template: podTemplate(configMap)}})
	},
	"daemonset": func(w *versionsWorld, configMap string) func() error {
		return made(w, w.client.AppsV1().DaemonSets(w.ns), &appsv1.DaemonSet{
			ObjectMeta: metav1.ObjectMeta{Name: "daemonset"},
			Spec:       appsv1.DaemonSetSpec{Selector: selector(), Template: podTemplate(configMap)}})
	},
	"controllerrevision": func(w *versionsWorld, configMap string) func() error {
		data := fmt.Sprintf(`{"spec":{"template":{"$patch":"replace","spec":{"containers":[],`+
			`"volumes":[{"name":"v","projected":{"sources":[{"configMap":{"name":%q}}]}}]}}}}`, configMap)
		return made(w, w.client.AppsV1().ControllerRevisions(w.ns), &appsv1.ControllerRevision{
			ObjectMeta: metav1.ObjectMeta{Name: "revision"}, Revision: 1, Data: runtime.RawExtension{Raw: []byte(data)}})
	},
	"job": func(w *versionsWorld, configMap string) func() error {
		template := podTemplate(configMap)
		template.Spec.RestartPolicy = corev1.RestartPolicyNever
		return made(w, w.client.BatchV1().Jobs(w.ns), &batchv1.Job{
			ObjectMeta: metav1.ObjectMeta{Name: "job"}, Spec: batchv1.JobSpec{Template: template}})
	},
	"cronjob": func(w *versionsWorld, configMap string) func() error {
		template := podTemplate(configMap)
		template.Spec.RestartPolicy = corev1.RestartPolicyNever
		return made(w, w.client.BatchV1().CronJobs(w.ns), &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "cronjob"},
			Spec: batchv1.CronJobSpec{Schedule: "0 0 1 1 *",
				JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: template}}}})
	},
}

func selector() *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": "versions"}}
}

// maker is what clients of all kinds have.
type maker[T metav1.Object] interface {
	Create(ctx context.Context, object T, opts metav1.CreateOptions) (T, error)
	Delete(ctx context.Context, name string, opts metav1.DeleteOptions) error
}

func made[T metav1.Object](w *versionsWorld, client maker[T], object T) (remove func() error) {
	w.t.Helper()
	if _, err := client.Create(w.t.Context(), object, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
	return func() error {
		// Orphans would wait for a garbage collector.
		now, propagation := int64(0), metav1.DeletePropagationBackground
		return client.Delete(w.t.Context(), object.GetName(),
			metav1.DeleteOptions{GracePeriodSeconds: &now, PropagationPolicy: &propagation})
	}
}

// TestVersionsEveryKindRefers: a version lives as long as an object of any kind refers to it.
func TestVersionsEveryKindRefers(t *testing.T) {
	w := newVersionsWorld(t)
	remove := map[string]func() error{}
	for kind, create := range referrerKinds {
		name := "used-by-" + kind
		remove[kind] = create(w, name)
		w.version(name, "0s")
	}
	secret := w.secretVersion("pull", "0s")
	other := w.secretVersion("unused", "0s")
	account, err := w.client.CoreV1().ServiceAccounts(w.ns).Create(t.Context(), &corev1.ServiceAccount{
		ObjectMeta: metav1.ObjectMeta{Name: "puller"}, ImagePullSecrets: []corev1.LocalObjectReference{{Name: "pull"}}},
		metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.run()
	w.untilSecretGone("unused")
	w.untilEvent(other, "Collected", "nothing referred to this version")
	w.sweeps()
	for kind := range referrerKinds {
		if o := w.get("used-by-" + kind); o == nil || o.Annotations[versions.AnnotationSince] != "" {
			t.Errorf("the version that a %s refers to is %v", kind, o)
		}
	}
	if _, err := w.client.CoreV1().Secrets(w.ns).Get(t.Context(), secret.Name, metav1.GetOptions{}); err != nil {
		t.Errorf("the Secret that a ServiceAccount refers to: %v", err)
	}

	for kind, remove := range remove {
		if err := remove(); err != nil {
			t.Fatalf("delete the %s: %v", kind, err)
		}
	}
	// What controllers have made of them; no garbage collector runs here.
	if err := w.client.AppsV1().ControllerRevisions(w.ns).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	account.ImagePullSecrets = nil
	if _, err := w.client.CoreV1().ServiceAccounts(w.ns).Update(t.Context(), account, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	for kind := range referrerKinds {
		w.untilGone("used-by-" + kind)
	}
	w.untilSecretGone("pull")
}

// TestVersionsOfAnotherNamespace: a version lives as long as an inline volume of a pod elsewhere shows it.
func TestVersionsOfAnotherNamespace(t *testing.T) {
	w, elsewhere := newVersionsWorld(t), newVersionsWorld(t)
	template := podTemplate("")
	template.Spec.Volumes[0].VolumeSource = corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{
		Driver: "config.csi.orlop.io", VolumeAttributes: map[string]string{
			"sources": fmt.Sprintf("[{kind: ConfigMap, name: shared, namespace: %s}, {kind: ConfigMap, name: own}]", w.ns)}}}
	remove := made(elsewhere, w.client.CoreV1().Pods(elsewhere.ns), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "pod"}, Spec: template.Spec})
	w.version("shared", "0s")
	w.version("own", "0s") // not the one of the pod's namespace
	elsewhere.version("own", "0s")
	w.run()
	w.untilGone("own")
	w.sweeps()
	if w.get("shared") == nil || elsewhere.get("own") == nil {
		t.Error("a version that an inline volume shows was collected")
	}
	if err := remove(); err != nil {
		t.Fatal(err)
	}
	w.untilGone("shared")
	elsewhere.untilGone("own")
}

func (w *versionsWorld) untilSecretGone(name string) {
	w.t.Helper()
	w.until("Secret "+name+" is collected", func() (string, error) {
		_, err := w.client.CoreV1().Secrets(w.ns).Get(w.t.Context(), name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return "", nil
		}
		return "it is there", err
	})
}

// TestVersionsLeavesAlone: what did not ask for it is not even touched, whatever it is annotated with.
func TestVersionsLeavesAlone(t *testing.T) {
	w := newVersionsWorld(t)
	longAgo := time.Now().Add(-1000 * time.Hour).UTC().Format(time.RFC3339)
	stamped := func(o *corev1.ConfigMap) { o.Annotations[versions.AnnotationSince] = longAgo }
	unlabelled := w.version("unlabelled", "0s", stamped, func(o *corev1.ConfigMap) { o.Labels = nil })
	never := w.version("never", "0s", stamped, func(o *corev1.ConfigMap) { o.Labels[versions.LabelCollect] = "never" })
	mutable := w.version("mutable", "0s", func(o *corev1.ConfigMap) { o.Immutable = nil })
	// The annotation of a version was copied with it.
	copied := w.version("copied", "0s", stamped, func(o *corev1.ConfigMap) { *o.Immutable = false })
	odd := w.version("odd", "soon")
	held := w.version("held", "0s", func(o *corev1.ConfigMap) { o.Finalizers = []string{"example.com/held"} })
	w.run()
	w.untilEvent(mutable, "NotCollected", "is for immutable objects")
	w.untilEvent(copied, "NotCollected", "is for immutable objects")
	w.untilEvent(odd, "NotCollected", `"soon"`, "give a duration")
	w.until("the one with a finalizer is being deleted", func() (string, error) {
		if w.get("held").DeletionTimestamp == nil {
			return "it is not", nil
		}
		return "", nil
	})
	w.sweeps()
	for _, o := range []*corev1.ConfigMap{unlabelled, never, mutable, odd} {
		if now := w.get(o.Name); now == nil || now.ResourceVersion != o.ResourceVersion {
			t.Errorf("%s was touched: %v", o.Name, now)
		}
	}
	// One that becomes immutable is collected then.
	_, err := w.client.CoreV1().ConfigMaps(w.ns).Patch(t.Context(), "mutable", types.MergePatchType, []byte(`{"immutable":true}`),
		metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.untilGone("mutable")
	if w.get("copied") == nil {
		t.Error("the one that is not immutable was collected")
	}
	_, err = w.client.CoreV1().ConfigMaps(w.ns).Patch(t.Context(), held.Name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`),
		metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// TestVersionsUnusedSince: since when a version is unused outlives the controller, and ends when something refers to it.
func TestVersionsUnusedSince(t *testing.T) {
	w := newVersionsWorld(t)
	w.version("old", "1h")
	stop := w.run()
	since := w.untilMarked("old", true)
	stop()
	stop = w.run()
	w.sweeps()
	if again := w.untilMarked("old", true); again != since {
		t.Errorf("unused since %s, after a restart since %s", since, again)
	}
	stop()
	remove := referrerKinds["deployment"](w, "old")
	stop = w.run()
	w.untilMarked("old", false)
	if err := remove(); err != nil {
		t.Fatal(err)
	}
	w.untilMarked("old", true)
	// What has been unused for longer than it must goes at once when a controller starts.
	stop()
	longAgo := time.Now().Add(-2 * time.Hour).UTC().Format(time.RFC3339)
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, versions.AnnotationSince, longAgo)
	if _, err := w.client.CoreV1().ConfigMaps(w.ns).Patch(t.Context(), "old", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.run()
	w.sweeps()
	// The object is younger than the annotation says.
	if w.get("old") == nil {
		t.Fatal("it was collected although it is younger than its time")
	}
	patch = fmt.Sprintf(`{"metadata":{"annotations":{%q:"0s"}}}`, versions.AnnotationAfter)
	if _, err := w.client.CoreV1().ConfigMaps(w.ns).Patch(t.Context(), "old", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.untilGone("old")
}

// TestVersionsStaleCaches: a controller whose informers hear nothing any more collects nothing that is used.
func TestVersionsStaleCaches(t *testing.T) {
	w := newVersionsWorld(t)
	gate := &watchGate{resources: map[string]bool{"deployments": true, "pods": true}}
	w.version("wanted", "1h")
	w.run(func(c *rest.Config) { c.Wrap(gate.wrap) })
	w.untilMarked("wanted", true)
	open := gate.shut()
	defer open()
	referrerKinds["deployment"](w, "wanted")
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:"0s"}}}`, versions.AnnotationAfter)
	if _, err := w.client.CoreV1().ConfigMaps(w.ns).Patch(t.Context(), "wanted", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.sweeps()
	if w.get("wanted") == nil {
		t.Fatal("a version that a Deployment refers to was collected")
	}
	w.untilMarked("wanted", true)
	open()
	w.untilMarked("wanted", false)
}

// TestVersionsIdle: without labelled objects nothing that could refer is watched.
func TestVersionsIdle(t *testing.T) {
	w := newVersionsWorld(t)
	// Those of other tests are labelled as well.
	namespaces, err := w.client.CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	labelled := metav1.ListOptions{LabelSelector: versions.LabelCollect + "=" + versions.CollectUnused}
	for i := range namespaces.Items {
		ns := namespaces.Items[i].Name
		err := errors.Join(w.client.CoreV1().ConfigMaps(ns).DeleteCollection(t.Context(), metav1.DeleteOptions{}, labelled),
			w.client.CoreV1().Secrets(ns).DeleteCollection(t.Context(), metav1.DeleteOptions{}, labelled))
		if err != nil {
			t.Fatal(err)
		}
	}
	gate := &watchGate{}
	w.run(func(c *rest.Config) { c.Wrap(gate.wrap) })
	w.untilWatches(gate, "configmaps", 1)
	w.untilWatches(gate, "secrets", 1)
	w.version("one", "1h")
	w.untilWatches(gate, "pods", 1)
	w.untilWatches(gate, "controllerrevisions", 1)
	w.version("two", "1h")
	for _, name := range []string{"one", "two"} {
		if err := w.client.CoreV1().ConfigMaps(w.ns).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, resource := range []string{"pods", "deployments", "replicasets", "controllerrevisions", "serviceaccounts", "cronjobs"} {
		w.untilWatches(gate, resource, 0)
	}
	w.version("three", "0s")
	w.untilGone("three")
	w.untilWatches(gate, "pods", 0)
}

func (w *versionsWorld) untilWatches(gate *watchGate, resource string, want int) {
	w.t.Helper()
	w.until(fmt.Sprintf("there are %d watches on %s", want, resource), func() (string, error) {
		if n := gate.watches(resource); n != want {
			return fmt.Sprintf("there are %d", n), nil
		}
		return "", nil
	})
}
