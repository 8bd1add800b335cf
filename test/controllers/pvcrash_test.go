package controllers

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestTwoControllersRace lets two controllers, which know nothing of each other, bind the same pool.
func TestTwoControllersRace(t *testing.T) {
	const n = 200
	w := newPVWorld(t)
	var wg sync.WaitGroup
	for half := range 2 {
		wg.Go(func() {
			for i := half; i < n; i += 2 {
				if _, err := w.client.CoreV1().PersistentVolumes().Create(t.Context(),
					w.pv(fmt.Sprint(i), "1Gi"), metav1.CreateOptions{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for range 2 {
		runPVController(t, pvConfig(t))
	}
	for half := range 2 {
		wg.Go(func() {
			for i := half; i < n; i += 2 {
				if _, err := w.client.CoreV1().PersistentVolumeClaims(w.ns).Create(t.Context(),
					w.claim(fmt.Sprint("data-", i), "1Gi"), metav1.CreateOptions{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	w.until("all claims are bound", func() (string, error) {
		claims, err := w.client.CoreV1().PersistentVolumeClaims(w.ns).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return "", err
		}
		bound := 0
		for i := range claims.Items {
			if claims.Items[i].Status.Phase == corev1.ClaimBound {
				bound++
			}
		}
		if bound < n {
			return fmt.Sprintf("%d of %d", bound, n), nil
		}
		return "", nil
	})
	if pairs := w.checkBindings(); pairs != n {
		t.Errorf("%d claims and volumes belong together, want %d", pairs, n)
	}
}

var errCrashed = errors.New("crashed")

// crash lets a number of writes to claims and volumes through. With the next one the process is as if killed: in mode
// "before" that write is never sent; in mode "after" it takes effect and its answer is lost; all after it is void.
type crash struct {
	mode string

	mu      sync.Mutex
	left    int
	crashed bool
	at      string // the write it crashed at
}

func (c *crash) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		write := r.Method != http.MethodGet && strings.Contains(r.URL.Path, "/persistentvolume")
		if !write {
			return next.RoundTrip(r) // reading changes nothing
		}
		// One at a time, so that a crash has a definite place.
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.crashed {
			return nil, errCrashed
		}
		if c.left > 0 {
			c.left--
			return next.RoundTrip(r)
		}
		c.crashed, c.at = true, r.Method+" "+r.URL.Path
		if c.mode == "before" {
			return nil, errCrashed
		}
		resp, err := next.RoundTrip(r)
		if err == nil {
			err = resp.Body.Close()
		}
		return nil, errors.Join(errCrashed, err)
	})
}

func (c *crash) hasCrashed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.crashed
}

// TestCrashAtEveryWrite kills the controller at every write of a bind, before it and after it, and lets a new one
// carry on from what is there.
func TestCrashAtEveryWrite(t *testing.T) {
	for _, scenario := range []struct {
		name  string
		setUp func(w *pvWorld)
	}{
		{"static", func(w *pvWorld) {
			w.createPV(w.pv("one", "1Gi"))
			w.createPV(w.pv("two", "1Gi"))
			w.createClaim(w.claim("data", "1Gi"))
		}},
		{"reserved", func(w *pvWorld) {
			w.createPV(w.pv("one", "1Gi", func(pv *corev1.PersistentVolume) {
				pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: w.ns, Name: "data"}
			}))
			w.createClaim(w.claim("data", "1Gi"))
		}},
		{"named", func(w *pvWorld) {
			pv := w.createPV(w.pv("one", "1Gi"))
			w.createClaim(w.claim("data", "1Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = pv.Name }))
		}},
		{"provisioned", func(w *pvWorld) {
			claim := w.createClaim(w.claim("data", "1Gi"))
			w.createPV(w.provisioned(claim, "local.csi.orlop.io"))
		}},
	} {
		for _, mode := range []string{"before", "after"} {
			t.Run(scenario.name+"/"+mode, func(t *testing.T) {
				writes := 0
				for ; crashOnce(t, scenario.setUp, mode, writes); writes++ {
				}
				if writes < 3 {
					t.Errorf("a bind took %d writes: the crashes missed some", writes)
				}
			})
		}
	}
}

// crashOnce sets a scenario up, crashes a controller at the write after the first n, and checks that another one
// converges. It is false when the scenario was done with before that write.
func crashOnce(t *testing.T, setUp func(*pvWorld), mode string, n int) (crashed bool) {
	w := newPVWorld(t)
	setUp(w)
	c := &crash{mode: mode, left: n}
	config := pvConfig(t)
	config.Wrap(c.wrap)
	stop := runPVController(t, config)
	w.until("it crashed or is done", func() (string, error) {
		if c.hasCrashed() || w.done() == "" {
			return "", nil
		}
		return "neither", nil
	})
	stop()
	stop = runPVController(t, pvConfig(t))
	defer stop()
	w.until(fmt.Sprintf("all is bound after a crash at %q", c.at), func() (string, error) { return w.done(), nil })
	if pairs := w.checkBindings(); pairs != 1 {
		t.Errorf("after a crash at %q, %d claims and volumes belong together, want 1", c.at, pairs)
	}
	return c.hasCrashed()
}

// done says what is missing until the claim "data" is bound, its volume too, and all other volumes of the world are
// available.
func (w *pvWorld) done() string {
	w.t.Helper()
	claim := w.getClaim("data")
	if claim.Status.Phase != corev1.ClaimBound {
		return fmt.Sprintf("claim is %s", claim.Status.Phase)
	}
	pvs, err := w.client.CoreV1().PersistentVolumes().List(w.t.Context(), metav1.ListOptions{})
	if err != nil {
		return err.Error()
	}
	for i := range pvs.Items {
		pv := &pvs.Items[i]
		if !strings.HasPrefix(pv.Name, w.ns+"-") {
			continue
		}
		want := corev1.VolumeAvailable
		if pv.Name == claim.Spec.VolumeName {
			want = corev1.VolumeBound
		}
		if pv.Status.Phase != want {
			return fmt.Sprintf("volume %s is %s, want %s", pv.Name, pv.Status.Phase, want)
		}
	}
	return ""
}
