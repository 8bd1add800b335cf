package controllers

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/orlop-io/orlop/configsync/rollout"
)

// TestRolloutLists: opt-in and opt-out lists, of which the first may name what no pod refers to; on the pod template, too.
func TestRolloutLists(t *testing.T) {
	w := newRolloutWorld(t)
	for _, o := range []string{"configmap/a", "configmap/b", "secret/a", "configmap/elsewhere"} {
		w.set(o, "1")
	}
	w.deploy("only", uses("configmap/a", "configmap/b", "secret/a"), rollout.AnnotationRollout, rolloutOn,
		rollout.AnnotationOnly, "configmap/a,configmap/elsewhere")
	template := uses("configmap/a", "configmap/b", "secret/a")
	template.Annotations = pairs([]string{rollout.AnnotationRollout, rolloutOn, rollout.AnnotationIgnore, "configmap/a"})
	w.deploy("ignore", template)
	w.follows("only", "ConfigMap/a", "ConfigMap/elsewhere")
	w.follows("ignore", "ConfigMap/b", "Secret/a")

	w.set("secret/a", "2")
	w.rolled("ignore", 1)
	w.set("configmap/a", "2")
	w.rolled("only", 1)
	w.set("configmap/b", "2")
	w.rolled("ignore", 2)
	w.set("configmap/elsewhere", "2")
	w.rolled("only", 2)
	w.rolled("ignore", 2)
}

// TestRolloutInvalid: a value that is not understood rolls nothing and is told, until it is mended.
func TestRolloutInvalid(t *testing.T) {
	w := newRolloutWorld(t)
	w.set("configmap/c", "1")
	w.deploy("d", uses("configmap/c"), rollout.AnnotationRollout, rolloutOn)
	w.follows("d", "ConfigMap/c")
	for i, annotation := range []string{
		rollout.AnnotationOnly, rollout.AnnotationIgnore, rollout.AnnotationWindow, rollout.AnnotationPaused,
		"reloader.stakater.com/auto",
	} {
		w.annotate("d", annotation, "what?")
		w.untilEvent("d", rollout.ReasonInvalid, annotation+` is "what?": allowed is `)
		w.looked("Deployment/d", func() { w.set("configmap/c", "broken "+annotation) })
		w.rolled("d", i)
		w.annotate("d", annotation, "")
		w.rolled("d", i+1)
	}
	w.annotate("d", rollout.AnnotationRollout, "yes")
	w.untilEvent("d", rollout.ReasonInvalid, rollout.AnnotationRollout)
	w.namespace(`"what?"`)
	w.annotate("d", rollout.AnnotationRollout, rolloutOn)
	w.untilEvent("d", rollout.ReasonInvalid, "namespace "+w.ns, rollout.AnnotationPaused)
}

// namespace sets the pause of the world's namespace, given as JSON.
func (w *rolloutWorld) namespace(paused string) {
	w.t.Helper()
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%s}}}`, rollout.AnnotationPaused, paused)
	_, err := w.client.CoreV1().Namespaces().Patch(w.t.Context(), w.ns, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
}

// TestRolloutPaused: each pause has changes wait, and its end catches up with them by one roll.
func TestRolloutPaused(t *testing.T) {
	w := newRolloutWorld(t)
	w.set("configmap/a", "1")
	w.set("configmap/b", "1")
	w.deploy("d", uses("configmap/a", "configmap/b"), rollout.AnnotationRollout, rolloutOn)
	w.follows("d", "ConfigMap/a", "ConfigMap/b")
	for i, p := range []struct {
		name, by   string
		pause, end func()
	}{
		{"annotation", "its annotation", func() { w.annotate("d", rollout.AnnotationPaused, "true") },
			func() { w.annotate("d", rollout.AnnotationPaused, "") }},
		{"namespace", "of its namespace", func() { w.namespace(`"true"`) }, func() { w.namespace("null") }},
		{"spec.paused", "its spec.paused", func() { w.edit("d", `{"spec":{"paused":true}}`) },
			func() { w.edit("d", `{"spec":{"paused":false}}`) }},
		{"cluster", "--pause-rollouts", func() { w.restart(func() {}, func(c *rollout.Config) { c.Paused = true }) },
			func() { w.restart(func() {}) }},
	} {
		t.Run(p.name, func(t *testing.T) {
			p.pause()
			w.set("configmap/a", p.name)
			w.untilEvent("d", rollout.ReasonPaused, "ConfigMap "+w.ns+"/a changed", p.by)
			w.looked("Deployment/d", func() { w.set("configmap/b", p.name) })
			w.rolled("d", i)
			p.end()
			w.rolled("d", i+1)
		})
	}
}

// TestRolloutPausedAndReferred: what is referred to newly during a pause is known from then on.
func TestRolloutPausedAndReferred(t *testing.T) {
	w := newRolloutWorld(t)
	w.set("configmap/a", "1")
	w.set("configmap/b", "1")
	w.deploy("d", uses("configmap/a"), rollout.AnnotationRollout, rolloutOn, rollout.AnnotationPaused, "true")
	w.follows("d", "ConfigMap/a")
	w.set("configmap/a", "2")
	w.untilEvent("d", rollout.ReasonPaused)
	w.edit("d", `{"spec":{"template":{"spec":{"containers":[{"name":"c","envFrom":[{"configMapRef":{"name":"a"}},
		{"configMapRef":{"name":"b"}}]}]}}}}`)
	w.follows("d", "ConfigMap/a", "ConfigMap/b")
	w.set("configmap/b", "2")
	w.set("configmap/a", "1")
	w.rolled("d", 0)
	w.annotate("d", rollout.AnnotationPaused, "")
	w.rolled("d", 1)
	w.untilEvent("d", rollout.ReasonRolled, "because ConfigMap "+w.ns+"/b changed")
}

// TestRolloutWindow: edits within the window are one roll.
func TestRolloutWindow(t *testing.T) {
	w := newRolloutWorld(t, func(c *rollout.Config) { c.Window = time.Hour })
	w.set("configmap/c", "1")
	w.deploy("d", uses("configmap/c"), rollout.AnnotationRollout, rolloutOn)
	w.deploy("quick", uses("configmap/c"), rollout.AnnotationRollout, rolloutOn, rollout.AnnotationWindow, "0s")
	w.follows("d", "ConfigMap/c")
	w.follows("quick", "ConfigMap/c")
	for i := range 3 {
		w.looked("Deployment/d", func() { w.set("configmap/c", fmt.Sprint("edit ", i)) })
		w.rolled("quick", i+1)
	}
	w.rolled("d", 0)
	w.annotate("d", rollout.AnnotationWindow, "200ms")
	w.rolled("d", 1)
}

// TestRolloutKinds: StatefulSets and DaemonSets roll like Deployments, with OnDelete no less.
func TestRolloutKinds(t *testing.T) {
	w := newRolloutWorld(t, func(c *rollout.Config) { c.MaxRollouts = 2 })
	w.set("configmap/c", "1")
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}}
	meta := metav1.ObjectMeta{Annotations: map[string]string{rollout.AnnotationRollout: rolloutOn}}
	apps, ctx := w.client.AppsV1(), t.Context()
	for name, strategy := range map[string]string{"rolling": "RollingUpdate", "manual": "OnDelete"} {
		meta.Name = name
		_, err := apps.StatefulSets(w.ns).Create(ctx, &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{
			Selector: selector, Template: uses("configmap/c"),
			UpdateStrategy: appsv1.StatefulSetUpdateStrategy{Type: appsv1.StatefulSetUpdateStrategyType(strategy)},
		}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = apps.DaemonSets(w.ns).Create(ctx, &appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{
			Selector: selector, Template: uses("configmap/c"),
			UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: appsv1.DaemonSetUpdateStrategyType(strategy)},
		}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	each := func(what string, check func(meta metav1.ObjectMeta, template corev1.PodTemplateSpec) bool) {
		t.Helper()
		w.until(what, func() string {
			for _, name := range []string{"rolling", "manual"} {
				s, err := apps.StatefulSets(w.ns).Get(ctx, name, metav1.GetOptions{})
				if err != nil || !check(s.ObjectMeta, s.Spec.Template) {
					return fmt.Sprint("not StatefulSet ", name, err)
				}
				d, err := apps.DaemonSets(w.ns).Get(ctx, name, metav1.GetOptions{})
				if err != nil || !check(d.ObjectMeta, d.Spec.Template) {
					return fmt.Sprint("not DaemonSet ", name, err)
				}
			}
			return ""
		})
	}
	each("all are followed", func(meta metav1.ObjectMeta, template corev1.PodTemplateSpec) bool {
		return observed(meta.Annotations)["ConfigMap/c"] != "" && template.Annotations == nil && meta.Generation == 1
	})
	// The StatefulSet's pods are never ready, and yet it leaves room for the DaemonSet, which has no node.
	w.set("configmap/c", "2")
	each("all are rolled", func(meta metav1.ObjectMeta, template corev1.PodTemplateSpec) bool {
		return template.Annotations[rollout.AnnotationHash] != "" && meta.Generation == 2
	})
}

// TestRolloutReloader: manifests that were written for Reloader do what they did.
func TestRolloutReloader(t *testing.T) {
	w := newRolloutWorld(t)
	for _, o := range []string{"configmap/a", "secret/a", "configmap/tagged", "configmap/named"} {
		w.set(o, "1")
	}
	objects := uses("configmap/a", "secret/a", "configmap/tagged")
	w.deploy("auto", objects, "reloader.stakater.com/auto", "true")
	w.deploy("off", objects, "reloader.stakater.com/auto", "false")
	w.deploy("configmaps", objects, "configmap.reloader.stakater.com/auto", "true")
	w.deploy("secrets", objects, "secret.reloader.stakater.com/auto", "true")
	w.deploy("named", objects, "configmap.reloader.stakater.com/reload", "named,a")
	w.deploy("search", objects, "reloader.stakater.com/search", "true")
	template := uses("configmap/a", "secret/a", "configmap/tagged")
	template.Annotations = map[string]string{"secret.reloader.stakater.com/reload": "a"}
	w.deploy("template", template)
	w.set("configmap/tagged", "1", "reloader.stakater.com/match", "true")

	w.follows("auto", "ConfigMap/a", "ConfigMap/tagged", "Secret/a")
	w.follows("configmaps", "ConfigMap/a", "ConfigMap/tagged")
	w.follows("secrets", "Secret/a")
	w.follows("named", "ConfigMap/a", "ConfigMap/named")
	w.follows("search", "ConfigMap/tagged")
	w.follows("template", "Secret/a")

	w.set("secret/a", "2")
	for _, name := range []string{"auto", "secrets", "template"} {
		w.rolled(name, 1)
	}
	w.set("configmap/named", "2")
	w.rolled("named", 1)
	w.set("configmap/tagged", "2", "reloader.stakater.com/match", "true")
	w.rolled("search", 1)
	w.rolled("configmaps", 1)
	w.rolled("auto", 2)
	// An object that says so is ignored, and known again when it says so no more.
	w.set("configmap/a", "2", "reloader.stakater.com/ignore", "true")
	w.follows("configmaps", "ConfigMap/tagged")
	w.follows("named", "ConfigMap/named")
	w.set("configmap/a", "3")
	w.follows("configmaps", "ConfigMap/a", "ConfigMap/tagged")
	w.rolled("configmaps", 1)
	w.set("configmap/a", "4")
	w.rolled("configmaps", 2)
	w.rolled("named", 2)
	w.rolled("template", 1)
	w.rolled("off", 0)
	if _, ok := w.deployment("off").Annotations[rollout.AnnotationObserved]; ok {
		t.Error("a workload that is off has a baseline")
	}
}
