package controllers

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// chaosSteps is how many random things happen in TestRandomLife. SOAK=1 makes it many more.
func chaosSteps() int {
	if os.Getenv("SOAK") == "1" {
		return 5000
	}
	return 1000
}

// TestRandomLife makes and deletes claims and volumes at random, while two controllers bind them, one of which is
// killed over and over in the middle of its writes. No volume whose data is retained may ever serve two claims, and
// in the end all that can be bound is.
func TestRandomLife(t *testing.T) {
	seed := rand.Uint64()
	if s := os.Getenv("CHAOS_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("CHAOS_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	w := newPVWorld(t)
	history := w.recordHistory()

	runPVController(t, pvConfig(t))
	var stop func()
	restart := func() {
		if stop != nil {
			stop()
		}
		c := &crash{mode: []string{"before", "after"}[random.IntN(2)], left: random.IntN(12)}
		config := pvConfig(t)
		config.Wrap(c.wrap)
		stop = runPVController(t, config)
	}
	restart()
	for step := range chaosSteps() {
		name := fmt.Sprint("data-", random.IntN(10)) // names are used again, so that claims have namesakes
		switch n := random.IntN(20); {
		case n < 8:
			_, err := w.client.CoreV1().PersistentVolumeClaims(w.ns).Create(t.Context(), w.claim(name, "1Gi"), metav1.CreateOptions{})
			if err != nil && !apierrors.IsAlreadyExists(err) {
				t.Fatal(err)
			}
		case n < 13:
			err := w.client.CoreV1().PersistentVolumeClaims(w.ns).Delete(t.Context(), name, metav1.DeleteOptions{})
			if err != nil && !apierrors.IsNotFound(err) {
				t.Fatal(err)
			}
		case n < 17:
			w.createPV(w.pv(fmt.Sprint("pv-", step), "1Gi"))
		case n < 19:
			w.createPV(w.pv(fmt.Sprint("pv-", step), "1Gi", func(pv *corev1.PersistentVolume) {
				pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: w.ns, Name: name}
			}))
		default:
			restart()
		}
	}
	stop()
	w.until("no claim waits while there is a volume for it", w.idle)
	w.until("every volume has the phase that it should", w.phases)
	w.checkBindings()
	for pv, claims := range history() {
		if len(claims) > 1 {
			t.Errorf("volume %s served %d claims, although its data was to be retained: %v", pv, len(claims), claims)
		}
	}
}

// recordHistory watches claims. The returned function says which volumes were ever given to which claims.
func (w *pvWorld) recordHistory() func() map[string]map[types.UID]bool {
	w.t.Helper()
	watcher, err := w.client.CoreV1().PersistentVolumeClaims(w.ns).Watch(w.t.Context(), metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	history := map[string]map[types.UID]bool{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for event := range watcher.ResultChan() {
			claim, ok := event.Object.(*corev1.PersistentVolumeClaim)
			if !ok || event.Type == watch.Deleted || claim.Spec.VolumeName == "" {
				continue
			}
			if history[claim.Spec.VolumeName] == nil {
				history[claim.Spec.VolumeName] = map[types.UID]bool{}
			}
			history[claim.Spec.VolumeName][claim.UID] = true
		}
	})
	return func() map[string]map[types.UID]bool {
		watcher.Stop()
		wg.Wait()
		return history
	}
}

// idle says which claim is pending although a volume is available.
func (w *pvWorld) idle() (string, error) {
	claims, err := w.client.CoreV1().PersistentVolumeClaims(w.ns).List(w.t.Context(), metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	pvs, err := w.volumes(w.t.Context())
	if err != nil {
		return "", err
	}
	for i := range claims.Items {
		claim := &claims.Items[i]
		if claim.Status.Phase == corev1.ClaimBound {
			continue
		}
		for _, pv := range pvs {
			if pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID == "" && pv.Spec.ClaimRef.Name == claim.Name {
				return fmt.Sprintf("claim %s is %s, volume %s is %s", claim.Name, claim.Status.Phase, pv.Name, pv.Status.Phase), nil
			}
		}
	}
	return "", nil
}

// phases says which volume has a phase that does not go with its claim.
func (w *pvWorld) phases() (string, error) {
	pvs, err := w.volumes(w.t.Context())
	if err != nil {
		return "", err
	}
	for _, pv := range pvs {
		want := corev1.VolumeAvailable
		if ref := pv.Spec.ClaimRef; ref != nil && ref.UID != "" {
			want = corev1.VolumeReleased
			claim, err := w.client.CoreV1().PersistentVolumeClaims(w.ns).Get(w.t.Context(), ref.Name, metav1.GetOptions{})
			if err != nil && !apierrors.IsNotFound(err) {
				return "", err
			}
			if err == nil && claim.UID == ref.UID {
				if claim.Spec.VolumeName != pv.Name {
					return fmt.Sprintf("volume %s belongs to claim %s, which names %q", pv.Name, claim.Name, claim.Spec.VolumeName), nil
				}
				want = corev1.VolumeBound
			}
		}
		if pv.Status.Phase != want {
			return fmt.Sprintf("volume %s is %s, want %s", pv.Name, pv.Status.Phase, want), nil
		}
	}
	return "", nil
}

// volumes lists the volumes of the world.
func (w *pvWorld) volumes(ctx context.Context) ([]*corev1.PersistentVolume, error) {
	list, err := w.client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var own []*corev1.PersistentVolume
	for i := range list.Items {
		if strings.HasPrefix(list.Items[i].Name, w.ns+"-") {
			own = append(own, &list.Items[i])
		}
	}
	return own, nil
}
