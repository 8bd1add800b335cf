package controllers

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/provisioner"
	"github.com/orlop-io/orlop/test/leak"
)

// TestProvisionCrash kills a node's program, driver and provisioner together, again and again while claims come and go.
// In the end every claim that is left has its volume, and there is no other.
func TestProvisionCrash(t *testing.T) {
	leak.Check(t)
	w := &provisionWorld{pvWorld: newPVWorld(t), driver: "local.csi.orlop.io"}
	w.createClass(w.driver, storagev1.VolumeBindingWaitForFirstConsumer, func(c *storagev1.StorageClass) {
		c.Parameters = map[string]string{"backend": "dir"}
	})
	runPVController(t, pvConfig(t))
	dir := t.TempDir()
	n := &provisionNode{w: w, name: w.ns + "-n1", socket: filepath.Join(dir, "s")}
	kubeconfig, err := env.Kubeconfig(provisionIdentity(t, provisionNodeRole, "orlop:storage-node:"+n.name,
		provisionNodeGroup))
	if err != nil {
		t.Fatal(err)
	}
	d := &realDriver{t: t, name: n.name, pool: filepath.Join(dir, "pool"), sock: n.socket, kubeconfig: kubeconfig}
	d.start()
	t.Cleanup(func() { d.kill(syscall.SIGTERM) })

	const rounds, each = 6, 10
	var kept []*corev1.PersistentVolumeClaim
	for round := range rounds {
		var made []*corev1.PersistentVolumeClaim
		for i := range each {
			made = append(made, n.selected(fmt.Sprintf("data-%d-%d", round, i)))
		}
		// One more claim each round is bound before the kill, so that it comes at another point of the work.
		for _, claim := range made[:round] {
			w.untilClaimPhase(claim.Name, corev1.ClaimBound)
		}
		for i, claim := range made {
			if i%2 == 0 {
				w.deleteClaim(claim.Name)
			} else {
				kept = append(kept, claim)
			}
		}
		d.kill(os.Kill)
		d.start()
	}
	want := map[string]bool{}
	for _, claim := range kept {
		w.untilClaimPhase(claim.Name, corev1.ClaimBound)
		want[provisioner.VolumeName(claim.UID)] = true
	}
	w.until("there are no volumes but those of the claims that are left", func() (string, error) {
		list, err := w.client.CoreV1().PersistentVolumes().List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return "", err
		}
		var other []string
		for i := range list.Items {
			if pv := &list.Items[i]; pv.Spec.StorageClassName == w.class && !want[pv.Name] {
				other = append(other, pv.Name+" "+string(pv.Status.Phase))
			}
		}
		if made := d.volumes(); len(other) > 0 || made != len(want) {
			return fmt.Sprintf("the pool has %d, want %d; other PersistentVolumes: %s", made, len(want),
				strings.Join(other, ", ")), nil
		}
		return "", nil
	})
	for name := range want {
		if _, err := w.client.CoreV1().PersistentVolumes().Get(t.Context(), name, metav1.GetOptions{}); err != nil {
			t.Error(err)
		}
	}
	n.journal = d.pool + ".provisioner"
	n.journalIsEmpty()
	for _, claim := range kept {
		w.deleteClaim(claim.Name)
	}
	w.until("the pool is empty", func() (string, error) {
		if left := d.volumes(); left > 0 {
			return fmt.Sprintf("%d volumes", left), nil
		}
		return "", nil
	})
}
