package versions

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/configsync/source"
)

// candidate is an object about to be deleted.
type candidate struct {
	live  *metav1.PartialObjectMetadata
	grace time.Duration
}

// collectDue deletes the objects that are due, after a second look at each and at everything that can refer.
func (c *Controller) collectDue(ctx context.Context, _ source.Key) error {
	if rest := time.Until(c.rested); rest > 0 {
		c.queue.AddAfter(sweep, rest)
		return nil
	}
	due := c.due
	c.due = map[source.Key]bool{}
	var errs []error
	candidates := map[source.Key]candidate{}
	for key := range due {
		candidate, err := c.examine(ctx, key)
		if err != nil {
			errs = append(errs, err)
			c.queue.AddAfter(key, again)
		}
		if candidate != nil {
			candidates[key] = *candidate
		}
	}
	if len(candidates) == 0 {
		return errors.Join(errs...)
	}
	wanted := make(map[source.Key]bool, len(candidates))
	for key := range candidates {
		wanted[key] = true
	}
	began := time.Now()
	used, err := listReferrers(ctx, c.client, wanted)
	c.rested = time.Now().Add(share * time.Since(began))
	if err != nil {
		for key := range candidates {
			c.queue.AddAfter(key, again)
		}
		return errors.Join(append(errs, fmt.Errorf("nothing is collected: %w", err))...)
	}
	for key, candidate := range candidates {
		by := used[key]
		if by == nil {
			// The deletions before this one took their time, in which the informers may have heard of something new.
			if by, err = c.referrers.of(key); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		if by != nil {
			c.log.V(2).Info("Used after all", "object", key, "by", by.String())
			c.queue.AddAfter(key, again)
			continue
		}
		if err := c.delete(ctx, key, candidate); err != nil {
			errs = append(errs, err)
			c.queue.AddAfter(key, again)
		}
	}
	return errors.Join(errs...)
}

// examine decides on an object anew, by what the API server has of it at this moment. It returns nil where the object is
// not to be deleted.
func (c *Controller) examine(ctx context.Context, key source.Key) (*candidate, error) {
	known, err := c.get(key)
	if known == nil || err != nil {
		return nil, err
	}
	live, err := c.immutable(ctx, key)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if live == nil {
		// Its annotation came from another object. Without it, its owner is told what it lacks.
		return nil, c.annotate(ctx, key, known, nil)
	}
	by, err := c.referrers.of(key)
	if err != nil {
		return nil, err
	}
	v := decide(live, by != nil, c.after, time.Now())
	if v.action != collect {
		c.queue.Add(key)
		return nil, nil
	}
	return &candidate{live: live, grace: v.grace}, nil
}

// delete deletes an object unless it has changed in any way.
func (c *Controller) delete(ctx context.Context, key source.Key, o candidate) error {
	err := c.metadata.Resource(resources[key.Kind]).Namespace(key.Namespace).Delete(ctx, key.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &o.live.UID, ResourceVersion: &o.live.ResourceVersion},
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	c.collected.WithLabelValues(string(key.Kind)).Inc()
	c.log.Info("Collected: nothing referred to it", "object", key, "for", o.grace)
	c.recorder.Eventf(eventOn(key, o.live.UID), corev1.EventTypeNormal, "Collected",
		"deleted: nothing referred to this version for %s", o.grace)
	return nil
}
