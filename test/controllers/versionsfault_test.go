package controllers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/orlop-io/orlop/configsync/versions"
)

// setAfter changes for how long a version must be unused.
func (w *versionsWorld) setAfter(name, after string) {
	w.t.Helper()
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, versions.AnnotationAfter, after)
	_, err := w.client.CoreV1().ConfigMaps(w.ns).Patch(w.t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
}

// beforeDelete runs fn when the controller asks to delete the object of a name, once, before the API server hears of it.
func beforeDelete(name string, fn func()) func(*rest.Config) {
	once := sync.OnceFunc(fn)
	return func(c *rest.Config) {
		c.Wrap(func(next http.RoundTripper) http.RoundTripper {
			return roundTripper(func(r *http.Request) (*http.Response, error) {
				if r.Method == http.MethodDelete && path.Base(r.URL.Path) == name {
					once()
				}
				return next.RoundTrip(r)
			})
		})
	}
}

// TestVersionsChangedAtTheLastMoment: an object that changes between the last look at it and its deletion is not deleted.
func TestVersionsChangedAtTheLastMoment(t *testing.T) {
	for name, change := range map[string]func(w *versionsWorld) error{
		"another time": func(w *versionsWorld) error {
			w.setAfter("v", "1h")
			return nil
		},
		"no label": func(w *versionsWorld) error {
			_, err := w.client.CoreV1().ConfigMaps(w.ns).Patch(w.t.Context(), "v", types.MergePatchType,
				[]byte(`{"metadata":{"labels":null}}`), metav1.PatchOptions{})
			return err
		},
		"made again": func(w *versionsWorld) error {
			if err := w.client.CoreV1().ConfigMaps(w.ns).Delete(w.t.Context(), "v", metav1.DeleteOptions{}); err != nil {
				return err
			}
			w.version("v", "1h")
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newVersionsWorld(t)
			changed := make(chan error, 1)
			w.version("v", "0s")
			w.run(beforeDelete("v", func() { changed <- change(w) }))
			select {
			case err := <-changed:
				if err != nil {
					t.Fatal(err)
				}
			case <-w.patience().Done():
				t.Fatal("the controller does not delete it")
			}
			w.sweeps()
			if w.get("v") == nil {
				t.Error("it was deleted all the same")
			}
		})
	}
}

// patience is a context that ends when a wait has lasted too long.
func (w *versionsWorld) patience() context.Context {
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	w.t.Cleanup(cancel)
	return ctx
}

// TestVersionsUnreadableReferrers: as long as one kind of what can refer cannot be listed, nothing is collected.
func TestVersionsUnreadableReferrers(t *testing.T) {
	w := newVersionsWorld(t)
	var broken atomic.Bool
	var refused atomic.Int32
	broken.Store(true)
	w.version("v", "0s")
	w.run(func(c *rest.Config) {
		c.Wrap(func(next http.RoundTripper) http.RoundTripper {
			return roundTripper(func(r *http.Request) (*http.Response, error) {
				if broken.Load() && path.Base(r.URL.Path) == "controllerrevisions" && r.URL.Query().Get("watch") == "" {
					refused.Add(1)
					return &http.Response{StatusCode: http.StatusInternalServerError, Request: r, Header: http.Header{},
						Body: io.NopCloser(bytes.NewReader(nil))}, nil
				}
				return next.RoundTrip(r)
			})
		})
	})
	w.until("the controller has tried", func() (string, error) {
		if refused.Load() == 0 {
			return "it has not", nil
		}
		return "", nil
	})
	w.untilMarked("v", true)
	broken.Store(false)
	w.untilGone("v")
}

// TestVersionsManyReferrers: with informers that hear nothing, and a reference on the last of several pages, a version
// stays.
func TestVersionsManyReferrers(t *testing.T) {
	w := newVersionsWorld(t)
	gate := &watchGate{resources: map[string]bool{"serviceaccounts": true}}
	w.secretVersion("wanted", "1h")
	w.version("unused", "1h")
	w.run(func(c *rest.Config) { c.Wrap(gate.wrap) })
	w.untilMarked("unused", true)
	defer gate.shut()()
	const n = 1100
	var group sync.WaitGroup
	errs := make([]error, n)
	work := make(chan int)
	for range 16 {
		group.Go(func() {
			for i := range work {
				account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("a%04d", i)}}
				if i == n-1 {
					account.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "wanted"}}
				}
				_, errs[i] = w.client.CoreV1().ServiceAccounts(w.ns).Create(t.Context(), account, metav1.CreateOptions{})
			}
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:"0s"}}}`, versions.AnnotationAfter)
	if _, err := w.client.CoreV1().Secrets(w.ns).Patch(t.Context(), "wanted", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.setAfter("unused", "0s")
	w.untilGone("unused")
	w.sweeps()
	if _, err := w.client.CoreV1().Secrets(w.ns).Get(t.Context(), "wanted", metav1.GetOptions{}); err != nil {
		t.Errorf("a Secret that a ServiceAccount refers to: %v", err)
	}
}

// TestVersionsChaos: while controllers come and go, two at a time, versions are made and no longer used; none that is in use
// is lost.
func TestVersionsChaos(t *testing.T) {
	w := newVersionsWorld(t)
	const n = 40
	remove := make([]func() error, n)
	for i := range n {
		name := fmt.Sprintf("v%02d", i)
		remove[i] = made(w, w.client.CoreV1().ReplicationControllers(w.ns), &corev1.ReplicationController{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       corev1.ReplicationControllerSpec{Replicas: new(int32), Template: ptrTo(podTemplate(name))}})
		w.version(name, "0s")
	}
	for round := range 8 {
		first, second := w.run(), w.run()
		for i := round * 5; i < round*5+5; i++ {
			if err := remove[i](); err != nil {
				t.Fatal(err)
			}
		}
		w.untilGone(fmt.Sprintf("v%02d", round*5))
		first()
		w.version(fmt.Sprintf("passing%d", round), "0s")
		second()
		for i := round*5 + 5; i < n; i++ {
			if w.get(fmt.Sprintf("v%02d", i)) == nil {
				t.Fatalf("in round %d version %d, which is in use, was lost", round, i)
			}
		}
	}
	w.run()
	for i := range n {
		w.untilGone(fmt.Sprintf("v%02d", i))
	}
}

func ptrTo[T any](v T) *T { return &v }
