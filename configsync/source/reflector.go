package source

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/orlop-io/orlop/configsync/payload"
)

// backoff spaces the attempts of a watch that fails: soon at first, because the Node authorizer learns of a pod a
// moment later than its kubelet, and at the most about a second apart, so that all is current again a second after
// the API server came back.
func backoff() *wait.Backoff {
	return &wait.Backoff{Duration: 50 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 20, Cap: 700 * time.Millisecond}
}

// newReflector returns what lists and watches the object into the store.
func newReflector(client kubernetes.Interface, g *gate, key Key, s *store) *cache.Reflector {
	core := client.CoreV1()
	if key.Kind == payload.Secret {
		api := core.Secrets(key.Namespace)
		return reflect(client, g, key.String(), metav1.ObjectNameField+"="+fields.EscapeValue(key.Name), &corev1.Secret{}, s, s.answered,
			func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return api.List(ctx, o) }, api.Watch)
	}
	api := core.ConfigMaps(key.Namespace)
	return reflect(client, g, key.String(), metav1.ObjectNameField+"="+fields.EscapeValue(key.Name), &corev1.ConfigMap{}, s, s.answered,
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return api.List(ctx, o) }, api.Watch)
}

// reflect returns a reflector of what the field selector selects.
func reflect(client kubernetes.Interface, g *gate, name, selector string, kind runtime.Object, s cache.ReflectorStore,
	answered func(error),
	list func(context.Context, metav1.ListOptions) (runtime.Object, error),
	open func(context.Context, metav1.ListOptions) (watch.Interface, error)) *cache.Reflector {
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (l runtime.Object, err error) {
			o.FieldSelector = selector
			end, err := g.do(ctx, func(ctx context.Context) (err error) { l, err = list(ctx, o); return err })
			answered(err)
			if err != nil {
				return nil, err
			}
			end()
			return l, nil
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (w watch.Interface, err error) {
			o.FieldSelector = selector
			end, err := g.do(ctx, func(ctx context.Context) (err error) { w, err = open(ctx, o); return err })
			answered(err)
			if err != nil {
				return nil, err
			}
			return &endedWatch{w, end}, nil
		},
	}
	return cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(lw, client), kind, s,
		cache.ReflectorOptions{Name: name, Backoff: backoff()})
}

// store is where a reflector of one object puts it.
type store struct {
	key    Key
	heard  func()
	failed func(error)
	set    func(o *payload.Object, immutable bool)
}

var (
	_ cache.ReflectorStore         = (*store)(nil)
	_ cache.ReflectorBookmarkStore = (*store)(nil)
)

// answered is called with the outcome of every list and of every opening of a watch.
func (s *store) answered(err error) {
	if err != nil {
		s.failed(err)
		return
	}
	s.heard()
}

// Add is called when the object appears.
func (s *store) Add(o any) error {
	if !s.mine(o) {
		return nil
	}
	s.set(object(s.key, o))
	return nil
}

// Update is called when the object changes.
func (s *store) Update(o any) error { return s.Add(o) }

// Delete is called when the object disappears.
func (s *store) Delete(o any) error {
	if s.mine(o) {
		s.set(absent(s.key), false)
	}
	return nil
}

// Replace is called with what a list holds.
func (s *store) Replace(list []any, _ string) error {
	for _, o := range list {
		if s.mine(o) {
			return s.Add(o)
		}
	}
	s.set(absent(s.key), false)
	return nil
}

// Resync does nothing: there is no resync period.
func (s *store) Resync() error { return nil }

// Bookmark is called when the watch brings a sign of life.
func (s *store) Bookmark(string) error {
	s.heard()
	return nil
}

// mine guards against a server that ignores the field selector.
func (s *store) mine(o any) bool {
	m, ok := o.(metav1.Object)
	return ok && m.GetName() == s.key.Name && m.GetNamespace() == s.key.Namespace
}
