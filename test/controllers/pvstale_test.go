package controllers

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// gate holds back what arrives from watches of one resource, so that a controller's cache stays as it was.
type gate struct {
	resource string

	mu   sync.Mutex
	shut chan struct{} // closed when the gate is open; nil when it never was shut
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = make(chan struct{})
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut != nil {
		close(g.shut)
		g.shut = nil
	}
}

func (g *gate) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		resp, err := next.RoundTrip(r)
		if err == nil && r.URL.Query().Has("watch") && strings.HasSuffix(r.URL.Path, "/"+g.resource) {
			resp.Body = &gatedBody{ReadCloser: resp.Body, gate: g, closed: make(chan struct{})}
		}
		return resp, err
	})
}

type gatedBody struct {
	io.ReadCloser
	gate   *gate
	once   sync.Once
	closed chan struct{}
}

func (b *gatedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.gate.mu.Lock()
	shut := b.gate.shut
	b.gate.mu.Unlock()
	if shut != nil {
		select {
		case <-shut:
		case <-b.closed:
			return 0, io.ErrUnexpectedEOF
		}
	}
	return n, err
}

func (b *gatedBody) Close() error {
	b.once.Do(func() { close(b.closed) })
	return b.ReadCloser.Close()
}

func TestStaleVolumeCacheTakesNobodysVolume(t *testing.T) {
	w := newPVWorld(t)
	g := &gate{resource: "persistentvolumes"}
	config := pvConfig(t)
	config.Wrap(g.wrap)
	runPVController(t, config)
	other := w.createClaim(w.claim("other", "1Gi", func(c *corev1.PersistentVolumeClaim) { *c.Spec.StorageClassName += "-other" }))
	pv := w.createPV(w.pv("pv", "1Gi"))
	w.untilPVPhase(pv.Name, corev1.VolumeAvailable)
	// That it is in the cache, and free, is known when a claim that asks too much of it is told so.
	greedy := w.createClaim(w.claim("greedy", "2Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = pv.Name }))
	w.untilEvent(greedy, "VolumeMismatch", "1Gi")

	g.close()
	t.Cleanup(g.open)
	// While the controller does not see it, somebody else takes the volume for the other claim.
	pv = w.getPV(pv.Name)
	pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: w.ns, Name: "other", UID: other.UID}
	if _, err := w.client.CoreV1().PersistentVolumes().Update(t.Context(), pv, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	late := w.createClaim(w.claim("late", "1Gi"))
	w.untilEvent(late, "ProvisioningFailed", w.class) // it found nothing, after it had tried
	if got := w.getPV(pv.Name); got.Spec.ClaimRef.UID != other.UID {
		t.Errorf("the volume was taken for %v", got.Spec.ClaimRef)
	}
	g.open()
	w.untilClaimPhase("other", corev1.ClaimBound)
	if got := w.getClaim("late"); got.Spec.VolumeName != "" {
		t.Errorf("the late claim got volume %q", got.Spec.VolumeName)
	}
	w.checkBindings()
}

func TestStaleClaimCacheGivesNoSecondVolume(t *testing.T) {
	w := newPVWorld(t)
	g := &gate{resource: "persistentvolumeclaims"}
	config := pvConfig(t)
	config.Wrap(g.wrap)
	runPVController(t, config)
	claim := w.createClaim(w.claim("data", "1Gi"))
	w.untilEvent(claim, "ProvisioningFailed", w.class)

	g.close()
	t.Cleanup(g.open)
	// While the controller does not see it, the claim gets a volume by another one's hand.
	first := w.ns + "-first"
	claim = w.getClaim("data")
	claim.Spec.VolumeName = first
	if _, err := w.client.CoreV1().PersistentVolumeClaims(w.ns).Update(t.Context(), claim, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	watcher, err := w.client.CoreV1().PersistentVolumes().Watch(t.Context(), metav1.ListOptions{
		FieldSelector: "metadata.name=" + w.ns + "-second"})
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Stop()
	// It takes the second volume for the claim, is told of the conflict, looks, and lets go.
	w.createPV(w.pv("second", "1Gi"))
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for taken, free := false, false; !taken || !free; {
		select {
		case event := <-watcher.ResultChan():
			pv, ok := event.Object.(*corev1.PersistentVolume)
			if !ok {
				t.Fatalf("watch: %v", event)
			}
			taken = taken || pv.Spec.ClaimRef != nil
			free = pv.Spec.ClaimRef == nil && pv.Status.Phase == corev1.VolumeAvailable
		case <-deadline.C:
			t.Fatalf("the second volume: taken %t, free %t", taken, free)
		}
	}
	w.createPV(w.pv("first", "1Gi"))
	g.open()
	if got := w.untilClaimPhase("data", corev1.ClaimBound); got.Spec.VolumeName != first {
		t.Errorf("the claim names %s", got.Spec.VolumeName)
	}
	w.checkBindings()
}
