package controllers

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/orlop-io/orlop/provisioner"
	"github.com/orlop-io/orlop/provisioner/csifake"
)

func provisionFast(c *provisioner.NodeConfig) {
	c.RetryBase, c.RetryLimit = 10*time.Millisecond, 200*time.Millisecond
}

// TestProvisionLife follows one claim from its creation to the end of its volume.
func TestProvisionLife(t *testing.T) {
	w := newProvisionWorld(t, func(c *storagev1.StorageClass) {
		c.Parameters = map[string]string{"backend": "loop", "csi.storage.k8s.io/fstype": "ext4"}
		c.MountOptions = []string{"noatime"}
	})
	n := w.node("n1")
	n.run()
	claim := n.selected("data")
	w.untilClaimPhase("data", corev1.ClaimBound)
	name := provisioner.VolumeName(claim.UID)
	pv := w.getPV(name)
	if pv.Spec.ClaimRef.UID != claim.UID || pv.Spec.CSI.FSType != "ext4" || pv.Spec.MountOptions[0] != "noatime" ||
		pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete ||
		!slices.Contains(pv.Finalizers, provisioner.FinalizerVolume) {
		t.Errorf("PersistentVolume: %+v", pv)
	}
	if parameters := n.driver.Request(name).Parameters; parameters["backend"] != "loop" || len(parameters) != 4 {
		t.Errorf("the driver got the parameters %v", parameters)
	}
	w.untilEvent(claim, provisioner.ReasonProvisioningSucceeded, name)
	if got := n.writes.total(); got != 1 {
		t.Errorf("%d writes for a claim: %v", got, n.writes.writes)
	}

	// The finalizer holds a volume that somebody deletes while it is in use.
	if err := w.client.CoreV1().PersistentVolumes().Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := n.driver.Volumes(); len(got) != 1 {
		t.Errorf("volumes %v after the deletion of a bound PersistentVolume", got)
	}
	w.deleteClaim("data")
	w.untilNoPV(claim)
	n.untilVolumes(0)
}

func TestProvisionManyExactly(t *testing.T) {
	const claims = 100
	w := newProvisionWorld(t)
	n := w.node("n1")
	n.run()
	var made []*corev1.PersistentVolumeClaim
	for i := range claims {
		made = append(made, n.selected(fmt.Sprintf("data-%d", i)))
	}
	for _, claim := range made {
		w.untilClaimPhase(claim.Name, corev1.ClaimBound)
	}
	if got := n.driver.Count("CreateVolume"); got != claims {
		t.Errorf("%d CreateVolume calls for %d claims", got, claims)
	}
	if got := n.writes.total(); got != claims {
		t.Errorf("%d writes for %d claims: %v", got, claims, n.writes.writes)
	}
	for _, claim := range made {
		w.deleteClaim(claim.Name)
	}
	for _, claim := range made {
		w.untilNoPV(claim)
	}
	if got := n.driver.Count("DeleteVolume"); got != claims {
		t.Errorf("%d DeleteVolume calls for %d volumes", got, claims)
	}
	if got := n.writes.total(); got != 3*claims {
		t.Errorf("%d writes to make and delete %d volumes: %v", got, claims, n.writes.writes)
	}
	n.untilVolumes(0)
	n.journalIsEmpty()
}

func (n *provisionNode) journalIsEmpty() {
	n.w.t.Helper()
	n.w.until("the journal is empty", func() (string, error) {
		entries, err := os.ReadDir(n.journal)
		if err != nil || len(entries) == 0 {
			return "", err
		}
		return fmt.Sprintf("%v", entries), nil
	})
}

func TestProvisionTriesAgainAfterUnfinishedAnswers(t *testing.T) {
	for _, code := range []codes.Code{codes.Unavailable, codes.Aborted, codes.DeadlineExceeded, codes.Canceled} {
		t.Run(code.String(), func(t *testing.T) {
			w := newProvisionWorld(t)
			n := w.node("n1")
			var answers atomic.Int32
			// The work is done and the answer is lost.
			n.driver.After(func(_ context.Context, c csifake.Call) error {
				if c.Method == "CreateVolume" && answers.Add(1) < 3 {
					return status.Error(code, "the answer was lost")
				}
				return nil
			})
			n.run(provisionFast)
			claim := n.selected("data")
			w.untilClaimPhase("data", corev1.ClaimBound)
			w.untilEvent(claim, provisioner.ReasonProvisioning, "the answer was lost")
			if got := n.driver.Volumes(); len(got) != 1 {
				t.Errorf("volumes %v", got)
			}
		})
	}
}

func TestProvisionClaimDeletedMidCreateLeaksNothing(t *testing.T) {
	for name, restart := range map[string]bool{"running on": false, "with a restart": true} {
		t.Run(name, func(t *testing.T) {
			w := newProvisionWorld(t)
			n := w.node("n1")
			n.driver.After(func(_ context.Context, c csifake.Call) error {
				if c.Method == "CreateVolume" {
					return status.Error(codes.DeadlineExceeded, "slow")
				}
				return nil
			})
			stop := n.run(provisionFast)
			claim := n.selected("data")
			n.untilVolumes(1)
			if restart {
				stop()
			}
			w.deleteClaim("data")
			w.until("the claim is gone", func() (string, error) { return w.present(claim) })
			n.driver.After(nil)
			if restart {
				n.run(provisionFast)
			}
			n.untilVolumes(0)
			n.journalIsEmpty()
			w.untilNoPV(claim)
		})
	}
}

func TestProvisionWithoutRoomHasThePodRescheduled(t *testing.T) {
	w := newProvisionWorld(t)
	n := w.node("n1")
	n.driver.Before(func(_ context.Context, c csifake.Call) error {
		return status.Error(codes.ResourceExhausted, "the pool is full")
	})
	n.run(provisionFast)
	claim := n.selected("data")
	w.until("the selection is taken back", func() (string, error) {
		return w.getClaim("data").Annotations[provisionSelected], nil
	})
	w.untilEvent(claim, provisioner.ReasonProvisioningFailed, "the pool is full", n.name)
	n.journalIsEmpty()

	// A node that has room is selected.
	n.driver.Before(nil)
	w.annotate("data", provisionSelected, n.name)
	w.untilClaimPhase("data", corev1.ClaimBound)
}

// present says that a claim exists, or nothing.
func (w *provisionWorld) present(claim *corev1.PersistentVolumeClaim) (string, error) {
	list, err := w.client.CoreV1().PersistentVolumeClaims(w.ns).List(w.t.Context(), metav1.ListOptions{
		FieldSelector: "metadata.name=" + claim.Name})
	if err != nil || len(list.Items) == 0 || list.Items[0].UID != claim.UID {
		return "", err
	}
	return "it is there", nil
}

func (w *provisionWorld) annotate(claim, key, value string) {
	w.t.Helper()
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, key, value)
	_, err := w.client.CoreV1().PersistentVolumeClaims(w.ns).Patch(w.t.Context(), claim, types.MergePatchType, patch,
		metav1.PatchOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
}

func TestProvisionTellsWhyOnTheClaim(t *testing.T) {
	t.Run("the driver's words", func(t *testing.T) {
		w := newProvisionWorld(t, func(c *storagev1.StorageClass) { c.Parameters = map[string]string{"colour": "red"} })
		n := w.node("n1")
		n.driver.Before(func(context.Context, csifake.Call) error {
			return status.Error(codes.InvalidArgument, `unknown StorageClass parameter "colour"; allowed is "backend"`)
		})
		n.run()
		claim := n.selected("data")
		w.untilEvent(claim, provisioner.ReasonProvisioningFailed, w.class, `unknown StorageClass parameter "colour"`,
			`allowed is "backend"`)
		n.journalIsEmpty()
	})
	t.Run("a refusal, until the class is corrected", func(t *testing.T) {
		w := newProvisionWorld(t, func(c *storagev1.StorageClass) {
			c.Parameters = map[string]string{"csi.storage.k8s.io/provisioner-secret-name": "s"}
		})
		n := w.node("n1")
		n.run()
		claim := n.selected("data")
		w.untilEvent(claim, provisioner.ReasonProvisioningFailed, "provisioner-secret-name", "not supported yet")
		if got := n.driver.Count("CreateVolume"); got != 0 {
			t.Errorf("the driver was asked %d times", got)
		}
		classes := w.client.StorageV1().StorageClasses()
		if err := classes.Delete(t.Context(), w.class, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		late := storagev1.VolumeBindingWaitForFirstConsumer
		_, err := classes.Create(t.Context(), &storagev1.StorageClass{
			ObjectMeta: metav1.ObjectMeta{Name: w.class}, Provisioner: w.driver, VolumeBindingMode: &late,
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		w.untilClaimPhase("data", corev1.ClaimBound)
	})
	t.Run("a wait", func(t *testing.T) {
		w := newProvisionWorld(t)
		n := w.node("n1")
		release := make(chan struct{})
		n.driver.Before(func(ctx context.Context, _ csifake.Call) error {
			select {
			case <-release:
			case <-ctx.Done():
			}
			return nil
		})
		n.run(func(c *provisioner.NodeConfig) { c.Patience = time.Millisecond })
		claim := n.selected("data")
		w.untilEvent(claim, provisioner.ReasonProvisioning, "waiting for driver")
		close(release)
		w.untilClaimPhase("data", corev1.ClaimBound)
	})
}

// TestProvisionRestarts kills the provisioner at each step, and the driver in the middle.
func TestProvisionRestarts(t *testing.T) {
	t.Run("before the PersistentVolume", func(t *testing.T) {
		w := newProvisionWorld(t)
		n := w.node("n1")
		stop := n.run()
		hold := make(chan struct{})
		n.driver.After(func(ctx context.Context, c csifake.Call) error {
			close(hold)
			<-ctx.Done()
			return ctx.Err()
		})
		n.selected("data")
		<-hold
		stop()
		n.driver.After(nil)
		n.run()
		w.untilClaimPhase("data", corev1.ClaimBound)
		if got := n.driver.Volumes(); len(got) != 1 {
			t.Errorf("volumes %v", got)
		}
		n.journalIsEmpty()
	})
	t.Run("before the journal forgets", func(t *testing.T) {
		w := newProvisionWorld(t)
		n := w.node("n1")
		stop := n.run()
		var saved []byte
		var file string
		n.driver.After(func(context.Context, csifake.Call) error {
			entries, err := os.ReadDir(n.journal)
			if err != nil || len(entries) != 1 {
				return status.Errorf(codes.Internal, "journal while the driver works: %v, %v", entries, err)
			}
			file = n.journal + "/" + entries[0].Name()
			saved, err = os.ReadFile(file)
			return err
		})
		claim := n.selected("data")
		w.untilClaimPhase("data", corev1.ClaimBound)
		stop()
		if err := os.WriteFile(file, saved, 0o600); err != nil {
			t.Fatal(err)
		}
		n.run()
		n.journalIsEmpty()
		if got := n.driver.Volumes(); len(got) != 1 {
			t.Errorf("volumes %v", got)
		}
		if got := n.driver.Count("DeleteVolume"); got != 0 {
			t.Errorf("the volume of claim %s was deleted", claim.Name)
		}
	})
	t.Run("of the driver", func(t *testing.T) {
		w := newProvisionWorld(t)
		n := w.node("n1")
		n.run(provisionFast)
		n.selected("first")
		w.untilClaimPhase("first", corev1.ClaimBound)
		n.stopped()
		second := n.selected("second")
		w.untilEvent(second, provisioner.ReasonProvisioning, "Unavailable")
		n.serve()
		w.untilClaimPhase("second", corev1.ClaimBound)
		n.untilVolumes(2)
	})
	t.Run("between deletion of the volume and of its PersistentVolume", func(t *testing.T) {
		w := newProvisionWorld(t)
		n := w.node("n1")
		stop := n.run()
		claim := n.selected("data")
		w.untilClaimPhase("data", corev1.ClaimBound)
		hold := make(chan struct{})
		n.driver.After(func(ctx context.Context, c csifake.Call) error {
			close(hold)
			<-ctx.Done()
			return ctx.Err()
		})
		w.deleteClaim("data")
		<-hold
		stop()
		n.driver.After(nil)
		w.untilPVPhase(provisioner.VolumeName(claim.UID), corev1.VolumeReleased)
		n.run()
		w.untilNoPV(claim)
	})
}

func TestProvisionKeepsToItsNode(t *testing.T) {
	w := newProvisionWorld(t)
	n1, n2 := w.node("n1"), w.node("n2")
	n1.run(provisionFast)
	n2.run(provisionFast)
	var slow atomic.Bool
	slow.Store(true)
	n1.driver.After(func(_ context.Context, c csifake.Call) error {
		if c.Method == "CreateVolume" && slow.Load() {
			return status.Error(codes.Aborted, "slow")
		}
		return nil
	})
	claim := n1.selected("data")
	n1.untilVolumes(1)
	// The claim moves on while the first node does not know whether it has a volume.
	w.annotate("data", provisionSelected, n2.name)
	w.untilClaimPhase("data", corev1.ClaimBound)
	slow.Store(false)
	n1.untilVolumes(0)
	n1.journalIsEmpty()
	n2.untilVolumes(1)
	w.deleteClaim("data")
	w.untilNoPV(claim)
	if got := n1.driver.Count("DeleteVolume"); got != 1 {
		t.Errorf("the first node was asked %d times to delete, want once for its own", got)
	}
	n2.untilVolumes(0)
}

func TestProvisionRetain(t *testing.T) {
	w := newProvisionWorld(t, func(c *storagev1.StorageClass) {
		c.ReclaimPolicy = ptr.To(corev1.PersistentVolumeReclaimRetain)
	})
	n := w.node("n1")
	n.run()
	claim := n.selected("data")
	w.untilClaimPhase("data", corev1.ClaimBound)
	name := provisioner.VolumeName(claim.UID)
	w.deleteClaim("data")
	w.untilPVPhase(name, corev1.VolumeReleased)

	// The administrator changes their mind: the volume goes.
	_, err := w.client.CoreV1().PersistentVolumes().Patch(t.Context(), name, types.MergePatchType,
		[]byte(`{"spec":{"persistentVolumeReclaimPolicy":"Delete"}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.untilNoPV(claim)
	n.untilVolumes(0)
}

func TestProvisionKeepsDataWhenThePolicyBecomesRetain(t *testing.T) {
	w := newProvisionWorld(t)
	n := w.node("n1")
	n.run()
	claim := n.selected("data")
	w.untilClaimPhase("data", corev1.ClaimBound)
	name := provisioner.VolumeName(claim.UID)
	volumes := w.client.CoreV1().PersistentVolumes()
	_, err := volumes.Patch(t.Context(), name, types.MergePatchType,
		[]byte(`{"spec":{"persistentVolumeReclaimPolicy":"Retain"}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.deleteClaim("data")
	w.untilPVPhase(name, corev1.VolumeReleased)
	if err := volumes.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.untilNoPV(claim)
	n.untilVolumes(1)
}

func TestProvisionDeleteIsTriedAgain(t *testing.T) {
	w := newProvisionWorld(t)
	n := w.node("n1")
	n.run(provisionFast)
	claim := n.selected("data")
	w.untilClaimPhase("data", corev1.ClaimBound)
	pv := w.getPV(provisioner.VolumeName(claim.UID))
	n.driver.Before(func(context.Context, csifake.Call) error {
		return status.Error(codes.FailedPrecondition, "the volume is still mounted")
	})
	w.deleteClaim("data")
	w.untilEvent(pv, provisioner.ReasonVolumeFailedDelete, "still mounted")
	n.untilVolumes(1)
	n.driver.Before(nil)
	w.untilNoPV(claim)
	n.untilVolumes(0)
}
