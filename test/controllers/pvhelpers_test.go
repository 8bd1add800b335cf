package controllers

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2/ktesting"

	"github.com/orlop-io/orlop/pvcontroller"
)

// patience bounds every wait. It is a limit for a machine under load, not an expectation.
const patience = 90 * time.Second

// pvWorld is one test's part of the shared API server: a namespace, a storage class and a label of its own.
type pvWorld struct {
	t      testing.TB
	client kubernetes.Interface
	ns     string
	class  string
}

// newPVWorld makes a world whose class is named after its namespace. The class object itself is not made: static
// volumes need none.
func newPVWorld(t testing.TB) *pvWorld {
	t.Helper()
	ns := env.Namespace(t)
	return &pvWorld{t: t, client: env.Client, ns: ns, class: "class-" + ns}
}

// runPVController runs a controller until the returned function is called, or the test ends.
func runPVController(t testing.TB, config *rest.Config, edit ...func(*pvcontroller.Config)) (stop func()) {
	t.Helper()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0,
		informers.WithTransform(pvcontroller.Transform))
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	logger := ktesting.NewLogger(t, ktesting.NewConfig(ktesting.Verbosity(0)))
	c := pvcontroller.Config{
		Client: client, Informers: factory, Logger: logger,
		Recorder: broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "orlop-pvcontroller"}),
	}
	for _, e := range edit {
		e(&c)
	}
	controller, err := pvcontroller.New(c)
	if err != nil {
		t.Fatal(err)
	}
	factory.Start(ctx.Done())
	done := make(chan error, 1)
	go func() { done <- controller.Run(ctx, 4) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("controller: %v", err)
		}
		factory.Shutdown()
		broadcaster.Shutdown()
	}
	t.Cleanup(stop)
	return stop
}

// pv is a static volume of the world's class: a directory that nobody ever looks into.
func (w *pvWorld) pv(name, size string, edit ...func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: w.ns + "-" + name},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)},
			AccessModes:                   []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			StorageClassName:              w.class,
			PersistentVolumeSource: corev1.PersistentVolumeSource{
				HostPath: &corev1.HostPathVolumeSource{Path: "/nonexistent/" + name},
			},
		},
	}
	for _, e := range edit {
		e(pv)
	}
	return pv
}

func (w *pvWorld) claim(name, size string, edit ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	class := w.class
	claim := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: w.ns},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes:      []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			StorageClassName: &class,
			Resources: corev1.VolumeResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)},
			},
		},
	}
	for _, e := range edit {
		e(claim)
	}
	return claim
}

func (w *pvWorld) createPV(pv *corev1.PersistentVolume) *corev1.PersistentVolume {
	w.t.Helper()
	created, err := w.client.CoreV1().PersistentVolumes().Create(w.t.Context(), pv, metav1.CreateOptions{})
	if err != nil {
		w.t.Fatalf("create volume %s: %v", pv.Name, err)
	}
	return created
}

func (w *pvWorld) createClaim(claim *corev1.PersistentVolumeClaim) *corev1.PersistentVolumeClaim {
	w.t.Helper()
	created, err := w.client.CoreV1().PersistentVolumeClaims(w.ns).Create(w.t.Context(), claim, metav1.CreateOptions{})
	if err != nil {
		w.t.Fatalf("create claim %s: %v", claim.Name, err)
	}
	return created
}

// createClass makes the world's storage class, which goes with the test.
func (w *pvWorld) createClass(
	provisioner string, mode storagev1.VolumeBindingMode, edit ...func(*storagev1.StorageClass),
) {
	w.t.Helper()
	class := &storagev1.StorageClass{
		ObjectMeta:        metav1.ObjectMeta{Name: w.class},
		Provisioner:       provisioner,
		VolumeBindingMode: &mode,
	}
	for _, e := range edit {
		e(class)
	}
	if _, err := w.client.StorageV1().StorageClasses().Create(w.t.Context(), class, metav1.CreateOptions{}); err != nil {
		w.t.Fatalf("create class %s: %v", class.Name, err)
	}
	w.t.Cleanup(func() {
		err := w.client.StorageV1().StorageClasses().Delete(context.Background(), class.Name, metav1.DeleteOptions{})
		if err != nil {
			w.t.Errorf("delete class %s: %v", class.Name, err)
		}
	})
}

func (w *pvWorld) deleteClaim(name string) {
	w.t.Helper()
	err := w.client.CoreV1().PersistentVolumeClaims(w.ns).Delete(w.t.Context(), name, metav1.DeleteOptions{})
	if err != nil {
		w.t.Fatalf("delete claim %s: %v", name, err)
	}
}

func (w *pvWorld) getPV(name string) *corev1.PersistentVolume {
	w.t.Helper()
	pv, err := w.client.CoreV1().PersistentVolumes().Get(w.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		w.t.Fatalf("get volume %s: %v", name, err)
	}
	return pv
}

func (w *pvWorld) getClaim(name string) *corev1.PersistentVolumeClaim {
	w.t.Helper()
	claim, err := w.client.CoreV1().PersistentVolumeClaims(w.ns).Get(w.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		w.t.Fatalf("get claim %s: %v", name, err)
	}
	return claim
}

// until polls a condition, which says what is still missing, until it is empty.
func (w *pvWorld) until(what string, missing func() (string, error)) {
	w.t.Helper()
	var last string
	err := wait.PollUntilContextTimeout(w.t.Context(), 50*time.Millisecond, patience, true,
		func(context.Context) (bool, error) {
			var err error
			last, err = missing()
			return last == "" && err == nil, err
		})
	if err != nil {
		w.t.Fatalf("waiting until %s: %v; last: %s", what, err, last)
	}
}

func (w *pvWorld) untilPVPhase(name string, phase corev1.PersistentVolumePhase) *corev1.PersistentVolume {
	w.t.Helper()
	var pv *corev1.PersistentVolume
	w.until(fmt.Sprintf("volume %s is %s", name, phase), func() (string, error) {
		pv = w.getPV(name)
		if pv.Status.Phase != phase {
			return fmt.Sprintf("it is %s (%s)", pv.Status.Phase, pv.Status.Message), nil
		}
		return "", nil
	})
	return pv
}

func (w *pvWorld) untilClaimPhase(name string, phase corev1.PersistentVolumeClaimPhase) *corev1.PersistentVolumeClaim {
	w.t.Helper()
	var claim *corev1.PersistentVolumeClaim
	w.until(fmt.Sprintf("claim %s is %s", name, phase), func() (string, error) {
		claim = w.getClaim(name)
		if claim.Status.Phase != phase {
			return fmt.Sprintf("it is %s", claim.Status.Phase), nil
		}
		return "", nil
	})
	return claim
}

// untilEvent waits for an event about an object, given by its UID, with a reason and with all parts in its message.
func (w *pvWorld) untilEvent(object metav1.Object, reason string, parts ...string) {
	w.t.Helper()
	ns := object.GetNamespace()
	if ns == "" {
		ns = metav1.NamespaceDefault // where events about cluster-scoped objects go
	}
	w.until(fmt.Sprintf("%s has an event %s that says %q", object.GetName(), reason, parts), func() (string, error) {
		events, err := w.client.CoreV1().Events(ns).List(w.t.Context(), metav1.ListOptions{
			FieldSelector: "involvedObject.uid=" + string(object.GetUID())})
		if err != nil {
			return "", err
		}
		var seen []string
		for i := range events.Items {
			e := &events.Items[i]
			ok := e.Reason == reason
			for _, p := range parts {
				ok = ok && strings.Contains(e.Message, p)
			}
			if ok {
				return "", nil
			}
			seen = append(seen, e.Reason+": "+e.Message)
		}
		return fmt.Sprintf("events: %q", seen), nil
	})
}

// checkBindings fails the test unless every claim of the world's namespace and the volume it names agree: no claim has
// two volumes, no volume has two claims. What volumes say of claims that are gone does not matter.
func (w *pvWorld) checkBindings() (pairs int) {
	w.t.Helper()
	claims, err := w.client.CoreV1().PersistentVolumeClaims(w.ns).List(w.t.Context(), metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	pvs, err := w.client.CoreV1().PersistentVolumes().List(w.t.Context(), metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	volumes := map[types.UID][]string{} // of each claim
	for i := range pvs.Items {
		if ref := pvs.Items[i].Spec.ClaimRef; ref != nil && ref.Namespace == w.ns && ref.UID != "" {
			volumes[ref.UID] = append(volumes[ref.UID], pvs.Items[i].Name)
		}
	}
	for i := range claims.Items {
		claim := &claims.Items[i]
		switch own := volumes[claim.UID]; {
		case claim.Annotations["pv.kubernetes.io/bind-completed"] == "" && len(own) == 0:
		case len(own) == 1 && own[0] == claim.Spec.VolumeName:
			pairs++
		default:
			w.t.Errorf("claim %s names volume %q, and %q say they are its", claim.Name, claim.Spec.VolumeName, own)
		}
	}
	return pairs
}
