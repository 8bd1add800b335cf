package controllers

import (
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestVersionsHistory: upstream's own controllers keep the history of workloads; the versions that it refers to live until
// it is cut.
func TestVersionsHistory(t *testing.T) {
	w := newVersionsWorld(t)
	apps, limit := w.client.AppsV1(), int32(10)
	meta := metav1.ObjectMeta{Name: "w"}
	for kind, x := range map[string]struct {
		create func(version string) error
		patch  func(patch string) error
		// revisions is how many templates the history holds.
		revisions func() (int, error)
	}{
		"deployment": {
			create: func(version string) error {
				_, err := apps.Deployments(w.ns).Create(t.Context(), &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{
					Replicas: new(int32), RevisionHistoryLimit: &limit, Selector: selector(), Template: podTemplate(version)}}, metav1.CreateOptions{})
				return err
			},
			patch: func(patch string) error {
				_, err := apps.Deployments(w.ns).Patch(t.Context(), "w", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
				return err
			},
			revisions: func() (int, error) {
				list, err := apps.ReplicaSets(w.ns).List(t.Context(), metav1.ListOptions{})
				return ownedBy(list.Items, "Deployment"), err
			},
		},
		"statefulset": {
			create: func(version string) error {
				_, err := apps.StatefulSets(w.ns).Create(t.Context(), &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{
					Replicas: new(int32), RevisionHistoryLimit: &limit, Selector: selector(), Template: podTemplate(version)}}, metav1.CreateOptions{})
				return err
			},
			patch: func(patch string) error {
				_, err := apps.StatefulSets(w.ns).Patch(t.Context(), "w", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
				return err
			},
			revisions: func() (int, error) {
				list, err := apps.ControllerRevisions(w.ns).List(t.Context(), metav1.ListOptions{})
				return ownedBy(list.Items, "StatefulSet"), err
			},
		},
		"daemonset": {
			create: func(version string) error {
				_, err := apps.DaemonSets(w.ns).Create(t.Context(), &appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{
					RevisionHistoryLimit: &limit, Selector: selector(), Template: podTemplate(version)}}, metav1.CreateOptions{})
				return err
			},
			patch: func(patch string) error {
				_, err := apps.DaemonSets(w.ns).Patch(t.Context(), "w", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
				return err
			},
			revisions: func() (int, error) {
				list, err := apps.ControllerRevisions(w.ns).List(t.Context(), metav1.ListOptions{})
				return ownedBy(list.Items, "DaemonSet"), err
			},
		},
	} {
		t.Run(kind, func(t *testing.T) {
			name := func(n int) string { return fmt.Sprintf("%s-v%d", kind, n) }
			for n := range 3 {
				var err error
				if n == 0 {
					err = x.create(name(n))
				} else {
					err = x.patch(fmt.Sprintf(`{"spec":{"template":{"spec":{"volumes":[{"name":"v","configMap":{"name":%q}}]}}}}`, name(n)))
				}
				if err != nil {
					t.Fatal(err)
				}
				w.until(fmt.Sprintf("the %s has %d revisions", kind, n+1), func() (string, error) {
					got, err := x.revisions()
					if got != n+1 {
						return fmt.Sprintf("it has %d", got), err
					}
					return "", err
				})
				w.version(name(n), "0s")
			}
			stop := w.run()
			defer stop()
			w.sweeps()
			for n := range 3 {
				if w.get(name(n)) == nil {
					t.Errorf("version %d, which is in the history, was collected", n)
				}
			}
			if err := x.patch(`{"spec":{"revisionHistoryLimit":0}}`); err != nil {
				t.Fatal(err)
			}
			w.untilGone(name(0))
			w.untilGone(name(1))
			w.sweeps()
			if w.get(name(2)) == nil {
				t.Error("the version in use was collected")
			}
		})
	}
}

func ownedBy[T any, P interface {
	*T
	metav1.Object
}](objects []T, kind string) (n int) {
	for i := range objects {
		if owner := metav1.GetControllerOf(P(&objects[i])); owner != nil && owner.Kind == kind {
			n++
		}
	}
	return n
}
