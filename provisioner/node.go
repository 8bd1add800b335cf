package provisioner

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
)

// Defaults of NodeConfig and LeaderConfig.
const (
	DefaultWorkers     = 8
	DefaultCallTimeout = time.Minute
	DefaultRetryBase   = 500 * time.Millisecond
	DefaultRetryLimit  = 5 * time.Minute
	DefaultPatience    = 2 * time.Second
)

// NodeConfig configures a Node. The fields above the blank line are required.
type NodeConfig struct {
	// Client should not be throttled on its side; the API server's priority and fairness does that. Node makes informers
	// of its own from it, which keep of other nodes' claims and other drivers' volumes only their names.
	Client kubernetes.Interface
	// Conn leads to the CSI driver's identity, controller and node services. Node does not close it.
	Conn grpc.ClientConnInterface
	// Journal belongs to this Node alone. Node does not close it.
	Journal Journal
	// Recorder writes Events about claims and PersistentVolumes.
	Recorder record.EventRecorder
	// Driver is the CSI driver's name, as in StorageClass.provisioner.
	Driver string
	// NodeName is the name of this node's Node object.
	NodeName string

	// Log receives what happens; its zero value discards it.
	Log klog.Logger
	// Metrics may be nil.
	Metrics prometheus.Registerer
	// Workers is how many claims, and how many volumes to be deleted, are worked on at once. Default DefaultWorkers.
	Workers int
	// CallTimeout is the deadline of each CSI call. Default DefaultCallTimeout.
	CallTimeout time.Duration
	// RetryBase and RetryLimit bound the exponential backoff. Defaults DefaultRetryBase and DefaultRetryLimit.
	RetryBase, RetryLimit time.Duration
	// Patience is how long a claim waits before an Event says that it is worked on. Default DefaultPatience.
	Patience time.Duration
	// Capacity has the node's free capacity published, if the driver has the GET_CAPACITY capability. Nil publishes
	// nothing.
	Capacity *CapacityConfig
}

// Node provisions the claims whose selected node this is, and deletes this node's volumes. It is made for drivers whose
// volumes live on one node. Make it with NewNode; Run it once.
type Node struct {
	core
	config   NodeConfig
	topology map[string]string
	info     *driverInfo

	cache   *nodeCache
	room    *capacityPublisher // nil if nothing is published
	claims  *queue[claimKey]
	volumes *queue[string]
	// provisioned holds the claims whose PersistentVolume was created and may not have come back through the informer.
	provisioned sync.Map // types.UID → struct{}
}

// NewNode checks the configuration. It starts nothing and calls nobody.
func NewNode(config NodeConfig) (*Node, error) {
	var missing []error
	for name, absent := range map[string]bool{
		"Client": config.Client == nil, "Conn": config.Conn == nil, "Journal": config.Journal == nil,
		"Recorder": config.Recorder == nil, "Driver": config.Driver == "", "NodeName": config.NodeName == "",
	} {
		if absent {
			missing = append(missing, fmt.Errorf("provisioner.NodeConfig: %s is required", name))
		}
	}
	if config.Capacity != nil && config.Capacity.Namespace == "" {
		missing = append(missing, errors.New("provisioner.CapacityConfig: Namespace is required"))
	}
	if err := errors.Join(missing...); err != nil {
		return nil, err
	}
	orDefault(&config.Workers, DefaultWorkers)
	orDefault(&config.CallTimeout, DefaultCallTimeout)
	orDefault(&config.RetryBase, DefaultRetryBase)
	orDefault(&config.RetryLimit, DefaultRetryLimit)
	orDefault(&config.Patience, DefaultPatience)
	m, err := newMetrics(config.Metrics, config.Driver)
	if err != nil {
		return nil, fmt.Errorf("provisioner metrics: %w", err)
	}
	log := config.Log.WithValues("driver", config.Driver, "node", config.NodeName)
	n := &Node{
		config: config,
		core: core{
			client: config.Client,
			driver: &driverClient{
				name: config.Driver, conn: config.Conn, timeout: config.CallTimeout, metrics: m,
			},
			journal:  config.Journal,
			recorder: config.Recorder,
			log:      log,
			identity: "orlop-" + config.NodeName + "-" + config.Driver,
			patience: config.Patience,
		},
	}
	return n, nil
}

// Run works until ctx ends, and returns nil then, with all its goroutines ended. It waits for the driver to answer, and
// fails if that turns out to be another driver or one that can not serve a node.
func (n *Node) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	info, err := n.waitForDriver(ctx)
	if err != nil || info == nil {
		return err
	}
	n.info, n.topology = info, info.topology

	caches, err := newNodeCache(n.config.Client, n.config.Driver, n.config.NodeName, n.topology)
	if err != nil {
		return err
	}
	n.cache = caches
	if n.config.Capacity != nil && info.getCapacity {
		if n.room, err = n.newCapacityPublisher(); err != nil {
			return err
		}
	}
	n.claims = newQueue("provision", n.config.RetryBase, n.config.RetryLimit, n.log, n.syncClaim)
	defer n.claims.ShutDown()
	n.volumes = newQueue("reclaim", n.config.RetryBase, n.config.RetryLimit, n.log, n.syncVolume)
	defer n.volumes.ShutDown()
	if err := n.watch(); err != nil {
		return err
	}
	n.cache.factory.StartWithContext(ctx)
	defer n.cache.factory.Shutdown()
	// Shutdown waits for the informers, which end with the context.
	defer cancel()
	if !cache.WaitForCacheSync(ctx.Done(), n.cache.synced...) {
		return nil
	}
	for _, plan := range n.journal.Plans() {
		n.claims.Add(planKey(plan))
	}
	n.log.Info("Provisioning", "topology", formatSegments(n.topology))

	var group sync.WaitGroup
	group.Go(func() { n.claims.run(ctx, n.config.Workers) })
	group.Go(func() { n.volumes.run(ctx, n.config.Workers) })
	if n.room != nil {
		group.Go(func() { n.room.run(ctx) })
	}
	group.Wait()
	return nil
}

// waitForDriver returns nil, nil when ctx ends before the driver answers.
func (n *Node) waitForDriver(ctx context.Context) (*driverInfo, error) {
	delay := n.config.RetryBase
	for {
		info, err := n.driver.describe(ctx)
		var mismatch *driverMismatch
		switch {
		case err == nil && info.topology == nil:
			return nil, fmt.Errorf("CSI driver %s has no topology (VOLUME_ACCESSIBILITY_CONSTRAINTS), so its volumes "+
				"can not be provisioned node by node", n.config.Driver)
		case err == nil:
			return info, nil
		case errors.As(err, &mismatch):
			return nil, err
		}
		n.log.Info("The CSI driver does not answer; will ask again", "err", err)
		timer := time.NewTimer(delay)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, nil
		case <-timer.C:
		}
		delay = min(2*delay, 5*time.Second, n.config.RetryLimit)
	}
}

func orDefault[T comparable](value *T, otherwise T) {
	var zero T
	if *value == zero {
		*value = otherwise
	}
}
