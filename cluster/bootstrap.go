package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go c.watchStart(ctx)
	objects, err := c.manifests()
	if err != nil {
		return err
	}
	if err := c.awaitReady(ctx, compAPIServer); err != nil {
		return err
	}
	var last error
	err = wait.PollUntilContextCancel(ctx, supervisor.PollInterval, true, func(ctx context.Context) (bool, error) {
		last = c.apply(ctx, objects)
		return last == nil, nil
	})
	if err != nil {
		return errors.Join(err, last)
	}
	for _, spec := range c.specs() {
		if err := c.awaitReady(ctx, spec.Name); err != nil {
			return err
		}
	}
	err = wait.PollUntilContextCancel(ctx, supervisor.PollInterval, true, func(ctx context.Context) (bool, error) {
		last = c.usable(ctx)
		return last == nil, nil
	})
	if err != nil {
		return errors.Join(err, last)
	}
	c.setPhase(PhaseReady, "")
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
