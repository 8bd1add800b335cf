package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/orlop-io/orlop/cluster/dnsrelay"
)

// stopTimeout bounds the stop of pods and processes; what is left then is killed.
const stopTimeout = 60 * time.Second

// Run holds the cluster up until ctx ends, then stops it: pods first, then the processes, then what they leave
// in the kernel. The error joins all that could not be undone.
func (c *Cluster) Run(ctx context.Context) error {
	stopCtx, cancel := context.WithCancel(context.Background())
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		c.setPhase(PhaseStopping, "", "")
		timer := time.AfterFunc(stopTimeout, cancel)
		context.AfterFunc(stopCtx, func() { timer.Stop() })
	})()
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.supervisor.Run(groupCtx, stopCtx) })
	group.Go(func() error {
		// A bootstrap that failed leaves the cluster up, for its logs and for `orlop kubectl`: the phase says it.
		if err := c.bootstrap(groupCtx); err != nil && groupCtx.Err() == nil {
			c.log.Error("bootstrap failed", "error", err)
			c.setPhase(PhaseFailed, "", err.Error())
		}
		return nil
	})
	if c.link != nil && len(c.net.Upstream) > 0 {
		group.Go(func() error { return c.relay(groupCtx) })
	}
	err := group.Wait()
	// In a time of its own: a stop that took too long is what leaves most behind.
	return errors.Join(err, teardown(context.WithoutCancel(ctx), c.Layout, c.state))
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

// setPhase changes the phase and wakes those who Wait.
func (c *Cluster) setPhase(phase Phase, component, reason string) {
	c.phase.set(phase, component, reason)
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
		Phase: c.phase.phase, FailedComponent: c.phase.component, Error: c.phase.reason,
		Components: components, Version: version,
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
