package controllers

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/klog/v2"

	"golang.org/x/sync/errgroup"

	"github.com/orlop-io/orlop/pvcontroller"
)

// writers is how many requests at a time set a benchmark's objects up.
const writers = 16

// BenchmarkBind measures how long a claim takes to be bound when b.N of them are created at once: to volumes of a
// static pool, and to volumes that were provisioned for them.
func BenchmarkBind(b *testing.B) {
	for _, c := range []struct {
		name string
		pv   func(w *pvWorld, claim *corev1.PersistentVolumeClaim) *corev1.PersistentVolume
	}{
		{"static", func(w *pvWorld, claim *corev1.PersistentVolumeClaim) *corev1.PersistentVolume {
			return w.pv("of-"+claim.Name, "1Gi")
		}},
		{"provisioned", func(w *pvWorld, claim *corev1.PersistentVolumeClaim) *corev1.PersistentVolume {
			return w.provisioned(claim, "local.csi.orlop.io")
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			w, config := newPVWorld(b), pvConfig(b)
			claims := make([]*corev1.PersistentVolumeClaim, b.N)
			inParallel(b, b.N, func(i int) (err error) {
				claims[i], err = w.client.CoreV1().PersistentVolumeClaims(w.ns).Create(b.Context(),
					w.claim(fmt.Sprint("data-", i), "1Gi"), metav1.CreateOptions{})
				return err
			})
			watcher, err := w.client.CoreV1().PersistentVolumeClaims(w.ns).Watch(b.Context(), metav1.ListOptions{})
			if err != nil {
				b.Fatal(err)
			}
			defer watcher.Stop()
			stop := runPVController(b, config, func(c *pvcontroller.Config) { c.Logger = klog.Logger{} })
			b.ResetTimer()
			inParallel(b, b.N, func(i int) error {
				_, err := w.client.CoreV1().PersistentVolumes().Create(b.Context(), c.pv(w, claims[i]), metav1.CreateOptions{})
				return err
			})
			for bound := 0; bound < b.N; {
				event := <-watcher.ResultChan()
				claim, ok := event.Object.(*corev1.PersistentVolumeClaim)
				if event.Type == watch.Modified && ok && claim.Status.Phase == corev1.ClaimBound {
					bound++
				}
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "claims/s")
			stop()
		})
	}
}

// inParallel calls f with 0 to n-1.
func inParallel(t testing.TB, n int, f func(int) error) {
	t.Helper()
	var group errgroup.Group
	group.SetLimit(writers)
	for i := range n {
		group.Go(func() error { return f(i) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}
