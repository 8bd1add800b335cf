package controllers

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2/ktesting"

	"github.com/orlop-io/orlop/configsync/rollout"
)

const (
	rolloutRBAC = "../../deploy/base/rollouts-rbac.yaml"
	// rolloutUser has the roles of the deployment, as the user of the bundled cluster has, which other tests use without.
	rolloutUser = "test:rollouts"
	rolloutRole = "orlop-storage-rollouts"
)

// rolloutCalls collects, over all tests of rollouts, what was asked of the API server.
var rolloutCalls callLog

// rolloutConfig is the identity under which the tests run the controller.
var rolloutConfig = sync.OnceValues(func() (*rest.Config, error) {
	ctx := context.Background()
	if err := env.Apply(ctx, "../../deploy/base/namespace.yaml", rolloutRBAC); err != nil {
		return nil, err
	}
	// The deployment's own bindings would give the other tests' user more than it has there.
	rbac := env.Client.RbacV1()
	if err := rbac.ClusterRoleBindings().Delete(ctx, rolloutRole, metav1.DeleteOptions{}); err != nil {
		return nil, err
	}
	if err := rbac.RoleBindings("orlop-system").Delete(ctx, rolloutRole, metav1.DeleteOptions{}); err != nil {
		return nil, err
	}
	return rolloutIdentity(ctx, rolloutUser, rolloutRole)
})

// rolloutIdentity is a user that has the cluster role, and the role for the key.
func rolloutIdentity(ctx context.Context, user, clusterRole string) (*rest.Config, error) {
	subjects := []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: user}}
	rbac, meta := env.Client.RbacV1(), metav1.ObjectMeta{Name: strings.ReplaceAll(user, ":", "-")}
	_, err := rbac.ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: meta, Subjects: subjects,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: clusterRole}}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	_, err = rbac.RoleBindings("orlop-system").Create(ctx, &rbacv1.RoleBinding{ObjectMeta: meta, Subjects: subjects,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: rolloutRole}}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	return env.User(user)
}

// rolloutWorld is one test's namespace and controller.
type rolloutWorld struct {
	t      *testing.T
	ns     string
	client kubernetes.Interface
	config *rest.Config
	stop   func()

	mu    sync.Mutex
	looks map[string]int // by workload
}

// newRolloutWorld makes a world with a running controller.
func newRolloutWorld(t *testing.T, edit ...func(*rollout.Config)) *rolloutWorld {
	t.Helper()
	config, err := rolloutConfig()
	if err != nil {
		t.Fatal(err)
	}
	w := &rolloutWorld{t: t, ns: env.Namespace(t), client: env.Client, config: config, looks: map[string]int{}}
	t.Cleanup(w.clean)
	w.start(edit...)
	return w
}

// clean removes the world's workloads, which later controllers would follow.
func (w *rolloutWorld) clean() {
	apps, ctx := w.client.AppsV1(), context.Background()
	for _, remove := range []func(context.Context, metav1.DeleteOptions, metav1.ListOptions) error{
		apps.Deployments(w.ns).DeleteCollection, apps.StatefulSets(w.ns).DeleteCollection,
		apps.DaemonSets(w.ns).DeleteCollection, apps.ReplicaSets(w.ns).DeleteCollection,
		w.client.CoreV1().Pods(w.ns).DeleteCollection,
	} {
		if err := remove(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
			w.t.Error(err)
		}
	}
}

// start runs a controller until w.stop is called, or the test ends.
func (w *rolloutWorld) start(edit ...func(*rollout.Config)) {
	w.t.Helper()
	config := rest.CopyConfig(w.config)
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.Wrap(rolloutCalls.wrap)
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	c := rollout.Config{
		Client: client, Namespace: "orlop-system", Reloader: true, MaxRollouts: rollout.DefaultMaxRollouts,
		Recorder: broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "orlop-rollouts"}),
		Logger:   ktesting.NewLogger(w.t, ktesting.NewConfig(ktesting.Verbosity(0))),
		Observe: func(kind, namespace, name string, _ error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if namespace == w.ns {
				w.looks[kind+"/"+name]++
			}
		},
	}
	for _, e := range edit {
		e(&c)
	}
	controller, err := rollout.New(c)
	if err != nil {
		w.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- controller.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("controller: %v", err)
		}
		broadcaster.Shutdown()
	})
	w.t.Cleanup(w.stop)
}

// restart stops the controller, and starts another one after what is done meanwhile.
func (w *rolloutWorld) restart(meanwhile func(), edit ...func(*rollout.Config)) {
	w.t.Helper()
	w.stop()
	meanwhile()
	w.start(edit...)
}

// until polls a condition, which says what is still missing, until it is empty.
func (w *rolloutWorld) until(what string, missing func() string) {
	w.t.Helper()
	var last string
	err := wait.PollUntilContextTimeout(w.t.Context(), 20*time.Millisecond, patience, true,
		func(context.Context) (bool, error) { last = missing(); return last == "", nil })
	if err != nil {
		w.t.Fatalf("waiting until %s: %v; last: %s", what, err, last)
	}
}

// looked waits until the controller has looked at a workload once more than before something was done.
func (w *rolloutWorld) looked(workload string, do func()) {
	w.t.Helper()
	count := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.looks[workload]
	}
	before := count()
	do()
	w.until(workload+" is looked at", func() string {
		if count() > before {
			return ""
		}
		return "it was not"
	})
}

// set creates a ConfigMap or a Secret ("configmap/a") of one key, or changes it.
func (w *rolloutWorld) set(object, value string, annotations ...string) {
	w.t.Helper()
	kind, name, _ := strings.Cut(object, "/")
	meta := metav1.ObjectMeta{Name: name, Annotations: pairs(annotations)}
	core, ctx := w.client.CoreV1(), w.t.Context()
	var err error
	if kind == "secret" {
		o := &corev1.Secret{ObjectMeta: meta, StringData: map[string]string{"KEY": value}}
		if _, err = core.Secrets(w.ns).Create(ctx, o, metav1.CreateOptions{}); apierrors.IsAlreadyExists(err) {
			_, err = core.Secrets(w.ns).Update(ctx, o, metav1.UpdateOptions{})
		}
	} else {
		o := &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"KEY": value}}
		if _, err = core.ConfigMaps(w.ns).Create(ctx, o, metav1.CreateOptions{}); apierrors.IsAlreadyExists(err) {
			_, err = core.ConfigMaps(w.ns).Update(ctx, o, metav1.UpdateOptions{})
		}
	}
	if err != nil {
		w.t.Fatalf("set %s: %v", object, err)
	}
}

func (w *rolloutWorld) remove(object string) {
	w.t.Helper()
	kind, name, _ := strings.Cut(object, "/")
	remove := w.client.CoreV1().ConfigMaps(w.ns).Delete
	if kind == "secret" {
		remove = w.client.CoreV1().Secrets(w.ns).Delete
	}
	if err := remove(w.t.Context(), name, metav1.DeleteOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

func pairs(list []string) map[string]string {
	m := map[string]string{}
	for i := 0; i+1 < len(list); i += 2 {
		m[list[i]] = list[i+1]
	}
	return m
}

// uses is a pod template whose environment comes of the objects ("configmap/a", "secret/b?" where it is optional).
func uses(objects ...string) corev1.PodTemplateSpec {
	c := corev1.Container{Name: "c", Image: "none"}
	for _, object := range objects {
		object, optional := strings.CutSuffix(object, "?")
		kind, name, _ := strings.Cut(object, "/")
		local, from := corev1.LocalObjectReference{Name: name}, corev1.EnvFromSource{}
		if kind == "secret" {
			from.SecretRef = &corev1.SecretEnvSource{LocalObjectReference: local, Optional: &optional}
		} else {
			from.ConfigMapRef = &corev1.ConfigMapEnvSource{LocalObjectReference: local, Optional: &optional}
		}
		c.EnvFrom = append(c.EnvFrom, from)
	}
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "a"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{c}},
	}
}

// deploy creates a Deployment with annotations.
func (w *rolloutWorld) deploy(name string, template corev1.PodTemplateSpec, annotations ...string) *appsv1.Deployment {
	w.t.Helper()
	labels := map[string]string{"app": name}
	template.Labels = labels
	d, err := w.client.AppsV1().Deployments(w.ns).Create(w.t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: pairs(annotations)},
		Spec:       appsv1.DeploymentSpec{Template: template, Selector: &metav1.LabelSelector{MatchLabels: labels}},
	}, metav1.CreateOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

func (w *rolloutWorld) deployment(name string) *appsv1.Deployment {
	w.t.Helper()
	d, err := w.client.AppsV1().Deployments(w.ns).Get(w.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

// edit patches a Deployment as a user does.
func (w *rolloutWorld) edit(name, patch string) {
	w.t.Helper()
	_, err := w.client.AppsV1().Deployments(w.ns).Patch(w.t.Context(), name, types.StrategicMergePatchType, []byte(patch),
		metav1.PatchOptions{FieldManager: "somebody"})
	if err != nil {
		w.t.Fatal(err)
	}
}

// annotate sets an annotation of a Deployment, or with "" removes it.
func (w *rolloutWorld) annotate(name, annotation, value string) {
	w.t.Helper()
	quoted := fmt.Sprintf("%q", value)
	if value == "" {
		quoted = "null"
	}
	w.edit(name, fmt.Sprintf(`{"metadata":{"annotations":{%q:%s}}}`, annotation, quoted))
}

// observed reads which objects a baseline has.
func observed(annotations map[string]string) map[string]string {
	var b struct {
		Objects map[string]string `json:"objects"`
	}
	if json.Unmarshal([]byte(annotations[rollout.AnnotationObserved]), &b) != nil {
		return nil
	}
	return b.Objects
}

// follows waits until the Deployment's baseline has exactly the objects ("ConfigMap/a"), and returns it.
func (w *rolloutWorld) follows(name string, objects ...string) map[string]string {
	w.t.Helper()
	slices.Sort(objects)
	var got map[string]string
	w.until(fmt.Sprintf("%s follows %q", name, objects), func() string {
		got = observed(w.deployment(name).Annotations)
		if got != nil && slices.Equal(slices.Sorted(maps.Keys(got)), objects) {
			return ""
		}
		return fmt.Sprintf("it follows %v", got)
	})
	return got
}

// rolled waits until the Deployment was rolled as often by the controller, and fails when it was rolled more often. That
// is how many templates with a hash of its own it had: those of its ReplicaSets.
func (w *rolloutWorld) rolled(name string, times int) {
	w.t.Helper()
	w.until(fmt.Sprintf("%s was rolled %d times", name, times), func() string {
		got := w.rolls(name)
		if got > times {
			w.t.Fatalf("%s was rolled %d times, want %d", name, got, times)
		}
		if got == times && w.deployment(name).Status.ObservedGeneration == w.deployment(name).Generation {
			return ""
		}
		return fmt.Sprint("it was rolled ", got)
	})
}

func (w *rolloutWorld) rolls(name string) int {
	w.t.Helper()
	sets, err := w.client.AppsV1().ReplicaSets(w.ns).List(w.t.Context(), metav1.ListOptions{LabelSelector: "app=" + name})
	if err != nil {
		w.t.Fatal(err)
	}
	hashes := map[string]bool{}
	for i := range sets.Items {
		if hash := sets.Items[i].Spec.Template.Annotations[rollout.AnnotationHash]; hash != "" {
			hashes[hash] = true
		}
	}
	return len(hashes)
}

// untilEvent waits for an event about a Deployment.
func (w *rolloutWorld) untilEvent(name, reason string, parts ...string) {
	w.t.Helper()
	(&pvWorld{t: w.t, client: w.client, ns: w.ns}).untilEvent(w.deployment(name), reason, parts...)
}

// kubelet plays one: it makes all pods of the namespace ready, until the test ends.
func (w *rolloutWorld) kubelet() {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	pods := w.client.CoreV1().Pods(w.ns)
	var wg sync.WaitGroup
	wg.Go(func() {
		err := wait.PollUntilContextCancel(ctx, 50*time.Millisecond, true, func(ctx context.Context) (bool, error) {
			list, err := pods.List(ctx, metav1.ListOptions{FieldSelector: "status.phase=Pending"})
			if err != nil {
				return false, err
			}
			for i := range list.Items {
				_, err := pods.Patch(ctx, list.Items[i].Name, types.StrategicMergePatchType,
					[]byte(`{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}`),
					metav1.PatchOptions{}, "status")
				if err != nil && !apierrors.IsNotFound(err) {
					return false, err
				}
			}
			return false, nil
		})
		if err != nil && ctx.Err() == nil {
			w.t.Errorf("the kubelet that the test plays: %v", err)
		}
	})
	w.t.Cleanup(func() { cancel(); wg.Wait() })
}

// complete waits until a Deployment's own status says that all pods are new.
func (w *rolloutWorld) complete(name string) {
	w.t.Helper()
	w.until(name+" is complete", func() string {
		d := w.deployment(name)
		s := d.Status
		if s.ObservedGeneration == d.Generation && s.UpdatedReplicas == *d.Spec.Replicas && s.Replicas == s.UpdatedReplicas &&
			s.AvailableReplicas == s.Replicas {
			return ""
		}
		return fmt.Sprintf("%+v", s)
	})
}
