package controllers

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2/ktesting"

	"github.com/orlop-io/orlop/provisioner"
	"github.com/orlop-io/orlop/provisioner/csifake"
)

func provisionAtOnce(c *storagev1.StorageClass) {
	mode := storagev1.VolumeBindingImmediate
	c.VolumeBindingMode = &mode
}

// lead runs a leader, as the user it is in a cluster, until the test ends.
func (w *provisionWorld) lead() {
	t := w.t
	t.Helper()
	client := w.leaderCalls.client(t, provisionIdentity(t, provisionLeaderRole, controllersUser))
	ctx, cancel := context.WithCancel(context.Background())
	factory := informers.NewSharedInformerFactory(client, 0)
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	leader, err := provisioner.NewLeader(provisioner.LeaderConfig{
		Client: client, Informers: factory, Driver: w.driver, TopologyKey: provisionTopology,
		Log:       ktesting.NewLogger(t, ktesting.NewConfig(ktesting.Verbosity(0))),
		Recorder:  broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "orlop-provisioner"}),
		RetryBase: 10 * time.Millisecond, RetryLimit: 200 * time.Millisecond, Grace: 50 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	factory.Start(ctx.Done())
	done := make(chan error, 1)
	go func() { done <- leader.Run(ctx) }()
	t.Cleanup(sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("leader: %v", err)
		}
		factory.Shutdown()
		broadcaster.Shutdown()
	}))
}

// join makes the node's Node and CSINode objects, as a kubelet does. The taint keeps other tests' pods away.
func (n *provisionNode) join() {
	t := n.w.t
	t.Helper()
	nodes, ctx := n.w.client.CoreV1().Nodes(), context.Background()
	node, err := nodes.Create(ctx, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.name, Labels: map[string]string{
			provisionTopology: n.name, "test-namespace": n.w.ns,
		}},
		Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: "test", Effect: corev1.TaintEffectNoSchedule}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.leave)
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	node.Status.Allocatable = corev1.ResourceList{corev1.ResourcePods: resource.MustParse("10")}
	if _, err := nodes.UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err = n.w.client.StorageV1().CSINodes().Create(ctx, &storagev1.CSINode{
		ObjectMeta: metav1.ObjectMeta{Name: n.name},
		Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{
			{Name: n.w.driver, NodeID: n.name, TopologyKeys: []string{provisionTopology}},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// leave deletes the node's objects.
func (n *provisionNode) leave() {
	n.w.t.Helper()
	ctx := context.Background()
	for _, err := range []error{
		n.w.client.CoreV1().Nodes().Delete(ctx, n.name, metav1.DeleteOptions{}),
		n.w.client.StorageV1().CSINodes().Delete(ctx, n.name, metav1.DeleteOptions{}),
	} {
		if err != nil && !apierrors.IsNotFound(err) {
			n.w.t.Error(err)
		}
	}
}

func TestProvisionLeaderSelectsNodesForImmediateClaims(t *testing.T) {
	w := newProvisionWorld(t, provisionAtOnce)
	w.lead()
	early := w.createClaim(w.claim("early", "1Mi"))
	w.untilEvent(early, provisioner.ReasonWaitForNode, "no node has the driver")
	n1, n2 := w.node("n1"), w.node("n2")
	for _, n := range []*provisionNode{n1, n2} {
		n.join()
		n.run(provisionFast)
	}
	w.untilClaimPhase("early", corev1.ClaimBound)
	const more = 9
	for i := range more {
		w.createClaim(w.claim(fmt.Sprintf("data-%d", i), "1Mi"))
	}
	for i := range more {
		w.untilClaimPhase(fmt.Sprintf("data-%d", i), corev1.ClaimBound)
	}
	// The claim that came first is on whichever node came first.
	if a, b := len(n1.driver.Volumes()), len(n2.driver.Volumes()); a != 5 || b != 5 {
		t.Errorf("%d volumes on one node and %d on the other", a, b)
	}
	if got := w.leaderCalls.total(); got != 1+more {
		t.Errorf("%d writes to select nodes for %d claims: %v", got, 1+more, w.leaderCalls.writes)
	}
}

func TestProvisionLeaderPrefersStaticVolumes(t *testing.T) {
	w := newProvisionWorld(t, provisionAtOnce)
	n := w.node("n1")
	n.join()
	n.run()
	w.createPV(w.pv("static", "1Mi"))
	w.lead()
	w.createClaim(w.claim("data", "1Mi"))
	w.untilClaimPhase("data", corev1.ClaimBound)
	if got := w.getClaim("data").Spec.VolumeName; got != w.ns+"-static" {
		t.Errorf("the claim has volume %s", got)
	}
	// The second claim of that size finds the volume taken.
	w.createClaim(w.claim("second", "1Mi"))
	w.untilClaimPhase("second", corev1.ClaimBound)
	if got := n.driver.Volumes(); len(got) != 1 {
		t.Errorf("volumes %v", got)
	}
}

func TestProvisionLeaderTriesAnotherNodeWhenOneIsFull(t *testing.T) {
	w := newProvisionWorld(t, provisionAtOnce)
	full, empty := w.node("n1"), w.node("n2")
	full.driver.Before(func(context.Context, csifake.Call) error {
		return status.Error(codes.ResourceExhausted, "the pool is full")
	})
	for _, n := range []*provisionNode{full, empty} {
		n.join()
		n.run(provisionFast)
	}
	w.lead()
	for _, name := range []string{"a", "b", "c"} {
		w.createClaim(w.claim(name, "1Mi"))
	}
	for _, name := range []string{"a", "b", "c"} {
		w.untilClaimPhase(name, corev1.ClaimBound)
	}
	empty.untilVolumes(3)
}

func TestProvisionLeaderRefusesWhatNoNodeCanMake(t *testing.T) {
	w := newProvisionWorld(t, provisionAtOnce)
	w.lead()
	claim := w.createClaim(w.claim("data", "1Mi", func(c *corev1.PersistentVolumeClaim) {
		c.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
	}))
	w.untilEvent(claim, provisioner.ReasonProvisioningFailed, "spec.selector", "remove the selector")
}

func TestProvisionLeaderTellsOfANodeWithoutTheDriver(t *testing.T) {
	w := newProvisionWorld(t)
	n := w.node("n1")
	n.join()
	if err := w.client.StorageV1().CSINodes().Delete(t.Context(), n.name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.lead()
	claim := n.selected("data")
	w.untilEvent(claim, provisioner.ReasonProvisioningFailed, n.name, "does not run driver "+w.driver)
}

func TestProvisionLeaderTakesBackTheSelectionOfANodeThatIsGone(t *testing.T) {
	w := newProvisionWorld(t)
	gone, other := w.node("n1"), w.node("n2")
	gone.join()
	other.join()
	w.lead()
	claim := gone.selected("data")
	gone.leave()
	w.until("the selection is taken back", func() (string, error) {
		return w.getClaim("data").Annotations[provisionSelected], nil
	})
	w.untilEvent(claim, provisioner.ReasonSelectedNodeGone, gone.name)
	other.run()
	w.annotate("data", provisionSelected, other.name)
	w.untilClaimPhase("data", corev1.ClaimBound)
}

func TestProvisionLeaderTellsOfVolumesWhoseNodeIsGone(t *testing.T) {
	w := newProvisionWorld(t)
	gone, other := w.node("n1"), w.node("n2")
	gone.join()
	other.join()
	stop := gone.run()
	w.lead()
	lost := gone.selected("lost")
	w.untilClaimPhase("lost", corev1.ClaimBound)
	stop()
	gone.leave()
	w.deleteClaim("lost")
	name := provisioner.VolumeName(lost.UID)
	pv := w.untilPVPhase(name, corev1.VolumeReleased)
	w.untilEvent(pv, provisioner.ReasonVolumeNodeGone, gone.name, "Retain")

	// Nothing is jammed: other volumes come and go.
	other.run()
	claim := other.selected("data")
	w.untilClaimPhase("data", corev1.ClaimBound)
	w.deleteClaim("data")
	w.untilNoPV(claim)

	// What the event says works.
	volumes := w.client.CoreV1().PersistentVolumes()
	_, err := volumes.Patch(t.Context(), name, types.MergePatchType,
		[]byte(`{"spec":{"persistentVolumeReclaimPolicy":"Retain"}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := volumes.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.untilNoPV(lost)
	gone.untilVolumes(1)
}
