package controllers

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2/ktesting"

	"github.com/orlop-io/orlop/configsync/versions"
)

const (
	versionsRBAC = "../../deploy/base/versions-rbac.yaml"
	versionsRole = "orlop-storage-versions"
	versionsUser = "test:versions"
)

// versionsConfig is the identity under which the tests run the controller: one that has its role and nothing else. The
// role's own binding is taken off, for other tests of the package use that user without this role.
var versionsConfig = sync.OnceValues(func() (*rest.Config, error) {
	ctx := context.Background()
	if err := env.Apply(ctx, "../../deploy/base/namespace.yaml", versionsRBAC); err != nil {
		return nil, err
	}
	bindings := env.Client.RbacV1().ClusterRoleBindings()
	if err := bindings.Delete(ctx, versionsRole, metav1.DeleteOptions{}); err != nil {
		return nil, err
	}
	_, err := bindings.Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "test-versions"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: versionsUser}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: versionsRole},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	return env.User(versionsUser)
})

// versionsCalls collects what the controller asked of the API server in all tests.
var versionsCalls callLog

// versionsWorld is one test's namespace.
type versionsWorld struct {
	*pvWorld
}

func newVersionsWorld(t *testing.T) *versionsWorld {
	t.Helper()
	return &versionsWorld{newPVWorld(t)}
}

// run runs a controller until the returned function is called, or the test ends. Edits may wrap its connection.
func (w *versionsWorld) run(edit ...func(*rest.Config)) (stop func()) {
	w.t.Helper()
	config, err := versionsConfig()
	if err != nil {
		w.t.Fatal(err)
	}
	config = rest.CopyConfig(config)
	config.Wrap(versionsCalls.wrap)
	for _, e := range edit {
		e(config)
	}
	return w.runAs(config)
}

// runAs is run under an identity.
func (w *versionsWorld) runAs(config *rest.Config) (stop func()) {
	w.t.Helper()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		w.t.Fatal(err)
	}
	objects, err := metadata.NewForConfig(config)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	controller, err := versions.New(versions.Config{
		Client: client, Metadata: objects, Logger: ktesting.NewLogger(w.t, ktesting.NewConfig(ktesting.Verbosity(2))),
		Recorder: broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "orlop-versions"}),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- controller.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("controller: %v", err)
		}
		broadcaster.Shutdown()
	})
	w.t.Cleanup(stop)
	return stop
}

// version makes an immutable ConfigMap that asks to be collected when it has been unused for so long.
func (w *versionsWorld) version(name, after string, edit ...func(*corev1.ConfigMap)) *corev1.ConfigMap {
	w.t.Helper()
	immutable := true
	o := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{versions.LabelCollect: versions.CollectUnused},
			Annotations: map[string]string{versions.AnnotationAfter: after},
		},
		Immutable: &immutable, Data: map[string]string{"k": "v"},
	}
	for _, e := range edit {
		e(o)
	}
	o, err := w.client.CoreV1().ConfigMaps(w.ns).Create(w.t.Context(), o, metav1.CreateOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return o
}

// secretVersion is version for a Secret.
func (w *versionsWorld) secretVersion(name, after string) *corev1.Secret {
	w.t.Helper()
	immutable := true
	o, err := w.client.CoreV1().Secrets(w.ns).Create(w.t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{versions.LabelCollect: versions.CollectUnused},
			Annotations: map[string]string{versions.AnnotationAfter: after},
		},
		Immutable: &immutable, StringData: map[string]string{"k": "v"},
	}, metav1.CreateOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return o
}

// get returns a ConfigMap, nil when there is none.
func (w *versionsWorld) get(name string) *corev1.ConfigMap {
	w.t.Helper()
	o, err := w.client.CoreV1().ConfigMaps(w.ns).Get(w.t.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return o
}

func (w *versionsWorld) untilGone(name string) {
	w.t.Helper()
	w.until(name+" is collected", func() (string, error) {
		if o := w.get(name); o != nil {
			return fmt.Sprintf("it is there, annotated %v", o.Annotations), nil
		}
		return "", nil
	})
}

// untilMarked waits until a ConfigMap is marked as unused, or no longer, and returns since when.
func (w *versionsWorld) untilMarked(name string, want bool) (since string) {
	w.t.Helper()
	w.until(fmt.Sprintf("%s is marked: %t", name, want), func() (string, error) {
		o := w.get(name)
		if o == nil {
			return "", fmt.Errorf("%s is gone", name)
		}
		marked := false
		if since, marked = o.Annotations[versions.AnnotationSince]; marked != want {
			return fmt.Sprintf("it is annotated %v", o.Annotations), nil
		}
		return "", nil
	})
	return since
}

// sweeps waits until the controller has collected something that it learnt of after everything that is there now: whatever
// else it wanted to collect is gone by then.
func (w *versionsWorld) sweeps() {
	w.t.Helper()
	for range 2 {
		o := w.version("bystander", "0s")
		w.untilGone(o.Name)
	}
}

// podTemplate is a template that refers to a ConfigMap.
func podTemplate(configMap string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "versions"}},
		Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "c", Image: "none"}},
			Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
				LocalObjectReference: corev1.LocalObjectReference{Name: configMap}}}}},
		},
	}
}

// watchGate holds back what watches of some resources bring, and counts the watches that are open.
type watchGate struct {
	resources map[string]bool

	mu     sync.Mutex
	closed chan struct{} // nil when the gate is open
	open   map[string]int
}

func (g *watchGate) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		resp, err := next.RoundTrip(r)
		resource := path.Base(r.URL.Path)
		if err != nil || r.URL.Query().Get("watch") != "true" {
			return resp, err
		}
		g.count(resource, 1)
		resp.Body = &versionsBody{ReadCloser: resp.Body, gate: g, held: g.resources[resource], ctx: r.Context(),
			closed: sync.OnceFunc(func() { g.count(resource, -1) })}
		return resp, nil
	})
}

func (g *watchGate) count(resource string, n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open == nil {
		g.open = map[string]int{}
	}
	g.open[resource] += n
}

// watches returns how many watches on a resource are open.
func (g *watchGate) watches(resource string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open[resource]
}

// shut holds back everything from now on, until open is called.
func (g *watchGate) shut() (open func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	closed := make(chan struct{})
	g.closed = closed
	return sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.closed = nil
		close(closed)
	})
}

// versionsBody is what a watch brings.
type versionsBody struct {
	io.ReadCloser
	gate   *watchGate
	held   bool
	ctx    context.Context
	closed func()
}

func (b *versionsBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.gate.mu.Lock()
	shut := b.gate.closed
	b.gate.mu.Unlock()
	if b.held && shut != nil {
		select {
		case <-shut:
		case <-b.ctx.Done():
		}
	}
	return n, err
}

func (b *versionsBody) Close() error {
	b.closed()
	return b.ReadCloser.Close()
}
