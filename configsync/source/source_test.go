package source

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"

	"github.com/orlop-io/orlop/configsync/payload"
	"github.com/orlop-io/orlop/test/apienv"
)

const patience = time.Minute

// eventually waits until the condition holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	err := wait.PollUntilContextTimeout(t.Context(), 5*time.Millisecond, patience, true,
		func(context.Context) (bool, error) { return condition(), nil })
	if err != nil {
		t.Fatalf("waiting until %s: %v", what, err)
	}
}

func get(t *testing.T, r *Ref) *payload.Object {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	o, err := r.Get(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// shows reports whether the object is there with this value of its key k.
func shows(r *Ref, value string) func() bool {
	return func() bool {
		o := r.Last()
		return o != nil && o.Found && string(o.Data["k"]) == value
	}
}

func configMap(ns, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cm", Namespace: ns}, Data: map[string]string{"k": value},
		BinaryData: map[string][]byte{"b": {0xff}}}
}

// A node's own credentials, and a real API server: what the node's pods refer to can be read, watched, and is followed
// through all of its life; what they do not refer to cannot.
func TestAsANode(t *testing.T) {
	env := apienv.Start(t)
	ns := env.Namespace(t)
	core := env.Client.CoreV1()
	config, err := env.User("system:node:n1", "system:nodes")
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(rest.CopyConfig(config))
	if err != nil {
		t.Fatal(err)
	}
	create := metav1.CreateOptions{}
	if _, err := core.ServiceAccounts(ns).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, create); err != nil &&
		!apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: map[string]string{"l": "1"}}, Spec: corev1.PodSpec{NodeName: "n1",
		Containers: []corev1.Container{{Name: "c", Image: "i"}},
		Volumes: []corev1.Volume{
			{Name: "cm", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}}},
			{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}},
		}}}
	if pod, err = core.Pods(ns).Create(t.Context(), pod, create); err != nil {
		t.Fatal(err)
	}
	s := New(client)
	defer s.Close()
	var clock atomic.Int64
	s.now = func() time.Time { return time.Unix(0, clock.Load()) }
	var notified atomic.Int32
	cm := s.Acquire(Key{payload.ConfigMap, ns, "cm"}, func() { notified.Add(1) })
	again := s.Acquire(Key{payload.ConfigMap, ns, "cm"}, func() {})
	secret := s.Acquire(Key{payload.Secret, ns, "s"}, func() {})
	if o := get(t, cm); o.Found {
		t.Errorf("there is no such ConfigMap, and Get says %+v", o.Version)
	}
	if n := s.Watches(); n != 2 {
		t.Errorf("%d watches for three references to two objects", n)
	}

	made, err := core.ConfigMaps(ns).Create(t.Context(), configMap(ns, "1"), create)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the ConfigMap appears", shows(cm, "1"))
	if o := get(t, again); o.UID != string(made.UID) || o.ResourceVersion != made.ResourceVersion || string(o.BinaryData["b"]) != "\xff" {
		t.Errorf("%+v is not what was made", o.Version)
	}
	before := notified.Load()
	made.Data["k"] = "2"
	if _, err := core.ConfigMaps(ns).Update(t.Context(), made, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the change arrives", shows(cm, "2"))
	eventually(t, "the subscriber is told", func() bool { return notified.Load() > before })
	if err := core.ConfigMaps(ns).Delete(t.Context(), "cm", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the ConfigMap disappears", func() bool { return !cm.Last().Found })

	// Made again and immutable, then once more: the watch is over, and Get sees it all the same.
	yes := true
	for _, value := range []string{"3", "4"} {
		frozen := configMap(ns, value)
		frozen.Immutable = &yes
		if _, err := core.ConfigMaps(ns).Create(t.Context(), frozen, create); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the immutable ConfigMap is seen", func() bool { clock.Add(int64(time.Hour)); get(t, cm); return shows(cm, value)() })
		eventually(t, "its watch ends", func() bool { return s.Watches() == 1 })
		if err := core.ConfigMaps(ns).Delete(t.Context(), "cm", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if !get(t, cm).Found {
			t.Error("an immutable object was asked for again at once")
		}
	}

	if _, err := core.Secrets(ns).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Data: map[string][]byte{"k": []byte("x")}},
		create); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the Secret appears", shows(secret, "x"))

	var told atomic.Bool
	foreign := s.Acquire(Key{payload.Secret, ns, "other"}, func() { told.Store(true) })
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := foreign.Get(ctx); !apierrors.IsForbidden(err) {
		t.Errorf("a Secret that no pod of the node refers to: error %v, want Forbidden", err)
	}
	if !told.Load() || !apierrors.IsForbidden(foreign.Failure()) || secret.Failure() != nil {
		t.Errorf("the refusal was told: %v; the failures are %v and %v", told.Load(), foreign.Failure(), secret.Failure())
	}
	for _, r := range []*Ref{cm, again, secret, foreign} {
		r.Release()
		r.Release()
	}
	if n := s.Watches(); n != 0 {
		t.Errorf("%d watches without a reference", n)
	}
	followPod(t, env.Client, s, pod)
}

// followPod sees a pod's label change through the watch of the node's pods.
func followPod(t *testing.T, admin kubernetes.Interface, s *Source, pod *corev1.Pod) {
	t.Helper()
	pods := s.Pods("n1")
	defer pods.Close()
	var notified atomic.Int32
	r := pods.Acquire(pod.UID, func() { notified.Add(1) })
	label := func(want string) func() bool {
		return func() bool { m, ok := r.Last(); return ok && m.Labels["l"] == want }
	}
	eventually(t, "the pod is seen", label("1"))
	before := notified.Load()
	pod.Labels["l"] = "2"
	if _, err := admin.CoreV1().Pods(pod.Namespace).Update(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the label's change arrives", label("2"))
	eventually(t, "the subscriber is told", func() bool { return notified.Load() > before })
	r.Release()
	r.Release()
	if _, ok := r.Last(); ok {
		t.Error("a pod is kept that nobody refers to")
	}
}

// A watch that brings nothing, not even a bookmark, is opened again; one that fails is tried again; and meanwhile the
// last good state stays.
func TestStalledAndFailingWatch(t *testing.T) {
	client := fake.NewClientset(configMap("ns", "1"))
	var opened atomic.Int32
	var gone atomic.Bool
	stream := make(chan *watch.FakeWatcher, 100)
	client.PrependWatchReactor("configmaps", func(clienttesting.Action) (bool, watch.Interface, error) {
		opened.Add(1)
		if gone.Load() {
			return true, nil, apierrors.NewResourceExpired("too old")
		}
		w := watch.NewFake()
		stream <- w
		return true, w, nil
	})
	var failing atomic.Bool
	client.PrependReactor("list", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
		if failing.Load() {
			return true, nil, apierrors.NewInternalError(context.DeadlineExceeded)
		}
		return false, nil, nil
	})
	s := New(client)
	defer s.Close()
	var offset atomic.Int64
	s.now = func() time.Time { return time.Unix(offset.Load(), 0) }
	r := s.Acquire(Key{payload.ConfigMap, "ns", "cm"}, func() {})
	if o := get(t, r); !o.Found {
		t.Fatal("the ConfigMap was not found")
	}
	first := <-stream
	change := func(value string) {
		t.Helper()
		if _, err := client.CoreV1().ConfigMaps("ns").Update(t.Context(), configMap("ns", value), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	change("2")
	offset.Store(int64(stall.Seconds()) - 1)
	get(t, r)
	if n := opened.Load(); n != 1 {
		t.Errorf("%d watches were opened, and the first is still good", n)
	}
	offset.Store(int64(stall.Seconds()) + 1)
	get(t, r)
	eventually(t, "the stalled watch is replaced", shows(r, "2"))
	eventually(t, "the dead watch is ended", first.IsStopped)

	second := <-stream
	failing.Store(true)
	gone.Store(true)
	change("3")
	second.Error(&apierrors.NewResourceExpired("410").ErrStatus)
	seen := opened.Load()
	eventually(t, "the watch is tried again", func() bool { return failing.Load() && (opened.Load() > seen || len(client.Actions()) > 10) })
	if !shows(r, "2")() {
		t.Errorf("the last good state was lost: %+v", r.Last())
	}
	eventually(t, "the failure is known", func() bool { return r.Failure() != nil })
	failing.Store(false)
	gone.Store(false)
	eventually(t, "the change is seen after the failure", shows(r, "3"))
	eventually(t, "the failure is over", func() bool { return r.Failure() == nil })
}

func TestClosed(t *testing.T) {
	s := New(fake.NewClientset())
	s.Close()
	r := s.Acquire(Key{payload.Secret, "ns", "s"}, func() {})
	if _, err := r.Get(t.Context()); err == nil {
		t.Error("Get of a closed source succeeds")
	}
	r.Release()
}

func TestOlderListIsIgnored(t *testing.T) {
	object := func(uid, version string) *payload.Object {
		return &payload.Object{Found: true, Version: payload.Version{UID: uid, ResourceVersion: version}}
	}
	for _, tt := range []struct {
		name     string
		o, than  *payload.Object
		outdated bool
	}{
		{"first", object("u", "5"), nil, false},
		{"newer", object("u", "10"), object("u", "9"), false},
		{"same", object("u", "9"), object("u", "9"), false},
		{"older", object("u", "9"), object("u", "10"), true},
		{"another object", object("v", "9"), object("u", "10"), false},
		{"deleted", &payload.Object{}, object("u", "10"), false},
		{"unknown order", object("u", "a"), object("u", "b"), false},
	} {
		if got := older(tt.o, tt.than); got != tt.outdated {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.outdated)
		}
	}
}
