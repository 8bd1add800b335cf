package main

import (
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/configsync/versions"
	"github.com/orlop-io/orlop/test/apienv"
)

// TestCollectFlags runs the controllers, under the identity and the policy that the deployment gives them, with the
// collection of versions off and on.
func TestCollectFlags(t *testing.T) {
	env := apienv.Start(t)
	if err := env.Apply(t.Context(), controllersManifests("leader", "rollouts", "versions", "volumes")...); err != nil {
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
	configMaps := env.Client.CoreV1().ConfigMaps(env.Namespace(t))
	immutable := true
	if _, err = configMaps.Create(t.Context(), &corev1.ConfigMap{Immutable: &immutable, ObjectMeta: metav1.ObjectMeta{
		Name: "v1", Labels: map[string]string{versions.LabelCollect: versions.CollectUnused}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}

	off := startControllers(t, kubeconfig, "off", "--leader-elect=false", "--collect=false")
	eventually(t, "the controllers that collect nothing are ready", func() bool {
		status, _ := off.get("/readyz")
		return status == http.StatusOK
	})
	off.stop()
	o, err := configMaps.Get(t.Context(), "v1", metav1.GetOptions{})
	if err != nil || len(o.Annotations) > 0 {
		t.Errorf("with --collect=false the version is annotated %v, %v", o.Annotations, err)
	}

	on := startControllers(t, kubeconfig, "on", "--leader-elect=false", "--collect-after=1s")
	eventually(t, "the version is collected", func() bool {
		_, err := configMaps.Get(t.Context(), "v1", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	eventually(t, "it is counted", func() bool {
		_, body := on.get("/metrics")
		return strings.Contains(body, `orlop_versions_collected_total{kind="ConfigMap"} 1`)
	})
}
