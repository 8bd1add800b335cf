package controllers

import (
	"fmt"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/retry"

	"github.com/orlop-io/orlop/configsync/rollout"
)

// TestRolloutLimit: two rollouts run at a time, whoever controls them; the one that ends makes room for the next.
func TestRolloutLimit(t *testing.T) {
	two := func(c *rollout.Config) { c.MaxRollouts = 2 }
	w := newRolloutWorld(t, two)
	const all = 5
	w.set("configmap/c", "1")
	for i := range all {
		w.deploy(fmt.Sprint("d", i), uses("configmap/c"), rollout.AnnotationRollout, rolloutOn)
		w.follows(fmt.Sprint("d", i), "ConfigMap/c")
	}
	ready := map[string]bool{}
	rolling := func() (now []string) {
		for i := range all {
			if name := fmt.Sprint("d", i); !ready[name] && w.rolls(name) > 0 {
				now = append(now, name)
			}
		}
		return now
	}
	w.set("configmap/c", "2")
	for left := all; left > 0; left-- {
		want := min(2, left)
		w.until(fmt.Sprint(want, " roll"), func() string {
			if got := rolling(); len(got) != want {
				return fmt.Sprintf("%q roll", got)
			}
			return ""
		})
		if left == all {
			w.until("the others are told to wait", func() string {
				waiting := 0
				for i := range all {
					if w.hasEvent(fmt.Sprint("d", i), rollout.ReasonWaiting) {
						waiting++
					}
				}
				if waiting == all-2 {
					return ""
				}
				return fmt.Sprint(waiting, " were told")
			})
		}
		// A controller that starts anew knows which rollouts run.
		w.restart(func() {}, two)
		for i := range all {
			if name := fmt.Sprint("d", i); w.rolls(name) == 0 {
				w.untilWaits(name)
			}
		}
		running := rolling()
		if len(running) != want {
			t.Fatalf("after a restart %q roll, want %d", running, want)
		}
		w.makeReady(running[0])
		w.complete(running[0])
		ready[running[0]] = true
	}
}

// untilWaits waits until the controller that runs has looked at a workload.
func (w *rolloutWorld) untilWaits(name string) {
	w.t.Helper()
	w.looked("Deployment/"+name, func() { w.annotate(name, "touched", fmt.Sprint(w.deployment(name).Generation)) })
}

func (w *rolloutWorld) hasEvent(name, reason string) bool {
	w.t.Helper()
	events, err := w.client.CoreV1().Events(w.ns).List(w.t.Context(), metav1.ListOptions{
		FieldSelector: "reason=" + reason + ",involvedObject.name=" + name})
	if err != nil {
		w.t.Fatal(err)
	}
	return len(events.Items) > 0
}

// makeReady makes the pods that a Deployment has now ready, as a kubelet does.
func (w *rolloutWorld) makeReady(name string) {
	w.t.Helper()
	w.until(name+" has ready pods", func() string {
		pods, err := w.client.CoreV1().Pods(w.ns).List(w.t.Context(), metav1.ListOptions{LabelSelector: "app=" + name})
		if err != nil {
			return err.Error()
		}
		for i := range pods.Items {
			_, err := w.client.CoreV1().Pods(w.ns).Patch(w.t.Context(), pods.Items[i].Name, types.StrategicMergePatchType,
				[]byte(`{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}`),
				metav1.PatchOptions{}, "status")
			if err != nil {
				return err.Error()
			}
		}
		s := w.deployment(name).Status
		if s.UpdatedReplicas == 1 && s.AvailableReplicas == 1 && s.Replicas == 1 {
			return ""
		}
		return fmt.Sprintf("%+v", s)
	})
}

// TestRolloutStuck: a Deployment that does not get on does not keep the others waiting; nor does one that is deleted.
func TestRolloutStuck(t *testing.T) {
	w := newRolloutWorld(t, func(c *rollout.Config) { c.MaxRollouts = 1 })
	w.set("configmap/c", "1")
	for i := range 3 {
		name := fmt.Sprint("d", i)
		w.deploy(name, uses("configmap/c"), rollout.AnnotationRollout, rolloutOn)
		w.follows(name, "ConfigMap/c")
	}
	w.set("configmap/c", "2")
	seen := map[string]bool{}
	next := func() (name string) {
		w.until("another one rolls", func() string {
			for i := range 3 {
				if n := fmt.Sprint("d", i); !seen[n] && w.rolls(n) > 0 {
					name = n
					return ""
				}
			}
			return fmt.Sprint(seen)
		})
		seen[name] = true
		return name
	}
	w.edit(next(), `{"spec":{"progressDeadlineSeconds":1,"minReadySeconds":0}}`)
	second := next()
	if err := w.client.AppsV1().Deployments(w.ns).Delete(t.Context(), second, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	next()
}

// TestRolloutConflict: edits of others and rolls at the same time lose nothing of each other.
func TestRolloutConflict(t *testing.T) {
	w := newRolloutWorld(t)
	w.set("configmap/c", "0")
	w.deploy("d", uses("configmap/c"), rollout.AnnotationRollout, rolloutOn)
	w.follows("d", "ConfigMap/c")
	const edits = 40
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range edits {
			// A whole object is written, as kubectl edit and controllers do.
			err := retry.OnError(wait.Backoff{Duration: time.Millisecond, Steps: 1000}, func(error) bool { return true }, func() error {
				d, err := w.client.AppsV1().Deployments(w.ns).Get(t.Context(), "d", metav1.GetOptions{})
				if err != nil {
					return err
				}
				c := &d.Spec.Template.Spec.Containers[0]
				c.Env = append(c.Env, corev1.EnvVar{Name: fmt.Sprint("E", i), Value: "x"})
				_, err = w.client.AppsV1().Deployments(w.ns).Update(t.Context(), d, metav1.UpdateOptions{})
				return err
			})
			if err != nil {
				t.Errorf("edit %d: %v", i, err)
			}
		}
	})
	for i := range edits {
		w.set("configmap/c", fmt.Sprint(i+1))
	}
	wg.Wait()
	before := w.deployment("d").Spec.Template.Annotations[rollout.AnnotationHash]
	w.set("configmap/c", "last")
	w.until("the last edit is rolled", func() string {
		d := w.deployment("d")
		if hash := d.Spec.Template.Annotations[rollout.AnnotationHash]; hash == before || hash == "" {
			return "it is not"
		}
		if n := len(d.Spec.Template.Spec.Containers[0].Env); n != edits {
			t.Fatalf("%d edits are left of %d", n, edits)
		}
		return ""
	})
}
