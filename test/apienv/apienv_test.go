package apienv

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// TestEnvironment goes once through all that an environment promises: an administrator, an identity that RBAC
// holds back, controllers that act, and nothing left behind.
func TestEnvironment(t *testing.T) {
	e, err := start([]Option{WithProtectionControllers(), WithScheduler()})
	if err != nil {
		t.Fatal(err)
	}
	stopped := false
	defer func() {
		if !stopped {
			if err := e.stop(); err != nil {
				t.Error(err)
			}
		}
	}()
	ns := e.Namespace(t)
	claim, err := e.Client.CoreV1().PersistentVolumeClaims(ns).Create(t.Context(), &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "data"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")},
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}

	stranger, err := e.User("stranger", "guests")
	if err != nil {
		t.Fatal(err)
	}
	strangerClient, err := kubernetes.NewForConfig(stranger)
	if err != nil {
		t.Fatal(err)
	}
	_, err = strangerClient.CoreV1().PersistentVolumeClaims(ns).Get(t.Context(), "data", metav1.GetOptions{})
	if !apierrors.IsForbidden(err) {
		t.Errorf("a user without a role read a claim: error %v, want Forbidden", err)
	}

	if out, err := e.Kubectl(t.Context(), "get", "pvc", "-n", ns, "-o", "name"); err != nil {
		t.Error(err)
	} else if out != "persistentvolumeclaim/data\n" {
		t.Errorf("kubectl sees %q", out)
	}

	w, err := e.Client.CoreV1().PersistentVolumeClaims(ns).Watch(t.Context(),
		metav1.ListOptions{ResourceVersion: claim.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if err := e.Client.CoreV1().PersistentVolumeClaims(ns).Delete(t.Context(), "data", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for event := range w.ResultChan() {
		if event.Type == watch.Deleted { // the protection controller took its finalizer off
			break
		}
	}

	procs := e.procs
	stopped = true
	if err := e.stop(); err != nil {
		t.Fatal(err)
	}
	if len(procs) != 4 {
		t.Errorf("%d processes ran, want etcd, API server, controller manager and scheduler", len(procs))
	}
	for _, p := range procs {
		if err := syscall.Kill(p.cmd.Process.Pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("%s (pid %d) is still there: %v", p.name, p.cmd.Process.Pid, err)
		}
	}
	if _, err := os.Stat(e.Dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", e.Dir, err)
	}
}

func TestStartNamesTheReason(t *testing.T) {
	_, err := start([]Option{WithAPIServerFlags("--no-such-flag")})
	if err == nil {
		t.Fatal("an API server with an unknown flag started")
	}
	if want := "unknown flag: --no-such-flag"; !strings.Contains(err.Error(), want) {
		t.Errorf("error %q does not name the reason %q", err, want)
	}
}
