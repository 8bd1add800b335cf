package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/pvcontroller"
)

// bound makes a volume and a claim that binds it, and returns both as they are then.
func (w *pvWorld) bound(edit ...func(*corev1.PersistentVolume)) (
	*corev1.PersistentVolume, *corev1.PersistentVolumeClaim,
) {
	w.t.Helper()
	pv := w.createPV(w.pv("pv", "1Gi", edit...))
	w.createClaim(w.claim("data", "1Gi"))
	claim := w.untilClaimPhase("data", corev1.ClaimBound)
	return w.untilPVPhase(pv.Name, corev1.VolumeBound), claim
}

func TestRetainedVolumeIsNotStolenByANewClaimOfTheSameName(t *testing.T) {
	w := newPVWorld(t)
	runPVController(t, pvConfig(t))
	pv, first := w.bound()
	w.deleteClaim("data")
	released := w.untilPVPhase(pv.Name, corev1.VolumeReleased)
	if released.Spec.ClaimRef == nil || released.Spec.ClaimRef.UID != first.UID {
		t.Errorf("the released volume forgot whose data it holds: %v", released.Spec.ClaimRef)
	}

	second := w.createClaim(w.claim("data", "1Gi"))
	w.untilEvent(second, "ProvisioningFailed", w.class) // it looked for a volume, and found none
	if got := w.getPV(pv.Name); got.Status.Phase != corev1.VolumeReleased || got.Spec.ClaimRef.UID != first.UID {
		t.Errorf("the volume is %s for %v, want it Released for the first claim", got.Status.Phase, got.Spec.ClaimRef)
	}
	if got := w.getClaim("data"); got.Status.Phase != corev1.ClaimPending {
		t.Errorf("the new claim is %s", got.Status.Phase)
	}

	// An administrator who has looked at the data gives the volume free, the way the documentation says.
	if _, err := w.client.CoreV1().PersistentVolumes().Patch(t.Context(), pv.Name, "application/merge-patch+json",
		[]byte(`{"spec":{"claimRef":null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.untilClaimPhase("data", corev1.ClaimBound)
	w.checkBindings()
}

func TestClaimDeletedAndMadeAnewWhileNobodyLooked(t *testing.T) {
	w := newPVWorld(t)
	stop := runPVController(t, pvConfig(t))
	pv, first := w.bound()
	stop()
	w.deleteClaim("data")
	w.until("the first claim is gone", func() (string, error) {
		claims, err := w.client.CoreV1().PersistentVolumeClaims(w.ns).List(t.Context(), metav1.ListOptions{})
		return fmt.Sprintf("%.0d", len(claims.Items)), err
	})
	second := w.createClaim(w.claim("data", "1Gi"))
	runPVController(t, pvConfig(t))
	released := w.untilPVPhase(pv.Name, corev1.VolumeReleased)
	if released.Spec.ClaimRef.UID != first.UID || first.UID == second.UID {
		t.Errorf("the volume belongs to %s, want the first claim %s", released.Spec.ClaimRef.UID, first.UID)
	}
}

func TestDeletePolicy(t *testing.T) {
	for _, c := range []struct {
		name  string
		edit  func(*corev1.PersistentVolume)
		phase corev1.PersistentVolumePhase
		says  string
	}{
		{"of an in-tree volume that nobody can delete", func(*corev1.PersistentVolume) {},
			corev1.VolumeFailed, "hostPath"},
		{"of a CSI volume is its provisioner's work", func(pv *corev1.PersistentVolume) {
			pv.Spec.HostPath = nil
			pv.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: "test.csi.example.com", VolumeHandle: "1"}
		}, corev1.VolumeReleased, ""},
		{"of a volume with the external provisioner's finalizer", func(pv *corev1.PersistentVolume) {
			pv.Finalizers = []string{"external-provisioner.volume.kubernetes.io/finalizer"}
		}, corev1.VolumeReleased, ""},
		{"of a volume made by an external provisioner", func(pv *corev1.PersistentVolume) {
			pv.Annotations = map[string]string{"pv.kubernetes.io/provisioned-by": "example.com/nfs"}
		}, corev1.VolumeReleased, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newPVWorld(t)
			runPVController(t, pvConfig(t))
			pv, _ := w.bound(c.edit, func(pv *corev1.PersistentVolume) {
				pv.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimDelete
			})
			w.deleteClaim("data")
			got := w.untilPVPhase(pv.Name, c.phase)
			if c.says != "" {
				w.untilEvent(got, "VolumeFailedDelete", c.says, "Retain")
			}
			if got.DeletionTimestamp != nil {
				t.Error("the controller deleted the volume")
			}
		})
	}
}

func TestRecycleWithoutARecyclerFails(t *testing.T) {
	w := newPVWorld(t)
	runPVController(t, pvConfig(t))
	pv, _ := w.bound(recycled)
	w.deleteClaim("data")
	w.untilPVPhase(pv.Name, corev1.VolumeFailed)
	w.untilEvent(pv, "VolumeFailedRecycle", "no recycler", "hostPath", "Retain")

	// Its owner does what the event says.
	if _, err := w.client.CoreV1().PersistentVolumes().Patch(t.Context(), pv.Name, "application/merge-patch+json",
		[]byte(`{"spec":{"persistentVolumeReclaimPolicy":"Retain"}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if released := w.untilPVPhase(pv.Name, corev1.VolumeReleased); released.Status.Message != "" {
		t.Errorf("it is Released, and still says %q", released.Status.Message)
	}
}

func recycled(pv *corev1.PersistentVolume) {
	pv.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRecycle
}

// recyclerOf answers for one volume, one after the other, with the given errors, and then with success. It leaves what
// other tests left behind alone.
type recyclerOf struct {
	volume string

	mu     sync.Mutex
	errs   []error
	called []string
}

func (r *recyclerOf) Recycle(_ context.Context, pv *corev1.PersistentVolume) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if pv.Name != r.volume {
		return pvcontroller.ErrNotRecyclable
	}
	r.called = append(r.called, pv.Name)
	if len(r.errs) == 0 {
		return nil
	}
	err := r.errs[0]
	r.errs = r.errs[1:]
	return err
}

func TestRecycledVolumeServesTheNextClaim(t *testing.T) {
	w := newPVWorld(t)
	recycler := &recyclerOf{volume: w.ns + "-pv", errs: []error{errors.New("server not responding")}}
	runPVController(t, pvConfig(t), func(c *pvcontroller.Config) { c.Recycler = recycler })
	pv, _ := w.bound(recycled)
	w.deleteClaim("data")
	w.untilEvent(pv, "VolumeFailedRecycle", "server not responding")
	w.untilEvent(pv, "VolumeRecycled")
	w.untilPVPhase(pv.Name, corev1.VolumeAvailable)
	w.createClaim(w.claim("next", "1Gi"))
	w.untilClaimPhase("next", corev1.ClaimBound)
	w.checkBindings()
	recycler.mu.Lock()
	defer recycler.mu.Unlock()
	if want := []string{pv.Name, pv.Name}; !slices.Equal(recycler.called, want) {
		t.Errorf("recycled %v, want %v", recycler.called, want)
	}
}

func TestVolumeThatIsNotRecyclableIsTriedOnce(t *testing.T) {
	w := newPVWorld(t)
	recycler := &recyclerOf{volume: w.ns + "-pv", errs: []error{
		fmt.Errorf("/etc is outside the allowed directories: %w", pvcontroller.ErrNotRecyclable),
	}}
	runPVController(t, pvConfig(t), func(c *pvcontroller.Config) { c.Recycler = recycler })
	pv, _ := w.bound(recycled)
	w.deleteClaim("data")
	failed := w.untilPVPhase(pv.Name, corev1.VolumeFailed)
	w.untilEvent(failed, "VolumeFailedRecycle", "/etc is outside")
}

func TestClaimLosesItsVolume(t *testing.T) {
	w := newPVWorld(t)
	runPVController(t, pvConfig(t))
	pv, claim := w.bound()
	// Only somebody who takes the protection off can delete a volume in use.
	if _, err := w.client.CoreV1().PersistentVolumes().Patch(t.Context(), pv.Name, "application/merge-patch+json",
		[]byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := w.client.CoreV1().PersistentVolumes().Delete(t.Context(), pv.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.until("the volume is gone, its protection taken off again if it came back", func() (string, error) {
		_, err := w.client.CoreV1().PersistentVolumes().Patch(t.Context(), pv.Name, "application/merge-patch+json",
			[]byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
		if apierrors.IsNotFound(err) {
			return "", nil
		}
		return "it is still there", err
	})
	lost := w.untilClaimPhase("data", corev1.ClaimLost)
	if lost.Status.Capacity != nil {
		t.Errorf("a lost claim still tells a capacity: %v", lost.Status.Capacity)
	}
	w.untilEvent(claim, "ClaimLost", pv.Name)

	again := w.pv("pv", "1Gi")
	again.Spec.ClaimRef = pv.Spec.ClaimRef
	w.createPV(again)
	w.untilClaimPhase("data", corev1.ClaimBound)
	w.untilPVPhase(pv.Name, corev1.VolumeBound)
	w.checkBindings()
}

func TestVolumeMadeForAClaimThatTookAnother(t *testing.T) {
	for _, c := range []struct {
		name  string
		edit  func(*corev1.PersistentVolume)
		phase corev1.PersistentVolumePhase
		free  bool // whether the volume forgets the claim
	}{
		{"provisioned: it is reclaimed", func(pv *corev1.PersistentVolume) {
			pv.Annotations = map[string]string{
				"pv.kubernetes.io/provisioned-by":      "test.csi.example.com",
				"pv.kubernetes.io/bound-by-controller": "yes",
			}
			pv.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimDelete
		}, corev1.VolumeReleased, false},
		{"static: it is available again", func(pv *corev1.PersistentVolume) {
			pv.Annotations = map[string]string{"pv.kubernetes.io/bound-by-controller": "yes"}
		}, corev1.VolumeAvailable, true},
		{"reserved: it stays reserved", func(*corev1.PersistentVolume) {}, corev1.VolumeAvailable, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newPVWorld(t)
			stop := runPVController(t, pvConfig(t))
			_, claim := w.bound()
			stop()
			second := w.createPV(w.pv("second", "1Gi", c.edit, func(pv *corev1.PersistentVolume) {
				pv.Spec.ClaimRef = &corev1.ObjectReference{
					Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: w.ns, Name: "data", UID: claim.UID,
				}
			}))
			runPVController(t, pvConfig(t))
			got := w.untilPVPhase(second.Name, c.phase)
			if (got.Spec.ClaimRef == nil) != c.free {
				t.Errorf("its claimRef is %v", got.Spec.ClaimRef)
			}
			if c.phase == corev1.VolumeAvailable && got.Spec.ClaimRef != nil && got.Spec.ClaimRef.UID != "" {
				t.Errorf("it is available, but still belongs to claim UID %s", got.Spec.ClaimRef.UID)
			}
		})
	}
}

func TestVolumeOfARunningPodIsNotRecycled(t *testing.T) {
	w := newPVWorld(t)
	recycler := &recyclerOf{volume: w.ns + "-pv"}
	runPVController(t, pvConfig(t), func(c *pvcontroller.Config) { c.Recycler = recycler })
	pv, _ := w.bound(recycled)
	w.createPod("consumer", "data")
	// The protection of the claim keeps this from happening; somebody takes it off.
	w.deleteClaim("data")
	w.until("the claim is gone, its protection taken off again if it came back", func() (string, error) {
		_, err := w.client.CoreV1().PersistentVolumeClaims(w.ns).Patch(t.Context(), "data", "application/merge-patch+json",
			[]byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
		if apierrors.IsNotFound(err) {
			return "", nil
		}
		return "it is still there", err
	})
	w.untilEvent(pv, "VolumeFailedRecycle", "consumer")
	recycler.mu.Lock()
	if len(recycler.called) != 0 {
		t.Error("a volume in use was recycled")
	}
	recycler.mu.Unlock()
	if err := w.client.CoreV1().Pods(w.ns).Delete(t.Context(), "consumer", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.untilPVPhase(pv.Name, corev1.VolumeAvailable)
}

func TestClaimThatNamesAnothersVolumeIsMisbound(t *testing.T) {
	w := newPVWorld(t)
	runPVController(t, pvConfig(t))
	pv, first := w.bound()
	// As if restored from a backup under another name.
	copied := w.createClaim(w.claim("copy", "1Gi", func(c *corev1.PersistentVolumeClaim) {
		c.Spec.VolumeName, c.Annotations = pv.Name, first.Annotations
	}))
	w.untilClaimPhase("copy", corev1.ClaimLost)
	w.untilEvent(copied, "ClaimMisbound", pv.Name, w.ns+"/data")
	if got := w.getPV(pv.Name); got.Spec.ClaimRef.UID != first.UID || got.Status.Phase != corev1.VolumeBound {
		t.Errorf("the volume is %s for %v", got.Status.Phase, got.Spec.ClaimRef)
	}
}
