package cluster

import (
	"context"
	"fmt"
	"time"

	"github.com/orlop-io/orlop/cluster/supervisor"
)

// When a start counts as failed. The supervisor goes on trying all the same.
const (
	// startFailures is how often a component that was never ready may end.
	startFailures = 4
	// startPatience is how long a start may go without a further component, or step of the bootstrap, getting ready.
	startPatience = 2 * time.Minute
)

// startWatch judges a start by what is seen of it.
type startWatch struct {
	done  int       // components ready and steps taken when there was progress last
	since time.Time // when that was
}

// judge returns the component that keeps the cluster from starting, and why; an empty reason while there is hope.
// The component is empty when all are ready and something else is missing. pending is what the bootstrap waits for
// beside the components, steps how many such things it has done.
func (w *startWatch) judge(now time.Time, components []supervisor.Status, steps int, pending string) (component, reason string) {
	done := steps
	for _, s := range components {
		if s.Restarts >= startFailures && s.Took == 0 && s.State == supervisor.Failed {
			return s.Name, s.Name + " " + s.Reason
		}
		if s.State == supervisor.Ready {
			done++
		}
	}
	if done > w.done || w.since.IsZero() {
		w.done, w.since = done, now
	}
	if now.Before(w.deadline()) {
		return "", ""
	}
	if s := stuck(components); s != nil {
		why := s.Reason
		if why == "" {
			why = string(s.State)
		}
		return s.Name, fmt.Sprintf("%s is not ready after %s: %s", s.Name, startPatience, why)
	}
	return "", fmt.Sprintf("the cluster is of no use yet after %s: %s", startPatience, pending)
}

// deadline is when the watch runs out of patience.
func (w *startWatch) deadline() time.Time { return w.since.Add(startPatience) }

// stuck picks the component to blame: one that was started before one that waits, for that is whom it waits for.
func stuck(components []supervisor.Status) *supervisor.Status {
	var waiting *supervisor.Status
	for i := range components {
		switch s := &components[i]; s.State {
		case supervisor.Starting, supervisor.Failed:
			return s
		case supervisor.Waiting:
			// With a reason it waits at a gate of its own, else for another.
			if waiting == nil || waiting.Reason == "" && s.Reason != "" {
				waiting = s
			}
		case supervisor.Ready, supervisor.Stopping, supervisor.Stopped:
		}
	}
	return waiting
}

// watchStart fails the start when it gets nowhere, and returns then or when ctx ends.
func (c *Cluster) watchStart(ctx context.Context) {
	var w startWatch
	for ctx.Err() == nil {
		components, version := c.supervisor.Status()
		steps, pending := c.phase.progress()
		if component, reason := w.judge(time.Now(), components, steps, pending); reason != "" {
			c.setPhase(PhaseFailed, component, reason)
			return
		}
		wait, cancel := context.WithDeadline(ctx, w.deadline())
		c.supervisor.Wait(wait, version)
		cancel()
	}
}
