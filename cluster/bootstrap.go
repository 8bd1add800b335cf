package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/orlop-io/orlop/cluster/supervisor"
)

// localDriver is the CSI driver whose registration makes the node's storage ready.
const localDriver = "local.csi.orlop.io"

// bootstrap does what needs the API server: applies the manifests, gives the node its pod range, and declares the
// cluster ready once every component is, the node with them and the storage registered.
func (c *Cluster) bootstrap(ctx context.Context) error {
	watchCtx, stopWatching := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { c.watchStart(watchCtx) })
	err := c.start(ctx)
	// Before the phase is set: a watch that looked a moment ago must not have the last word.
	stopWatching()
	watch.Wait()
	if err == nil {
		c.setPhase(PhaseReady, "", "")
	}
	return err
}

// start returns once the cluster is ready.
func (c *Cluster) start(ctx context.Context) error {
	objects, err := c.manifests()
	if err != nil {
		return err
	}
	if err := c.awaitReady(ctx, compAPIServer); err != nil {
		return err
	}
	if err := c.step(ctx, func(ctx context.Context) error { return c.apply(ctx, objects) }); err != nil {
		return err
	}
	c.applied.Store(true)
	components, _ := c.supervisor.Status()
	for _, x := range components {
		if err := c.awaitReady(ctx, x.Name); err != nil {
			return err
		}
	}
	return c.step(ctx, c.usable)
}

// step tries until attempt succeeds, or ctx ends.
func (c *Cluster) step(ctx context.Context, attempt func(context.Context) error) error {
	var last error
	err := wait.PollUntilContextCancel(ctx, supervisor.PollInterval, true, func(ctx context.Context) (bool, error) {
		last = attempt(ctx)
		c.phase.attempt(last)
		return last == nil, nil
	})
	if err != nil {
		return errors.Join(err, last)
	}
	return nil
}

// permitted tells whether the manifests are applied, with the roles of Orlop's own processes among them. One that asks
// before is refused, and asks again only after a second or two.
func (c *Cluster) permitted(context.Context) error {
	if !c.applied.Load() {
		return errors.New("its role has not been applied yet")
	}
	return nil
}

// nodeRegistered tells whether the node's object has an address.
func (c *Cluster) nodeRegistered(ctx context.Context) error {
	node, err := c.client.CoreV1().Nodes().Get(ctx, c.Node, metav1.GetOptions{})
	if err == nil && len(node.Status.Addresses) == 0 {
		err = fmt.Errorf("node %s has not reported its address", c.Node)
	}
	return err
}

// nodeReady tells whether the node is Ready, as said by the kubelet that runs now: what its predecessor reported is
// still there for a while.
func (c *Cluster) nodeReady(ctx context.Context) error {
	node, err := c.client.CoreV1().Nodes().Get(ctx, c.Node, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if node.Spec.PodCIDR == "" {
		if err := c.assignPodCIDR(ctx); err != nil {
			return err
		}
	}
	i := slices.IndexFunc(node.Status.Conditions, func(x corev1.NodeCondition) bool { return x.Type == corev1.NodeReady })
	if i < 0 {
		return fmt.Errorf("node %s has not reported yet", c.Node)
	}
	ready := node.Status.Conditions[i]
	if ready.LastHeartbeatTime.Time.Before(c.started.Truncate(time.Second)) {
		return fmt.Errorf("node %s has not reported since the start", c.Node)
	}
	if ready.Status != corev1.ConditionTrue {
		return fmt.Errorf("node %s is not Ready: %s", c.Node, ready.Message)
	}
	return nil
}

// assignPodCIDR writes the node's pod range into its object, for those who look there. Upstream's allocator is off: the
// range must be known before the node is, for the CNI configuration.
func (c *Cluster) assignPodCIDR(ctx context.Context) error {
	patch := fmt.Appendf(nil, `{"spec":{"podCIDR":%q,"podCIDRs":[%q]}}`, c.net.NodePods, c.net.NodePods)
	_, err := c.client.CoreV1().Nodes().Patch(ctx, c.Node, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	return err
}

// usable says what is missing for a first pod to run: the namespace's ServiceAccount, and the storage.
func (c *Cluster) usable(ctx context.Context) error {
	if _, err := c.client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{}); err != nil {
		return err
	}
	if c.state.Plain {
		return nil
	}
	node, err := c.client.StorageV1().CSINodes().Get(ctx, c.Node, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, d := range node.Spec.Drivers {
		if d.Name == localDriver {
			return nil
		}
	}
	return fmt.Errorf("the kubelet has not registered %s", localDriver)
}
