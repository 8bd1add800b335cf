package controllers

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/orlop-io/orlop/provisioner"
	"github.com/orlop-io/orlop/test/apienv"
)

// TestProvisionWithUpstreamsBinder has the PV controller of Kubernetes bind and release, as on a cluster of somebody
// else's.
func TestProvisionWithUpstreamsBinder(t *testing.T) {
	shared := env
	env = apienv.Start(t, apienv.WithProtectionControllers(), apienv.WithControllers("persistentvolume-binder-controller"))
	t.Cleanup(func() { env = shared })
	_, err := env.Client.CoreV1().Namespaces().Create(t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: provisionNamespace}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]storagev1.VolumeBindingMode{
		"late": storagev1.VolumeBindingWaitForFirstConsumer, "at once": storagev1.VolumeBindingImmediate,
	} {
		t.Run(name, func(t *testing.T) {
			w := &provisionWorld{pvWorld: newPVWorld(t), leaderCalls: &provisionWrites{role: provisionLeaderRole}}
			w.driver = w.ns + ".csi.example.com"
			w.createClass(w.driver, mode)
			n := w.node("n1")
			n.join()
			n.run()
			w.lead()
			var claim *corev1.PersistentVolumeClaim
			if mode == storagev1.VolumeBindingImmediate {
				claim = w.createClaim(w.claim("data", "1Mi"))
			} else {
				claim = n.selected("data")
			}
			w.untilClaimPhase("data", corev1.ClaimBound)
			w.untilEvent(claim, provisioner.ReasonProvisioningSucceeded)
			n.untilVolumes(1)
			w.deleteClaim("data")
			w.untilNoPV(claim)
			n.untilVolumes(0)

			kept := n.selected("kept")
			w.untilClaimPhase("kept", corev1.ClaimBound)
			pv := provisioner.VolumeName(kept.UID)
			_, err := w.client.CoreV1().PersistentVolumes().Patch(t.Context(), pv, types.MergePatchType,
				[]byte(`{"spec":{"persistentVolumeReclaimPolicy":"Retain"}}`), metav1.PatchOptions{})
			if err != nil {
				t.Fatal(err)
			}
			w.deleteClaim("kept")
			w.untilPVPhase(pv, corev1.VolumeReleased)
			n.untilVolumes(1)
		})
	}
}
