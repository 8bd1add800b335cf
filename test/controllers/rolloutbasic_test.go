package controllers

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/orlop-io/orlop/configsync/rollout"
)

const rolloutOn = "true"

// TestRolloutContent: a change of content rolls, once, and nothing else does.
func TestRolloutContent(t *testing.T) {
	w := newRolloutWorld(t)
	w.set("configmap/c", "1")
	w.set("secret/s", "hunter1")
	w.deploy("d", uses("configmap/c", "secret/s"), rollout.AnnotationRollout, rolloutOn)
	w.follows("d", "ConfigMap/c", "Secret/s")
	w.rolled("d", 0)
	if a := w.deployment("d").Spec.Template.Annotations; len(a) > 0 {
		t.Errorf("to opt in changed the pod template: %v", a)
	}

	w.set("configmap/c", "2")
	w.rolled("d", 1)
	w.untilEvent("d", rollout.ReasonRolled, "ConfigMap "+w.ns+"/c changed")
	w.set("secret/s", "hunter2")
	w.rolled("d", 2)
	w.untilEvent("d", rollout.ReasonRolled, "Secret "+w.ns+"/s changed")

	// The same content with an annotation, then without.
	w.looked("Deployment/d", func() { w.set("configmap/c", "2", "note", "x") })
	w.looked("Deployment/d", func() { w.set("secret/s", "hunter2", "note", "x") })
	w.looked("Deployment/d", func() { w.set("configmap/c", "2") })
	w.rolled("d", 2)

	// Deleted, and made again with the same content; then with another.
	w.remove("configmap/c")
	w.untilEvent("d", rollout.ReasonGone, "ConfigMap "+w.ns+"/c is gone")
	w.looked("Deployment/d", func() { w.set("configmap/c", "2") })
	w.rolled("d", 2)
	w.looked("Deployment/d", func() { w.remove("configmap/c") })
	w.rolled("d", 2)
	w.set("configmap/c", "3")
	w.rolled("d", 3)

	// No value is anywhere but in the objects.
	d := w.deployment("d")
	for name, value := range d.Annotations {
		if strings.Contains(value, "hunter") {
			t.Errorf("the Secret is in annotation %s", name)
		}
	}
	events, err := w.client.CoreV1().Events(w.ns).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range events.Items {
		if strings.Contains(events.Items[i].Message, "hunter") {
			t.Errorf("the Secret is in an event: %s", events.Items[i].Message)
		}
	}
}

// TestRolloutDown: what changed while no controller ran is caught up, by one roll; where nothing did, nothing happens.
func TestRolloutDown(t *testing.T) {
	w := newRolloutWorld(t)
	w.set("configmap/c", "1")
	w.set("secret/s", "1")
	w.deploy("d", uses("configmap/c", "secret/s"), rollout.AnnotationRollout, rolloutOn)
	w.follows("d", "ConfigMap/c", "Secret/s")
	w.restart(func() {
		for i := range 3 {
			w.set("configmap/c", fmt.Sprint("down ", i))
			w.set("secret/s", fmt.Sprint("down ", i))
		}
	})
	w.rolled("d", 1)
	w.looked("Deployment/d", func() { w.restart(func() {}) })
	w.set("configmap/c", "up")
	w.rolled("d", 2)
	// There and back again while nobody looks.
	w.restart(func() { w.set("configmap/c", "x"); w.set("configmap/c", "up") })
	w.set("secret/s", "up")
	w.rolled("d", 3)
}

// TestRolloutReferences: an object that the template refers to newly is noted without a roll, one that it does not refer to
// any more is forgotten.
func TestRolloutReferences(t *testing.T) {
	w := newRolloutWorld(t)
	w.set("configmap/a", "1")
	w.set("configmap/b", "1")
	w.deploy("d", uses("configmap/a"), rollout.AnnotationRollout, rolloutOn)
	w.follows("d", "ConfigMap/a")
	w.edit("d", `{"spec":{"template":{"spec":{"containers":[{"name":"c","envFrom":[{"configMapRef":{"name":"b"}}]}]}}}}`)
	w.follows("d", "ConfigMap/b")
	w.rolled("d", 0)
	w.set("configmap/a", "2")
	w.set("configmap/b", "2")
	w.rolled("d", 1)
}

// TestRolloutAbsent: an optional object that appears rolls; one that pods wait for does not.
func TestRolloutAbsent(t *testing.T) {
	w := newRolloutWorld(t)
	w.deploy("d", uses("configmap/needed", "configmap/late?"), rollout.AnnotationRollout, rolloutOn)
	w.follows("d", "ConfigMap/late")
	w.set("configmap/needed", "1")
	w.follows("d", "ConfigMap/late", "ConfigMap/needed")
	w.rolled("d", 0)
	w.set("configmap/late", "1")
	w.rolled("d", 1)
	w.set("configmap/needed", "2")
	w.rolled("d", 2)
}

// TestRolloutImmutable: an immutable object that was made anew with other content rolls.
func TestRolloutImmutable(t *testing.T) {
	w := newRolloutWorld(t)
	frozen := func(value string) {
		t.Helper()
		w.set("configmap/c", value)
		patch := []byte(`{"immutable":true}`)
		_, err := w.client.CoreV1().ConfigMaps(w.ns).Patch(t.Context(), "c", types.MergePatchType, patch, metav1.PatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	frozen("1")
	w.deploy("d", uses("configmap/c"), rollout.AnnotationRollout, rolloutOn)
	w.follows("d", "ConfigMap/c")
	w.remove("configmap/c")
	frozen("2")
	// Immutable objects have no watch. Somebody else who follows it has it looked at, as the minutely round does.
	w.deploy("another", uses("configmap/c"), rollout.AnnotationRollout, rolloutOn)
	w.rolled("d", 1)
	w.rolled("another", 0)
}

// TestRolloutUndo: a rollback brings the baseline of old back, which is not believed; nor is one that was copied.
func TestRolloutUndo(t *testing.T) {
	w := newRolloutWorld(t)
	w.kubelet()
	w.set("configmap/c", "1")
	w.deploy("d", uses("configmap/c"), rollout.AnnotationRollout, rolloutOn)
	w.follows("d", "ConfigMap/c")
	w.complete("d")
	w.set("configmap/c", "2")
	w.rolled("d", 1)
	w.complete("d")
	before := w.deployment("d")
	if _, err := env.Kubectl(t.Context(), "rollout", "undo", "deployment/d", "-n", w.ns); err != nil {
		t.Fatal(err)
	}
	w.until("the rollback is over and the baseline that of today", func() string {
		d := w.deployment("d")
		if d.Generation > before.Generation && observed(d.Annotations)["ConfigMap/c"] == observed(before.Annotations)["ConfigMap/c"] {
			return ""
		}
		return d.Annotations[rollout.AnnotationObserved]
	})
	w.complete("d")
	if hash, ok := w.deployment("d").Spec.Template.Annotations[rollout.AnnotationHash]; ok {
		t.Errorf("the rollback was rolled over: the template has hash %s, as it had not before", hash)
	}
	w.set("configmap/c", "3")
	w.rolled("d", 2)

	w.deploy("copy", uses("configmap/c"), rollout.AnnotationRollout, rolloutOn,
		rollout.AnnotationObserved, before.Annotations[rollout.AnnotationObserved])
	w.until("the copy has a baseline of its own", func() string {
		if observed(w.deployment("copy").Annotations)["ConfigMap/c"] == observed(w.deployment("d").Annotations)["ConfigMap/c"] {
			return ""
		}
		return "it has the copied one"
	})
	w.rolled("copy", 0)
}

// TestRolloutOptOut: whoever opts out is left alone, and begins anew when opting in again.
func TestRolloutOptOut(t *testing.T) {
	w := newRolloutWorld(t)
	w.set("configmap/c", "1")
	w.deploy("d", uses("configmap/c"), rollout.AnnotationRollout, rolloutOn)
	w.follows("d", "ConfigMap/c")
	w.set("configmap/c", "2")
	w.rolled("d", 1)
	for i, value := range []string{"", "false"} {
		w.annotate("d", rollout.AnnotationRollout, value)
		w.until("the baseline is gone", func() string { return w.deployment("d").Annotations[rollout.AnnotationObserved] })
		w.set("configmap/c", fmt.Sprint("out ", i))
		w.annotate("d", rollout.AnnotationRollout, rolloutOn)
		w.follows("d", "ConfigMap/c")
		w.rolled("d", 1)
	}
	// The content of the roll before: the template has its hash already.
	w.set("configmap/c", "2")
	w.rolled("d", 2)
}
