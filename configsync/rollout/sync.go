package rollout

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const (
	// stuckAfter is how long a rollout keeps its place at the most. A Deployment that does not get on gives it up at its
	// own progress deadline.
	stuckAfter = 30 * time.Minute
	// coalesce is how many windows a workload that is edited all the time waits.
	coalesce = 10
)

// sync brings one workload up to date with what it uses. An error means that it should be tried again.
func (c *Controller) sync(ctx context.Context, id identity) error {
	w, err := c.find(id)
	if err != nil {
		return err
	}
	if w == nil {
		c.forget(id)
		return nil
	}
	c.account(w)
	c.settle(id, w)
	s, err := parse(id.namespace, w.annotation, c.config.Reloader)
	by := ""
	if err == nil && s.followed() {
		by, err = c.paused(w, &s)
	}
	if invalid := (*InvalidError)(nil); errors.As(err, &invalid) {
		// What is wanted is not known: nothing is rolled, and nothing forgotten.
		c.drop(id)
		c.warn(w, ReasonInvalid, "No rollouts: %v", err)
		return nil
	}
	if err != nil {
		return err
	}
	c.announced.over(w.UID, ReasonInvalid)
	if !s.followed() {
		c.forget(id)
		return c.optOut(ctx, w)
	}
	wanted := s.follow(id.namespace, w.references)
	c.objects.follow(id, wanted)
	old, _ := readBaseline(w)
	v, ready := judge(c.hasher.id, &old, wanted, c.objects.look)
	if !ready {
		return nil // The first look at an object brings the workload here again.
	}
	c.report(w, &v)
	if !v.keep.equal(&old) {
		return c.record(ctx, w, &v.keep)
	}
	if len(v.changed) == 0 {
		c.drop(id)
		return nil
	}
	if wait := c.window(id, &s, c.hasher.baseline(v.roll.Objects)); wait > 0 {
		c.queue.AddAfter(id, wait)
		return nil
	}
	return c.change(ctx, w, by, &v)
}

// change rolls the workload once nothing speaks against it any more.
func (c *Controller) change(ctx context.Context, w *workload, pausedBy string, v *verdict) error {
	id := w.identity()
	if pausedBy != "" {
		c.slots.leave(id)
		c.tell(w, ReasonPaused, "%s changed; no rollout while it is paused by %s", listing(v.changed), pausedBy)
		return nil
	}
	c.announced.over(w.UID, ReasonPaused)
	if !w.manual && !c.slots.take(id, c.now()) {
		c.tell(w, ReasonWaiting, "%s changed; waiting, because %d rollouts run, which is the most (--max-rollouts)",
			listing(v.changed), c.config.MaxRollouts)
		return nil
	}
	c.announced.over(w.UID, ReasonWaiting)
	return c.roll(ctx, w, v)
}

// window notes a change and returns how much longer to wait for another one; nothing once it has waited long enough.
func (c *Controller) window(id identity, s *settings, hash string) time.Duration {
	window, now := s.window, c.now()
	if window < 0 {
		window = c.config.Window
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.pending[id]
	if p == nil {
		p = &pending{first: now}
		c.pending[id] = p
	}
	if p.hash != hash {
		p.hash, p.last = hash, now
	}
	end := p.last.Add(window)
	if latest := p.first.Add(coalesce * window); latest.Before(end) {
		end = latest
	}
	p.due = p.due || !end.After(now)
	if p.due {
		return 0
	}
	return end.Sub(now)
}

// paused says by what the workload is paused; empty where it is not.
func (c *Controller) paused(w *workload, s *settings) (by string, _ error) {
	switch {
	case c.config.Paused:
		return "--pause-rollouts", nil
	case s.paused:
		return "its annotation " + AnnotationPaused, nil
	case w.held:
		return "its spec.paused", nil
	}
	obj, ok, err := c.namespaces.GetByKey(w.Namespace)
	namespace, is := obj.(*corev1.Namespace)
	if err != nil || !ok || !is {
		return "", err // A namespace that is not in the cache yet has just been made.
	}
	paused, _, err := boolean(func(name string) (string, bool) {
		v, ok := namespace.Annotations[name]
		return v, ok
	}, AnnotationPaused)
	if err != nil {
		return "", fmt.Errorf("namespace %s: %w", w.Namespace, err)
	}
	if paused {
		return "the annotation " + AnnotationPaused + " of its namespace", nil
	}
	return "", nil
}

// report tells what the workload cannot follow.
func (c *Controller) report(w *workload, v *verdict) {
	if len(v.denied) > 0 {
		c.warn(w, ReasonUnreadable, "Changes of %s are not seen: the rollout controller may not read it; grant it get, "+
			"list and watch (ClusterRole orlop-storage-rollouts), or exclude it with %s", listing(v.denied), AnnotationIgnore)
	} else {
		c.announced.over(w.UID, ReasonUnreadable)
	}
	if len(v.gone) > 0 {
		c.warn(w, ReasonGone, "%s is gone: pods stay as they are, and are rolled when it comes back with other content",
			listing(v.gone))
	} else {
		c.announced.over(w.UID, ReasonGone)
	}
}

// account has a roll that is on record, and that this controller does not know to have made, take a place: one of a controller
// before it, or one of which it never had the answer. A later rollout of somebody else's takes none.
func (c *Controller) account(w *workload) {
	b, ok := readBaseline(w)
	if !ok || b.Rolled == nil {
		return
	}
	id, age := w.identity(), c.now().Sub(b.Rolled.at())
	c.mu.Lock()
	known := c.accounted[id] >= b.Rolled.Generation
	c.accounted[id] = max(c.accounted[id], b.Rolled.Generation)
	c.mu.Unlock()
	if known || !w.running() || age >= stuckAfter {
		return
	}
	c.slots.hold(id, slot{w.UID, b.Rolled.Generation, b.Rolled.at()})
	c.queue.AddAfter(id, stuckAfter-age)
}

// settle gives the place of a rollout back that has ended, or does not get on.
func (c *Controller) settle(id identity, w *workload) {
	h, ok := c.slots.get(id)
	if !ok || h.generation == 0 {
		return
	}
	ended := w.Generation >= h.generation && !w.running()
	if ended || w.UID != h.uid || c.now().Sub(h.since) >= stuckAfter {
		c.slots.release(id)
	}
}

// find returns the workload, nil where it is gone, or going, or has none of the annotations.
func (c *Controller) find(id identity) (*workload, error) {
	obj, ok, err := c.stores[id.kind].GetByKey(id.namespace + "/" + id.name)
	if err != nil || !ok {
		return nil, err
	}
	w, ok := obj.(*workload)
	if !ok || !w.annotated() || w.DeletionTimestamp != nil {
		return nil, nil
	}
	return w, nil
}

// drop forgets that the workload waits to be rolled.
func (c *Controller) drop(id identity) {
	c.mu.Lock()
	delete(c.pending, id)
	c.mu.Unlock()
	c.slots.leave(id)
}

// forget forgets all of a workload.
func (c *Controller) forget(id identity) {
	c.drop(id)
	c.slots.release(id)
	c.objects.follow(id, nil)
	c.mu.Lock()
	delete(c.accounted, id)
	c.mu.Unlock()
}

// optOut takes the baseline away: should the workload opt in again, it begins anew.
func (c *Controller) optOut(ctx context.Context, w *workload) error {
	if _, ok := w.Annotations[AnnotationObserved]; !ok {
		return nil
	}
	return ignoreGone(c.patch(ctx, w, nil, nil))
}

// record writes the baseline without a roll.
func (c *Controller) record(ctx context.Context, w *workload, b *baseline) error {
	value, err := b.encode()
	if err != nil {
		return err
	}
	return ignoreGone(c.patch(ctx, w, &value, nil))
}

// roll writes the baseline and the pod template's hash.
func (c *Controller) roll(ctx context.Context, w *workload, v *verdict) error {
	id, now := w.identity(), c.now()
	v.roll.Rolled = &roll{Generation: w.Generation + 1, Time: now.Unix()}
	value, err := v.roll.encode()
	if err != nil {
		return err
	}
	hash := c.hasher.baseline(v.roll.Objects)
	if hash == w.hash {
		// A roll of long ago left the same, before the workload opted out and in again.
		hash += "." + strconv.FormatInt(now.Unix(), 36)
	}
	err = c.patch(ctx, w, &value, &hash)
	switch {
	case apierrors.IsConflict(err):
		return err // With its place kept: it is tried again at once.
	case apierrors.IsNotFound(err):
		c.forget(id)
		return nil
	case err != nil:
		c.slots.leave(id)
		c.warn(w, ReasonFailed, "%s changed; the API server refused the rollout: %v", listing(v.changed), err)
		return err
	}
	c.mu.Lock()
	delete(c.pending, id)
	c.accounted[id] = w.Generation + 1
	c.mu.Unlock()
	if !w.manual {
		c.slots.hold(id, slot{w.UID, w.Generation + 1, now})
		c.queue.AddAfter(id, stuckAfter)
	}
	c.metrics.rolled(id.kind)
	c.announced.over(w.UID, ReasonFailed)
	changed := listing(v.changed)
	c.config.Recorder.Eventf(w.reference(), corev1.EventTypeNormal, ReasonRolled, "Rolling out, because %s changed", changed)
	c.log.Info("Rolled a workload, because its configuration changed", "workload", id.String(), "changed", changed)
	return nil
}

func ignoreGone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
