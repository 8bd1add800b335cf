package controllers

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/provisioner"
)

const provisionNamespace = "orlop-system"

// capacities are the world's driver's CSIStorageCapacity objects.
func (w *provisionWorld) capacities() []storagev1.CSIStorageCapacity {
	w.t.Helper()
	list, err := w.client.StorageV1().CSIStorageCapacities(provisionNamespace).List(w.t.Context(), metav1.ListOptions{
		LabelSelector: "csi.storage.k8s.io/drivername=" + w.driver})
	if err != nil {
		w.t.Fatal(err)
	}
	return list.Items
}

// untilFree waits until one object says that the class has so many bytes.
func (w *provisionWorld) untilFree(class string, bytes int64) (object storagev1.CSIStorageCapacity) {
	w.t.Helper()
	w.until(fmt.Sprintf("class %s has %d bytes free", class, bytes), func() (string, error) {
		said := "nothing"
		for _, object = range w.capacities() {
			if object.StorageClassName != class {
				continue
			}
			if said = object.Capacity.String(); object.Capacity.Value() == bytes {
				return "", nil
			}
		}
		return "it says " + said, nil
	})
	return object
}

func provisionPublish(wake <-chan struct{}) func(*provisioner.NodeConfig) {
	return func(c *provisioner.NodeConfig) {
		c.Capacity = &provisioner.CapacityConfig{Namespace: provisionNamespace, Changed: wake}
	}
}

func TestProvisionPublishesCapacity(t *testing.T) {
	w := newProvisionWorld(t)
	n := w.node("n1")
	n.driver.SetFree(1<<30 + 1)
	wake := make(chan struct{})
	n.run(provisionFast, provisionPublish(wake))
	n.join() // After the start: the node's own object may come later.
	object := w.untilFree(w.class, 1<<30)
	if got := object.NodeTopology.MatchLabels[provisionTopology]; got != n.name {
		t.Errorf("the capacity is that of node %q", got)
	}
	if len(object.OwnerReferences) != 1 || object.OwnerReferences[0].Name != n.name {
		t.Errorf("owners %v, want the Node", object.OwnerReferences)
	}

	n.driver.SetFree(1 << 20)
	wake <- struct{}{}
	w.untilFree(w.class, 1<<20)

	// The node's own work is a reason to look.
	n.driver.SetFree(1 << 19)
	n.selected("data")
	w.untilFree(w.class, 1<<19)

	// So are classes.
	w.extraClass(t, "second", nil)
	w.untilFree(w.ns+"-second", 1<<19)
	err := w.client.StorageV1().StorageClasses().Delete(t.Context(), w.ns+"-second", metav1.DeleteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.until("the class that is gone has no object", func() (string, error) {
		if got := w.capacities(); len(got) != 1 {
			return fmt.Sprintf("%d objects", len(got)), nil
		}
		return "", nil
	})

	// Somebody deletes the object.
	err = w.client.StorageV1().CSIStorageCapacities(provisionNamespace).Delete(t.Context(), object.Name,
		metav1.DeleteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.untilFree(w.class, 1<<19)
}

func TestProvisionLeaderPrefersTheNodeWithMostRoom(t *testing.T) {
	w := newProvisionWorld(t, provisionAtOnce)
	small, large := w.node("n1"), w.node("n2")
	small.driver.SetFree(1 << 24)
	large.driver.SetFree(1 << 30)
	for _, n := range []*provisionNode{small, large} {
		n.join()
		n.run(provisionFast, provisionPublish(nil))
	}
	w.untilFree(w.class, 1<<24)
	w.untilFree(w.class, 1<<30)
	w.lead()
	for i := range 4 {
		w.createClaim(w.claim(fmt.Sprintf("data-%d", i), "1Mi"))
	}
	huge := w.createClaim(w.claim("huge", "2Gi"))
	for i := range 4 {
		w.untilClaimPhase(fmt.Sprintf("data-%d", i), corev1.ClaimBound)
	}
	large.untilVolumes(4)
	w.untilEvent(huge, provisioner.ReasonWaitForNode, "2 have less than 2Gi free")
	large.driver.SetFree(1 << 32)
	w.createClaim(w.claim("another", "1Mi")) // and the node looks again
	w.untilClaimPhase("huge", corev1.ClaimBound)
}
