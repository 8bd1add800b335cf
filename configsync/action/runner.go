package action

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/client-go/tools/record"
)

const (
	// DefaultBackoff is the pause before a failed action is tried for the second time. It doubles each time.
	DefaultBackoff = time.Second
	maxBackoff     = 30 * time.Second
	// DefaultConcurrency is how many actions run at the same time on a node.
	DefaultConcurrency = 16
	// patience is how many times the debounce a change waits at the most while others follow it.
	patience = 10
)

// Options of a Runner.
type Options struct {
	Runtime Runtime
	// Recorder takes the events; nil for none.
	Recorder record.EventRecorder
	// Log takes errors that no caller is told of; nil for none.
	Log func(error)
	// HostIP is the node's address, for requests to pods in the node's own network.
	HostIP string
	// Backoff is DefaultBackoff when zero, Concurrency DefaultConcurrency.
	Backoff     time.Duration
	Concurrency int
}

// Pod is the pod whose configuration changed.
type Pod struct {
	Namespace, Name, UID string
	// Containers are the names of the pod's containers, each with whether the kubelet starts it again however it ended.
	// It is nil where that is not known; no container is restarted then.
	Containers map[string]bool
}

// Volume is a volume that changed.
type Volume struct {
	Name string
	// Dirs are the directories on the host in which the volume, or parts of it that are mounted by subPath, are.
	Dirs []string
}

// Change is one change of one volume, after it has become visible.
type Change struct {
	Pod    Pod
	Volume Volume
	Spec   *Spec
	// Done, when not nil, is called once when the change was acted on or the action was given up; and never when the
	// Runner was closed or forgot the pod before. It is called from a goroutine of the Runner.
	Done func()
}

// Runner acts on the changes of a node's pods. Its methods may be called from several goroutines.
type Runner struct {
	o      Options
	http   *client
	events *reporter
	slots  chan struct{}

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	entries map[entryKey]*entry
}

// entryKey makes one action of several changes: those of one pod that ask for the same.
type entryKey struct{ pod, spec string }

// entry is an action that waits or runs. It is there as long as its goroutine.
type entry struct {
	cancel context.CancelFunc
	wake   chan struct{} // has room for one

	// The following is what was reported since the action ran last. The Runner's mu is held.
	pod        Pod
	spec       *Spec
	volumes    map[string]Volume
	done       []func()
	first, due time.Time
}

// NewRunner returns a Runner without work.
func NewRunner(o Options) *Runner {
	if o.Backoff == 0 {
		o.Backoff = DefaultBackoff
	}
	if o.Concurrency == 0 {
		o.Concurrency = DefaultConcurrency
	}
	if o.Log == nil {
		o.Log = func(error) {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Runner{o: o, http: newClient(), events: newReporter(o.Recorder), slots: make(chan struct{}, o.Concurrency),
		ctx: ctx, cancel: cancel, entries: map[entryKey]*entry{}}
}

// Close cancels all actions and waits for their end.
func (r *Runner) Close() {
	r.mu.Lock()
	r.cancel()
	r.mu.Unlock()
	r.wg.Wait()
}

// Changed has a change acted on. It returns at once.
func (r *Runner) Changed(c Change) {
	now := time.Now()
	key := entryKey{c.Pod.UID, c.Spec.String()}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil {
		return
	}
	e := r.entries[key]
	if e == nil {
		ctx, cancel := context.WithCancel(r.ctx)
		e = &entry{cancel: cancel, wake: make(chan struct{}, 1), volumes: map[string]Volume{}}
		r.entries[key] = e
		r.wg.Go(func() { r.serve(ctx, key, e) })
	}
	if len(e.volumes) == 0 {
		e.first = now
	}
	e.pod, e.spec, e.volumes[c.Volume.Name] = c.Pod, c.Spec, c.Volume
	if c.Done != nil {
		e.done = append(e.done, c.Done)
	}
	e.due = now.Add(c.Spec.Debounce)
	if latest := e.first.Add(patience * c.Spec.Debounce); e.due.After(latest) {
		e.due = latest
	}
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// Forget cancels what is to be done for a pod, which is gone or on its way.
func (r *Runner) Forget(podUID string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, e := range r.entries {
		if key.pod == podUID {
			e.cancel()
			delete(r.entries, key)
		}
	}
}

// serve runs the action of an entry until nothing is left to be done.
func (r *Runner) serve(ctx context.Context, key entryKey, e *entry) {
	defer e.cancel()
	for {
		b := &batch{}
		if !r.run(ctx, e, b) {
			return
		}
		for _, done := range b.done {
			done()
		}
		if r.leave(key, e) {
			return
		}
	}
}

// run acts on what was reported, and on what is reported until that has succeeded or is given up. It returns false when
// the action is cancelled.
func (r *Runner) run(ctx context.Context, e *entry, b *batch) bool {
	tries, failures := 0, 0
	for {
		if !r.settle(ctx, e) {
			return false
		}
		if r.take(e, b) {
			tries, failures = 0, 0
		}
		err := r.try(ctx, b)
		if ctx.Err() != nil {
			return false
		}
		if err == nil {
			return true
		}
		tries++
		if !errors.Is(err, ErrUnavailable) {
			failures++
		}
		if final := (permanentError{}); errors.As(err, &final) || failures > b.spec.Retries {
			r.events.gaveUp(b, tries, err)
			return true
		}
		if tries == 1 {
			r.events.failed(b, err)
		}
		if !e.pause(ctx, min(r.o.Backoff<<min(tries-1, 10), maxBackoff)) {
			return false
		}
	}
}

// settle waits until nothing has changed for as long as the action wants. It returns false when the action is cancelled.
func (r *Runner) settle(ctx context.Context, e *entry) bool {
	for {
		r.mu.Lock()
		var wait time.Duration
		if len(e.volumes) > 0 {
			wait = time.Until(e.due)
		}
		r.mu.Unlock()
		if wait <= 0 {
			return ctx.Err() == nil
		}
		if !e.pause(ctx, wait) {
			return false
		}
	}
}

// pause waits for the time or for the next change. It returns false when the action is cancelled.
func (e *entry) pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-e.wake:
		return true
	case <-ctx.Done():
		return false
	}
}

// take adds what changed since to the batch, and reports whether that was anything.
func (r *Runner) take(e *entry, b *batch) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(e.volumes) == 0 {
		return false
	}
	b.pod, b.spec, b.found = e.pod, e.spec, false
	if b.volumes == nil {
		b.volumes = map[string]Volume{}
	}
	maps.Copy(b.volumes, e.volumes)
	b.done = append(b.done, e.done...)
	clear(e.volumes)
	e.done = nil
	select {
	case <-e.wake: // it told of what was just taken
	default:
	}
	return true
}

// leave ends an entry for which nothing is left to be done.
func (r *Runner) leave(key entryKey, e *entry) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(e.volumes) > 0 {
		return false
	}
	if r.entries[key] == e {
		delete(r.entries, key)
	}
	return true
}

// try performs the action once, as soon as not too many others run.
func (r *Runner) try(ctx context.Context, b *batch) error {
	select {
	case r.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-r.slots }()
	did, err := r.perform(ctx, b)
	if len(did) > 0 && ctx.Err() == nil {
		r.events.applied(b, did)
	}
	return err
}

// changed names the volumes.
func (b *batch) changed() []string { return slices.Sorted(maps.Keys(b.volumes)) }
