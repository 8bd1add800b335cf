package rollout

import (
	"context"
	"errors"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/orlop-io/orlop/configsync/payload"
	"github.com/orlop-io/orlop/configsync/source"
)

const (
	// firstLook is how long the API server may refuse an object before that is believed: roles come into force one by one.
	firstLook = 3 * time.Second
	// sweep is how often refused objects are asked for again, watches that bring nothing opened again, and immutable
	// objects, which have no watch, looked at.
	sweep = time.Minute
)

// objects are those that workloads follow, each read once however many do. It may be used by several goroutines.
type objects struct {
	ctx     context.Context // ends the waiting for first looks
	source  *source.Source
	hasher  *hasher
	changed func(identity)
	wg      sync.WaitGroup

	mu      sync.Mutex
	entries map[source.Key]*object
	follows map[identity]map[source.Key]demand
}

// object is one that somebody follows.
type object struct {
	users map[identity]bool
	// ref is nil where the API server has refused the object, for the reason in denied.
	ref    *source.Ref
	denied error
	// looking: what is known may be outdated, and the API server is being asked.
	looking bool
	// doubted: the API server has refused it, and may mean it.
	doubted bool
	// sum is the hash of the version.
	sum     string
	version payload.Version
}

func newObjects(ctx context.Context, src *source.Source, h *hasher, changed func(identity)) *objects {
	return &objects{ctx: ctx, source: src, hasher: h, changed: changed, entries: map[source.Key]*object{},
		follows: map[identity]map[source.Key]demand{}}
}

// follow has a workload follow exactly these objects. changed is called for the workload whenever there is news of one.
func (o *objects) follow(id identity, wanted map[source.Key]demand) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for key := range o.follows[id] {
		if _, ok := wanted[key]; ok {
			continue
		}
		e := o.entries[key]
		if delete(e.users, id); len(e.users) == 0 {
			if e.ref != nil {
				e.ref.Release()
			}
			delete(o.entries, key)
		}
	}
	for key := range wanted {
		e := o.entries[key]
		if e == nil {
			e = &object{users: map[identity]bool{}}
			o.entries[key] = e
			o.acquire(key, e)
		} else if !e.users[id] && e.ref != nil {
			// An immutable one is not watched. The pods of whoever is new were made with what is there now, and that is to
			// be the baseline.
			if last := e.ref.Last(); last != nil && last.Immutable {
				former := e.ref
				o.acquire(key, e)
				former.Release()
			}
		}
		e.users[id] = true
	}
	if len(wanted) == 0 {
		delete(o.follows, id)
		return
	}
	o.follows[id] = wanted
}

// acquire begins to read an object. o.mu is held.
func (o *objects) acquire(key source.Key, e *object) {
	ref := o.source.Acquire(key, func() { o.news(key) })
	e.ref, e.looking = ref, true
	o.wg.Go(func() { o.first(key, e, ref) })
}

// first waits for the first look at an object, and gives it up where the API server refuses it: the source would go on
// asking more than once a second.
func (o *objects) first(key source.Key, e *object, ref *source.Ref) {
	for o.ctx.Err() == nil && o.current(e, ref) {
		ctx, cancel := context.WithTimeout(o.ctx, firstLook)
		_, err := ref.Get(ctx)
		cancel()
		if err == nil {
			o.looked(key, e, ref)
			return
		}
		if errors.Is(err, source.ErrClosed) {
			return
		}
		if refused(err) {
			o.deny(key, e, ref, err)
			return
		}
	}
}

// refused reports whether the API server said no, which stays so until somebody changes a role.
func refused(err error) bool { return apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) }

// current reports whether the reference is still the one by which the object is read.
func (o *objects) current(e *object, ref *source.Ref) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return e.ref == ref && len(e.users) > 0
}

func (o *objects) looked(key source.Key, e *object, ref *source.Ref) {
	o.mu.Lock()
	if e.ref == ref {
		e.looking = false
	}
	o.mu.Unlock()
	o.news(key)
}

// doubt gives an object up that the API server goes on to refuse. One that has just started refuses everything.
func (o *objects) doubt(key source.Key, e *object, ref *source.Ref) {
	timer := time.NewTimer(firstLook)
	defer timer.Stop()
	select {
	case <-o.ctx.Done():
		return
	case <-timer.C:
	}
	o.mu.Lock()
	e.doubted = false
	o.mu.Unlock()
	if err := ref.Failure(); refused(err) {
		o.deny(key, e, ref, err)
	}
}

func (o *objects) deny(key source.Key, e *object, ref *source.Ref, err error) {
	o.mu.Lock()
	if e.ref == ref && len(e.users) > 0 {
		e.ref, e.denied = nil, err
		ref.Release()
	}
	o.mu.Unlock()
	o.news(key)
}

// news tells those who follow an object that there may be something new.
func (o *objects) news(key source.Key) {
	o.mu.Lock()
	var users []identity
	if e := o.entries[key]; e != nil {
		for id := range e.users {
			users = append(users, id)
		}
	}
	o.mu.Unlock()
	for _, id := range users {
		o.changed(id)
	}
}

// look returns what is known of an object that somebody follows. It never asks the API server.
func (o *objects) look(key source.Key) sighting {
	o.mu.Lock()
	defer o.mu.Unlock()
	e := o.entries[key]
	if e == nil {
		return sighting{}
	}
	if e.ref == nil {
		return sighting{denied: e.denied}
	}
	last := e.ref.Last()
	if last == nil || e.looking {
		return sighting{denied: e.denied} // Still denied while it is asked for again.
	}
	if refused(e.ref.Failure()) && !e.doubted {
		e.doubted = true
		o.wg.Go(func() { o.doubt(key, e, e.ref) })
	}
	if e.sum == "" || e.version != last.Version || !last.Found {
		e.sum, e.version = o.hasher.object(last), last.Version
	}
	e.denied = nil
	return sighting{sum: e.sum, ignored: ignored(last), tagged: tagged(last)}
}

// run looks after what watches do not bring, until the context ends.
func (o *objects) run(ctx context.Context) {
	ticker := time.NewTicker(sweep)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		o.sweep(ctx)
	}
}

func (o *objects) sweep(ctx context.Context) {
	for key, ref := range o.refs() {
		if ctx.Err() != nil {
			return
		}
		if ref == nil {
			o.retry(key)
			continue
		}
		look, cancel := context.WithTimeout(ctx, firstLook)
		// The last good state stays where there is an error, and the next round asks again.
		_, _ = ref.Get(look)
		cancel()
	}
}

func (o *objects) refs() map[source.Key]*source.Ref {
	o.mu.Lock()
	defer o.mu.Unlock()
	refs := make(map[source.Key]*source.Ref, len(o.entries))
	for key, e := range o.entries {
		refs[key] = e.ref
	}
	return refs
}

// retry asks for an object that was refused.
func (o *objects) retry(key source.Key) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if e := o.entries[key]; e != nil && e.ref == nil {
		o.acquire(key, e)
	}
}

// count returns how many objects are followed.
func (o *objects) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.entries)
}

// wait waits until nothing runs any more. The context that newObjects was given must have ended.
func (o *objects) wait() { o.wg.Wait() }
