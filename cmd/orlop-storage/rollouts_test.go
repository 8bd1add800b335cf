package main

import (
	"net/http"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/test/apienv"
)

// TestRolloutFlags runs the controllers with rollouts off, paused and on.
func TestRolloutFlags(t *testing.T) {
	env := apienv.Start(t)
	if err := env.Apply(t.Context(), controllersManifests("leader", "rollouts", "volumes")...); err != nil {
		t.Fatal(err)
	}
	user, err := env.User("orlop:storage-controllers")
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig, err := env.Kubeconfig(user)
	if err != nil {
		t.Fatal(err)
	}
	ns := env.Namespace(t)
	set := func(value string) {
		t.Helper()
		o := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Data: map[string]string{"k": value}}
		_, err := env.Client.CoreV1().ConfigMaps(ns).Update(t.Context(), o, metav1.UpdateOptions{})
		if err != nil {
			_, err = env.Client.CoreV1().ConfigMaps(ns).Create(t.Context(), o, metav1.CreateOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	set("1")
	labels := map[string]string{"app": "d"}
	_, err = env.Client.AppsV1().Deployments(ns).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "d", Annotations: map[string]string{"config.orlop.io/rollout": "true"}},
		Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "none", EnvFrom: []corev1.EnvFromSource{{
				ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "c"}}}}}}},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	annotations := func() (workload, template map[string]string) {
		t.Helper()
		d, err := env.Client.AppsV1().Deployments(ns).Get(t.Context(), "d", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return d.Annotations, d.Spec.Template.Annotations
	}

	off := startControllers(t, kubeconfig, "off", "--leader-elect=false", "--rollouts=false")
	eventually(t, "the controllers without rollouts are ready", func() bool {
		status, _ := off.get("/readyz")
		return status == http.StatusOK
	})
	if _, body := off.get("/metrics"); strings.Contains(body, "orlop_rollouts") {
		t.Error("with --rollouts=false there are metrics of rollouts")
	}
	off.stop()
	if workload, _ := annotations(); workload["config.orlop.io/observed"] != "" {
		t.Error("with --rollouts=false a baseline was written")
	}

	paused := startControllers(t, kubeconfig, "paused", "--leader-elect=false", "--pause-rollouts", "--rollout-window=0s")
	eventually(t, "the baseline is written", func() bool {
		workload, _ := annotations()
		return workload["config.orlop.io/observed"] != ""
	})
	set("2")
	eventually(t, "an event tells of the pause", func() bool {
		events, err := env.Client.CoreV1().Events(ns).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range events.Items {
			if strings.Contains(events.Items[i].Message, "paused by --pause-rollouts") {
				return true
			}
		}
		return false
	})
	paused.stop()
	if _, template := annotations(); len(template) > 0 {
		t.Errorf("with --pause-rollouts the template was changed: %v", template)
	}

	on := startControllers(t, kubeconfig, "on", "--leader-elect=false", "--rollout-window=0s")
	eventually(t, "the workload is rolled", func() bool {
		_, template := annotations()
		return template["config.orlop.io/hash"] != ""
	})
	eventually(t, "the roll is counted", func() bool {
		_, body := on.get("/metrics")
		return strings.Contains(body, `orlop_rollouts_total{kind="Deployment"} 1`) && strings.Contains(body, "orlop_rollouts_running 1") &&
			strings.Contains(body, "orlop_rollout_objects 1") && strings.Contains(body, "orlop_rollouts_waiting 0")
	})
	on.stop()
}
