package source

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/orlop-io/orlop/configsync/payload"
)

// entry is one object and its watch.
type entry struct {
	source *Source
	key    Key

	// checking lets one Get at a time ask for an immutable object.
	checking sync.Mutex

	mu        sync.Mutex
	refs      map[*Ref]func()
	object    *payload.Object
	immutable bool
	synced    chan struct{} // closed with the first look
	failure   error         // why the API server could not be asked, until it could again
	// stop ends the watch; nil where there is none. Only the watch of this number may change the object.
	stop    context.CancelFunc
	watch   int
	heard   time.Time // when the watch last brought anything
	checked time.Time // when an immutable object was last asked for
}

// start opens the watch. e.mu is held.
func (e *entry) start() {
	ctx, cancel := context.WithCancel(e.source.ctx)
	e.watch++
	e.stop, e.heard = cancel, e.source.now()
	number := e.watch
	reflector := newReflector(e.source.client, e.source.gate, e.key, &store{
		heard:  func() { e.hear(number) },
		failed: func(err error) { e.fail(number, err) },
		set:    func(o *payload.Object, immutable bool) { e.set(number, o, immutable) },
		key:    e.key,
	})
	e.source.wg.Go(func() { reflector.RunWithContext(ctx) })
}

// halt ends the watch, if there is one. e.mu is held.
func (e *entry) halt() {
	if e.stop != nil {
		e.stop()
		e.stop = nil
	}
	e.watch++
}

func (e *entry) hear(watch int) {
	e.mu.Lock()
	failure := e.failure
	if watch == e.watch {
		e.heard, e.failure = e.source.now(), nil
	}
	e.mu.Unlock()
	e.source.answered(failure)
}

func (e *entry) fail(watch int, err error) {
	e.mu.Lock()
	var notify []func()
	if watch == e.watch {
		if denied(err) && !denied(e.failure) {
			notify = slices.Collect(maps.Values(e.refs))
		}
		e.failure = err
	}
	e.mu.Unlock()
	for _, call := range notify {
		call()
	}
	e.source.answered(err)
}

// answered tells of an outage where the API server gave no answer, now or the last time.
func (s *Source) answered(err error) {
	if s.outage != nil && unanswered(err) {
		s.outage()
	}
}

// unanswered reports whether there was no answer, or one that says that there is none to be had now.
func unanswered(err error) bool {
	return err != nil && !errors.Is(err, context.Canceled) && !denied(err) && !apierrors.IsNotFound(err) && !apierrors.IsResourceExpired(err) &&
		!apierrors.IsGone(err)
}

// denied reports whether the answer was no for a reason that somebody has to mend, and not that there was none.
func denied(err error) bool { return apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) }

// set takes over what the watch brought and tells those who refer to it, if it is another object or content.
func (e *entry) set(watch int, o *payload.Object, immutable bool) {
	e.mu.Lock()
	if watch != e.watch || older(o, e.object) {
		e.mu.Unlock()
		return
	}
	o.Annotations = only(e.source.annotations, o.Annotations)
	e.heard, e.failure = e.source.now(), nil
	changed := e.object == nil || e.object.Version != o.Version || e.object.Found != o.Found
	if e.object == nil {
		close(e.synced)
	}
	e.object, e.immutable = o, immutable
	if immutable {
		e.checked = e.source.now()
		e.halt()
	}
	var notify []func()
	if changed {
		notify = slices.Collect(maps.Values(e.refs))
	}
	e.mu.Unlock()
	for _, call := range notify {
		call()
	}
}

// older reports whether a list served from a cache that lags would take the object back.
func older(o, than *payload.Object) bool {
	if than == nil || !o.Found || !than.Found || o.UID != than.UID {
		return false
	}
	order, err := resourceversion.CompareResourceVersion(o.ResourceVersion, than.ResourceVersion)
	return err == nil && order < 0
}

// revive opens the watch again where it seems dead, and asks whether an immutable object is still the same one.
func (e *entry) revive(ctx context.Context) {
	e.mu.Lock()
	if e.source.ctx.Err() != nil {
		e.mu.Unlock()
		return
	}
	now := e.source.now()
	switch {
	case e.stop != nil && e.object != nil && now.Sub(e.heard) > stall:
		e.halt()
		e.start()
	case e.stop == nil && e.immutable && now.Sub(e.checked) > recheck:
		e.mu.Unlock()
		e.check(ctx)
		return
	}
	e.mu.Unlock()
}

// check asks for an immutable object and watches again where it is not the same one any more. It waits for what the
// watch finds until the context ends, so that its caller does not use what is known to be outdated.
func (e *entry) check(ctx context.Context) {
	e.checking.Lock()
	defer e.checking.Unlock()
	e.mu.Lock()
	object, fresh := e.object, e.source.now().Sub(e.checked) <= recheck
	e.mu.Unlock()
	if fresh {
		return
	}
	uid, err := e.uid(ctx)
	if err != nil && !apierrors.IsNotFound(err) {
		return // the last good state stays, and the next Get asks again
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.checked = e.source.now()
	if e.stop != nil || !e.immutable || e.object != object || (err == nil && uid == object.UID) || len(e.refs) == 0 {
		return
	}
	e.immutable, e.object, e.synced = false, nil, make(chan struct{})
	e.start()
}

func (e *entry) uid(ctx context.Context) (string, error) {
	var meta *metav1.ObjectMeta
	core := e.source.client.CoreV1()
	if e.key.Kind == payload.Secret {
		o, err := core.Secrets(e.key.Namespace).Get(ctx, e.key.Name, metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		meta = &o.ObjectMeta
	} else {
		o, err := core.ConfigMaps(e.key.Namespace).Get(ctx, e.key.Name, metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		meta = &o.ObjectMeta
	}
	return string(meta.UID), nil
}

// object makes a payload's object of an API object, and reports whether it is immutable.
func object(key Key, from any) (_ *payload.Object, immutable bool) {
	o := &payload.Object{Found: true, Version: payload.Version{Kind: key.Kind, Namespace: key.Namespace, Name: key.Name}}
	var meta *metav1.ObjectMeta
	var frozen *bool
	switch from := from.(type) {
	case *corev1.ConfigMap:
		meta, frozen = &from.ObjectMeta, from.Immutable
		o.Data = make(map[string]payload.Content, len(from.Data))
		for k, v := range from.Data {
			o.Data[k] = payload.Content(v)
		}
		o.BinaryData = contents(from.BinaryData)
	case *corev1.Secret:
		meta, frozen = &from.ObjectMeta, from.Immutable
		o.Data = contents(from.Data)
	default:
		return absent(key), false
	}
	o.UID, o.ResourceVersion, o.Immutable = string(meta.UID), meta.ResourceVersion, frozen != nil && *frozen
	o.Annotations = meta.Annotations
	return o, o.Immutable
}

// only returns the annotations that are named, so that the others (such as a whole former manifest) are not kept.
func only(names []string, annotations map[string]string) map[string]string {
	var kept map[string]string
	for _, name := range names {
		if value, ok := annotations[name]; ok {
			if kept == nil {
				kept = map[string]string{}
			}
			kept[name] = value
		}
	}
	return kept
}

func contents(from map[string][]byte) map[string]payload.Content {
	to := make(map[string]payload.Content, len(from))
	for k, v := range from {
		to[k] = v
	}
	return to
}

func absent(key Key) *payload.Object {
	return &payload.Object{Version: payload.Version{Kind: key.Kind, Namespace: key.Namespace, Name: key.Name}}
}
