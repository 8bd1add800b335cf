package controllers

import (
	"context"
	"net/http"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/orlop-io/orlop/provisioner"
	"github.com/orlop-io/orlop/provisioner/csifake"
)

// pod is a pod with a claim of its name, for the nodes of the world.
func (w *provisionWorld) pod(name string, edit ...func(*corev1.Pod)) {
	w.t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			Tolerations:  []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			NodeSelector: map[string]string{"test-namespace": w.ns},
			Containers:   []corev1.Container{{Name: "c", Image: "i"}},
			Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name},
			}}},
		},
	}
	for _, e := range edit {
		e(pod)
	}
	if _, err := w.client.CoreV1().Pods(w.ns).Create(w.t.Context(), pod, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		err := w.client.CoreV1().Pods(w.ns).Delete(context.Background(), name,
			metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(0))})
		if err != nil {
			w.t.Error(err)
		}
	})
}

// TestProvisionForAPodThatNamesItsNode has no scheduler select the node.
func TestProvisionForAPodThatNamesItsNode(t *testing.T) {
	w := newProvisionWorld(t)
	n := w.node("n1")
	n.join()
	n.run()
	w.lead()
	for _, first := range []string{"claim", "pod"} {
		if first == "claim" {
			w.createClaim(w.claim(first, "1Mi"))
		}
		w.pod(first, func(p *corev1.Pod) { p.Spec.NodeName = n.name })
		if first == "pod" {
			w.createClaim(w.claim(first, "1Mi"))
		}
		w.untilClaimPhase(first, corev1.ClaimBound)
	}
	n.untilVolumes(2)
}

// TestProvisionWithTheScheduler has the real scheduler select the node, and select again when that one has no room.
func TestProvisionWithTheScheduler(t *testing.T) {
	w := newProvisionWorld(t)
	nodes := []*provisionNode{w.node("n1"), w.node("n2")}
	var full atomic.Pointer[provisionNode] // whichever is asked first
	for _, n := range nodes {
		n.driver.Before(func(context.Context, csifake.Call) error {
			if full.CompareAndSwap(nil, n) || full.Load() == n {
				return status.Error(codes.ResourceExhausted, "the pool is full")
			}
			return nil
		})
		n.join()
		n.run(provisionFast)
	}
	w.lead()
	w.createClaim(w.claim("data", "1Mi"))
	w.pod("data")
	w.untilClaimPhase("data", corev1.ClaimBound)
	w.until("the pod is scheduled to the node with room", func() (string, error) {
		pod, err := w.client.CoreV1().Pods(w.ns).Get(t.Context(), "data", metav1.GetOptions{})
		if err != nil || (pod.Spec.NodeName != "" && pod.Spec.NodeName != full.Load().name) {
			return "", err
		}
		return "node: " + pod.Spec.NodeName, nil
	})
	for _, n := range nodes {
		n.untilVolumes(map[bool]int{true: 0, false: 1}[n == full.Load()])
	}
}

// TestProvisionEndsItsGoroutines compares the goroutines before a run of both roles with those after.
func TestProvisionEndsItsGoroutines(t *testing.T) {
	w := &provisionWorld{
		pvWorld: newPVWorld(t), driver: "end.csi.orlop.io",
		leaderCalls: &provisionWrites{role: provisionLeaderRole},
	}
	w.createClass(w.driver, storagev1.VolumeBindingWaitForFirstConsumer)
	before := goleak.IgnoreCurrent()
	t.Run("run", func(t *testing.T) {
		inner := *w
		world := *w.pvWorld
		world.t = t
		inner.pvWorld = &world
		n := inner.node("n1")
		n.join()
		n.run()
		inner.lead()
		claim := n.selected("data", func(c *corev1.PersistentVolumeClaim) {
			c.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("1Mi")
		})
		world.untilEvent(claim, provisioner.ReasonProvisioningSucceeded)
	})
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	goleak.VerifyNone(t, before,
		// Connections to the API server are kept for the next client.
		goleak.IgnoreAnyFunction("golang.org/x/net/http2.(*clientConnReadLoop).run"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
	)
}
