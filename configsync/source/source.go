package source

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/orlop-io/orlop/configsync/payload"
)

const (
	// recheck is for how long an immutable object is believed to be the same without asking.
	recheck = 20 * time.Second
	// stall is for how long a watch may bring nothing. The API server sends a bookmark about once a minute.
	stall = 150 * time.Second
)

// ErrClosed is returned where the Source is closed.
var ErrClosed = errors.New("configuration source: closed")

// Key names an object: a ConfigMap or a Secret.
type Key struct {
	Kind            payload.Kind
	Namespace, Name string
}

// String returns the key as messages show it.
func (k Key) String() string { return fmt.Sprintf("%s %s/%s", k.Kind, k.Namespace, k.Name) }

// Source holds the objects that are referred to. Its methods may be called from several goroutines.
type Source struct {
	client kubernetes.Interface
	gate   *gate
	// annotations are the names of those that are kept of each object.
	annotations []string
	now         func() time.Time

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	entries map[Key]*entry
	closed  bool
	outage  func()
}

// OnOutage sets what is called when the API server does not answer, and when it answers again, from the goroutine of a
// watch: it must return at once. It is set before the first Acquire.
func (s *Source) OnOutage(call func()) { s.outage = call }

// New returns a Source that reads with the client, and keeps of an object's annotations those that are named. Nothing is
// read before the first Acquire.
func New(client kubernetes.Interface, annotations ...string) *Source {
	ctx, cancel := context.WithCancel(context.Background())
	s := &Source{client: client, annotations: annotations, now: time.Now, ctx: ctx, cancel: cancel, entries: map[Key]*entry{}}
	s.gate = &gate{client: client, run: func(f func(context.Context)) { s.wg.Go(func() { f(ctx) }) }}
	return s
}

// Close ends all watches and waits for them. References can still be released, and return what they last knew.
func (s *Source) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.wg.Wait()
}

// Acquire refers to an object and opens its watch, unless somebody did already. notify is called after every change of
// the object's content or existence, and when it may no longer be read (see Failure), from the watch's goroutine: it must
// return at once. It is not called after Release has returned, but may run at that moment.
func (s *Source) Acquire(key Key, notify func()) *Ref {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[key]
	if e == nil {
		e = &entry{source: s, key: key, refs: map[*Ref]func(){}, synced: make(chan struct{})}
		s.entries[key] = e
		if !s.closed {
			e.mu.Lock()
			e.start()
			e.mu.Unlock()
		}
	}
	r := &Ref{entry: e}
	e.mu.Lock()
	e.refs[r] = notify
	// Whoever is new wants to know of an immutable object that was made again.
	e.checked = time.Time{}
	e.mu.Unlock()
	return r
}

// Watches returns how many watches are open.
func (s *Source) Watches() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, e := range s.entries {
		e.mu.Lock()
		if e.stop != nil {
			n++
		}
		e.mu.Unlock()
	}
	return n
}

// Ref is one reference to an object. Its methods may be called from several goroutines.
type Ref struct {
	entry *entry
}

// Key returns the object's name.
func (r *Ref) Key() Key { return r.entry.key }

// Get returns the object as it was last seen, Found or not, and must not be changed. It waits for the first look until
// the context ends; its error then says why there was none. A later failure to reach the API server is not an error:
// the last good state stays.
func (r *Ref) Get(ctx context.Context) (*payload.Object, error) {
	e := r.entry
	e.revive(ctx)
	for {
		e.mu.Lock()
		object, synced := e.object, e.synced
		e.mu.Unlock()
		if object != nil {
			return object, nil
		}
		select {
		case <-synced:
		case <-e.source.ctx.Done():
			return nil, ErrClosed
		case <-ctx.Done():
			e.mu.Lock()
			failure := e.failure
			e.mu.Unlock()
			if failure == nil {
				failure = ctx.Err()
			}
			return nil, fmt.Errorf("%s has not been read yet: %w", e.key, failure)
		}
	}
}

// Last returns the object as it was last seen, and nil before the first look. It never asks the API server.
func (r *Ref) Last() *payload.Object {
	r.entry.mu.Lock()
	defer r.entry.mu.Unlock()
	return r.entry.object
}

// Failure says why the API server's last answer was no, nil where it was yes: while it is not nil, the object is not
// followed.
func (r *Ref) Failure() error {
	r.entry.mu.Lock()
	defer r.entry.mu.Unlock()
	return r.entry.failure
}

// Release gives the reference up; the last one ends the watch. Releasing twice does nothing.
func (r *Ref) Release() {
	s := r.entry.source
	s.mu.Lock()
	defer s.mu.Unlock()
	r.entry.mu.Lock()
	defer r.entry.mu.Unlock()
	delete(r.entry.refs, r)
	if len(r.entry.refs) > 0 || s.entries[r.entry.key] != r.entry {
		return
	}
	delete(s.entries, r.entry.key)
	r.entry.halt()
}
