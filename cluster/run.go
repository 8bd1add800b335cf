package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/orlop-io/orlop/cluster/dnsrelay"
	"github.com/orlop-io/orlop/cluster/supervisor"
)

// stopTimeout bounds a whole stop: pods, processes, mounts.
const stopTimeout = 60 * time.Second

// Run holds the cluster up until ctx ends, then stops it: pods first, then the processes, then what they leave
// in the kernel. The error joins all that could not be undone.
func (c *Cluster) Run(ctx context.Context) error {
	stopCtx, cancel := context.WithCancel(context.Background())
	defer cancel()
	context.AfterFunc(ctx, func() {
		c.setPhase(PhaseStopping, "")
		time.AfterFunc(stopTimeout, cancel)
	})
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.supervisor.Run(groupCtx, stopCtx) })
	group.Go(func() error {
		// A bootstrap that failed leaves the cluster up, for its logs and for `orlop kubectl`: the phase says it.
		if err := c.bootstrap(groupCtx); err != nil && groupCtx.Err() == nil {
			c.log.Error("bootstrap failed", "error", err)
			c.setPhase(PhaseFailed, err.Error())
		}
		return nil
	})
	if c.link != nil && len(c.net.Upstream) > 0 {
		group.Go(func() error { return c.relay(groupCtx) })
	}
	err := group.Wait()
	return errors.Join(err, c.teardown(stopCtx))
}

// relay answers the node's questions about names outside the cluster, from the host's side of the link: the
// host's resolver is often on the host's loopback.
func (c *Cluster) relay(ctx context.Context) error {
	err := dnsrelay.Run(ctx, dnsrelay.Config{Listen: c.net.HostIP, Allow: c.link.Prefix, ResolvConf: hostResolvConf})
	if err != nil && ctx.Err() == nil {
		// The cluster is of use without names from outside.
		c.log.Error("DNS relay ended: names outside the cluster do not resolve", "error", err)
	}
	return nil
}

const hostResolvConf = "/etc/resolv.conf"

// phaseState is where the cluster as a whole is.
type phaseState struct {
	mu     sync.Mutex
	phase  Phase
	reason string
}

func (c *Cluster) setPhase(phase Phase, reason string) {
	c.phase.mu.Lock()
	// Once it is being stopped nothing else is news.
	if c.phase.phase != PhaseStopping {
		c.phase.phase, c.phase.reason = phase, reason
	}
	c.phase.mu.Unlock()
	c.supervisor.Touch()
}

// Status returns a snapshot, with a version that grows at each change.
func (c *Cluster) Status() Status {
	components, version := c.supervisor.Status()
	c.phase.mu.Lock()
	defer c.phase.mu.Unlock()
	return Status{
		ID: c.state.ID, Node: c.Node, DataDir: c.DataDir, Kubeconfig: c.Kubeconfig(), Server: c.net.apiURL(),
		NodeIP: c.net.NodeIP.String(), Netns: c.net.Netns, Plain: c.state.Plain, PID: os.Getpid(),
		Phase: c.phase.phase, Error: c.phase.reason, Components: components, Version: version,
	}
}

// Wait blocks until the status' version is greater than after, or ctx ends.
func (c *Cluster) Wait(ctx context.Context, after uint64) { c.supervisor.Wait(ctx, after) }

// awaitReady blocks until the named component is ready.
func (c *Cluster) awaitReady(ctx context.Context, name string) error {
	if err := c.supervisor.WaitReady(ctx, name); err != nil {
		return fmt.Errorf("waiting for %s: %w", name, err)
	}
	return nil
}

// Failures before a component that has never been ready makes the start a failed one.
const startFailures = 4

// watchStart fails the start when a component keeps ending before it was ever ready. The supervisor goes on trying.
func (c *Cluster) watchStart(ctx context.Context) {
	var version uint64
	for ctx.Err() == nil {
		statuses, v := c.supervisor.Status()
		for _, s := range statuses {
			if s.Restarts >= startFailures && s.Took == 0 && s.State == supervisor.Failed {
				c.setPhase(PhaseFailed, fmt.Sprintf("%s %s", s.Name, s.Reason))
				return
			}
		}
		version = v
		c.supervisor.Wait(ctx, version)
	}
}
