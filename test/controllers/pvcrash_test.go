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

	"github.com/orlop-io/orlop/pvcontroller"
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
	of   string // the namespace whose claims and volumes count, empty for all: other tests leave work behind

	mu      sync.Mutex
	left    int
	crashed bool
	at      string // the write it crashed at
}

func (c *crash) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		write := r.Method != http.MethodGet && strings.Contains(r.URL.Path, "/persistentvolume") &&
			strings.Contains(r.URL.Path, c.of)
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

// crashScenario is something that a controller has to do, and how to tell that it is done.
type crashScenario struct {
	name   string
	setUp  func(w *pvWorld)
	done   func(w *pvWorld) string // what is missing; empty when all is done
	pairs  int                     // of claims and volumes, in the end
	writes int                     // how many it takes, at the least
}

// TestCrashAtEveryWrite kills the controller at every write of what it has to do, before it and after it, and lets a
// new one carry on from what is there.
func TestCrashAtEveryWrite(t *testing.T) {
	for _, scenario := range []crashScenario{
		{"bind static", func(w *pvWorld) {
			w.createPV(w.pv("one", "1Gi"))
			w.createPV(w.pv("two", "1Gi"))
			w.createClaim(w.claim("data", "1Gi"))
		}, (*pvWorld).done, 1, 5},
		{"bind reserved", func(w *pvWorld) {
			w.createPV(w.pv("one", "1Gi", func(pv *corev1.PersistentVolume) {
				pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: w.ns, Name: "data"}
			}))
			w.createClaim(w.claim("data", "1Gi"))
		}, (*pvWorld).done, 1, 4},
		{"bind named", func(w *pvWorld) {
			pv := w.createPV(w.pv("one", "1Gi"))
			w.createClaim(w.claim("data", "1Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = pv.Name }))
		}, (*pvWorld).done, 1, 4},
		{"bind provisioned", func(w *pvWorld) {
			claim := w.createClaim(w.claim("data", "1Gi"))
			w.createPV(w.provisioned(claim, "local.csi.orlop.io"))
		}, (*pvWorld).done, 1, 3},
		{"let go of a second volume", func(w *pvWorld) {
			claim := w.boundBefore()
			w.createPV(w.pv("second", "1Gi", func(pv *corev1.PersistentVolume) {
				pv.Annotations = map[string]string{"pv.kubernetes.io/bound-by-controller": "yes"}
				pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: w.ns, Name: "data", UID: claim.UID}
			}))
		}, (*pvWorld).done, 1, 2},
		{"recycle", func(w *pvWorld) {
			w.boundBefore(recycled)
			w.deleteClaim("data")
		}, func(w *pvWorld) string {
			if pv := w.getPV(w.ns + "-pv"); pv.Status.Phase != corev1.VolumeAvailable || pv.Spec.ClaimRef != nil {
				return fmt.Sprintf("volume is %s for %v", pv.Status.Phase, pv.Spec.ClaimRef)
			}
			return ""
		}, 0, 3},
	} {
		for _, mode := range []string{"before", "after"} {
			t.Run(scenario.name+"/"+mode, func(t *testing.T) {
				writes := 0
				for ; crashOnce(t, &scenario, mode, writes); writes++ {
				}
				if writes < scenario.writes {
					t.Errorf("it took %d writes, want %d at least: the crashes missed some", writes, scenario.writes)
				}
			})
		}
	}
}

// boundBefore makes a volume and a claim that a controller bound which runs no more.
func (w *pvWorld) boundBefore(edit ...func(*corev1.PersistentVolume)) *corev1.PersistentVolumeClaim {
	w.t.Helper()
	stop := runPVController(w.t, pvConfig(w.t))
	_, claim := w.bound(edit...)
	stop()
	return claim
}

// crashOnce sets a scenario up, crashes a controller at the write after the first n, and checks that another one
// converges. It is false when the scenario was done with before that write.
func crashOnce(t *testing.T, scenario *crashScenario, mode string, n int) (crashed bool) {
	w := newPVWorld(t)
	scenario.setUp(w)
	recycles := func(c *pvcontroller.Config) { c.Recycler = &recyclerOf{volume: w.ns + "-pv"} }
	c := &crash{mode: mode, left: n, of: w.ns}
	config := pvConfig(t)
	config.Wrap(c.wrap)
	stop := runPVController(t, config, recycles)
	w.until("it crashed or is done", func() (string, error) {
		if c.hasCrashed() || scenario.done(w) == "" {
			return "", nil
		}
		return "neither", nil
	})
	stop()
	stop = runPVController(t, pvConfig(t), recycles)
	defer stop()
	w.until(fmt.Sprintf("all is done after a crash at %q", c.at), func() (string, error) { return scenario.done(w), nil })
	if pairs := w.checkBindings(); pairs != scenario.pairs {
		t.Errorf("after a crash at %q, %d claims and volumes belong together, want %d", c.at, pairs, scenario.pairs)
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
