package pvcontroller

import (
	"fmt"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/tools/cache"
)

// latest is an informer's cache with this controller's own writes laid over it, for as long as the informer has not
// caught up with them. Without it, the event of a bind's first write would find the other three not done yet in the
// cache, and do them again only to be told of a conflict.
//
// It holds objects that were read or updated, never created, by this controller: what the informer does not know (any
// more) does not exist. It is safe for concurrent use. The objects belong to the cache and must not be changed.
type latest[T metav1.Object] struct {
	indexer cache.Indexer

	mu    sync.Mutex
	newer map[string]T
}

func newLatest[T metav1.Object](indexer cache.Indexer) *latest[T] {
	return &latest[T]{indexer: indexer, newer: map[string]T{}}
}

// get returns the newest known version of an object, and whether there is one.
func (l *latest[T]) get(key string) (T, bool, error) {
	var zero T
	obj, found, err := l.indexer.GetByKey(key)
	if err != nil {
		return zero, false, err
	}
	if !found {
		l.forget(key)
		return zero, false, nil
	}
	cached, ok := obj.(T)
	if !ok {
		return zero, false, fmt.Errorf("cache of %T holds a %T under %q", zero, obj, key)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.overlay(key, cached), true, nil
}

// byIndex returns the newest known version of the objects that the informer's cache has under an index. The index
// reflects the cached version: callers check what they looked for.
func (l *latest[T]) byIndex(index, value string) ([]T, error) {
	objs, err := l.indexer.ByIndex(index, value)
	if err != nil {
		return nil, err
	}
	out := make([]T, 0, len(objs))
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, obj := range objs {
		cached, ok := obj.(T)
		if !ok {
			return nil, fmt.Errorf("index %s holds a %T under %q", index, obj, value)
		}
		out = append(out, l.overlay(keyOf(cached), cached))
	}
	return out, nil
}

// overlay returns the newer one of what the informer cached and what was stored, and drops the latter once it is
// not. l.mu must be held.
func (l *latest[T]) overlay(key string, cached T) T {
	stored, ok := l.newer[key]
	if !ok {
		return cached
	}
	if isNewer(stored, cached) {
		return stored
	}
	delete(l.newer, key)
	return cached
}

// store keeps an object that the API server returned.
func (l *latest[T]) store(obj T) {
	key := keyOf(obj)
	l.mu.Lock()
	defer l.mu.Unlock()
	if old, ok := l.newer[key]; ok && !isNewer(obj, old) {
		return
	}
	l.newer[key] = obj
}

func (l *latest[T]) forget(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.newer, key)
}

func keyOf(obj metav1.Object) string {
	return cache.MetaObjectToName(obj).String()
}

// isNewer compares resource versions, which are ordered since Kubernetes 1.35. Versions that cannot be compared come
// from something that is not Kubernetes; then the informer is believed.
func isNewer(a, b metav1.Object) bool {
	order, err := resourceversion.CompareResourceVersion(a.GetResourceVersion(), b.GetResourceVersion())
	return err == nil && order > 0
}
