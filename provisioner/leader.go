package provisioner

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
)

// LeaderConfig configures a Leader. The fields above the blank line are required.
type LeaderConfig struct {
	// Client should not be throttled on its side.
	Client kubernetes.Interface
	// Informers may be shared with other controllers. Whoever owns the factory starts it, after NewLeader, and shuts it
	// down; objects must keep their spec, status, labels and annotations if it has a transform.
	Informers informers.SharedInformerFactory
	// Recorder writes Events about claims and PersistentVolumes.
	Recorder record.EventRecorder
	// Driver is the name of a CSI driver whose volumes live on one node.
	Driver string
	// TopologyKey is the key of the driver's topology whose value is the name of the node.
	TopologyKey string

	// Log receives what happens; its zero value discards it.
	Log klog.Logger
	// Workers is how many claims, and how many volumes, are worked on at once. Default DefaultWorkers.
	Workers int
	// RetryBase and RetryLimit bound the exponential backoff. Defaults DefaultRetryBase and DefaultRetryLimit.
	RetryBase, RetryLimit time.Duration
	// Grace is how long a node may be without the driver before the claims that wait for it are told. Default
	// DefaultGrace.
	Grace time.Duration
}

// DefaultGrace is longer than a new node takes to register its drivers.
const DefaultGrace = 15 * time.Second

// Leader selects nodes for a node-local driver's claims that bind at once or whose pod was given a node without the
// scheduler, takes selections of nodes that are gone back, and tells of volumes whose node is gone. It makes no CSI
// calls. One of it runs in a cluster at a time; a second one does no harm, since every write fails if the object has
// changed. Make it with NewLeader; Run it once.
type Leader struct {
	config LeaderConfig
	log    klog.Logger

	claimInformer, volumeInformer, podInformer, classInformer cache.SharedIndexInformer
	nodeInformer, csiNodeInformer, capacityInformer           cache.SharedIndexInformer

	claims     corelisters.PersistentVolumeClaimLister
	volumes    corelisters.PersistentVolumeLister
	classes    storagelisters.StorageClassLister
	nodes      corelisters.NodeLister
	csiNodes   storagelisters.CSINodeLister
	capacities storagelisters.CSIStorageCapacityLister

	claimQueue  *queue[claimKey]
	volumeQueue *queue[string]
	// pace spaces the selections of a claim that nodes keep handing back.
	pace workqueue.TypedRateLimiter[claimKey]

	mu sync.Mutex
	// waiting are the claims that no node suits at present.
	waiting map[claimKey]bool
	// assumed are the selections made here whose volume has not come back through the informer yet.
	assumed map[types.UID]string
	// refused are the nodes that handed a claim back.
	refused map[types.UID]map[string]bool
	// reasons are why claims had no node when they were last told.
	reasons map[types.UID]string
	// told are the PersistentVolumes and claims about which an Event was written that is not repeated.
	told map[types.UID]bool
	// driverless are the claims whose selected node lacks the driver, with the time that was first seen.
	driverless map[types.UID]time.Time
}

// NewLeader checks the configuration and asks the factory for its informers. It starts nothing.
func NewLeader(config LeaderConfig) (*Leader, error) {
	var missing []error
	for name, absent := range map[string]bool{
		"Client": config.Client == nil, "Informers": config.Informers == nil, "Recorder": config.Recorder == nil,
		"Driver": config.Driver == "", "TopologyKey": config.TopologyKey == "",
	} {
		if absent {
			missing = append(missing, fmt.Errorf("provisioner.LeaderConfig: %s is required", name))
		}
	}
	if err := errors.Join(missing...); err != nil {
		return nil, err
	}
	orDefault(&config.Workers, DefaultWorkers)
	orDefault(&config.RetryBase, DefaultRetryBase)
	orDefault(&config.RetryLimit, DefaultRetryLimit)
	orDefault(&config.Grace, DefaultGrace)
	core, storage := config.Informers.Core().V1(), config.Informers.Storage().V1()
	l := &Leader{
		config: config, log: config.Log.WithValues("driver", config.Driver),
		claimInformer:    core.PersistentVolumeClaims().Informer(),
		volumeInformer:   core.PersistentVolumes().Informer(),
		podInformer:      core.Pods().Informer(),
		classInformer:    storage.StorageClasses().Informer(),
		nodeInformer:     core.Nodes().Informer(),
		csiNodeInformer:  storage.CSINodes().Informer(),
		capacityInformer: storage.CSIStorageCapacities().Informer(),
		claims:           core.PersistentVolumeClaims().Lister(),
		volumes:          core.PersistentVolumes().Lister(),
		classes:          storage.StorageClasses().Lister(),
		nodes:            core.Nodes().Lister(),
		csiNodes:         storage.CSINodes().Lister(),
		capacities:       storage.CSIStorageCapacities().Lister(),
		waiting:          make(map[claimKey]bool),
		assumed:          make(map[types.UID]string),
		refused:          make(map[types.UID]map[string]bool),
		reasons:          make(map[types.UID]string),
		told:             make(map[types.UID]bool),
		driverless:       make(map[types.UID]time.Time),
	}
	return l, l.addIndexes()
}

// Names of the indexes of pending claims by selected node, of the driver's PersistentVolumes by node, and of pods that
// have a node by claim. The informers are shared, so the driver's name keeps two Leaders apart.
func (l *Leader) claimIndex() string  { return "provisioner/" + l.config.Driver + "/selected-node" }
func (l *Leader) volumeIndex() string { return "provisioner/" + l.config.Driver + "/node" }
func (l *Leader) podIndex() string    { return "provisioner/" + l.config.Driver + "/placed-pod" }

func (l *Leader) addIndexes() error {
	return errors.Join(
		l.claimInformer.AddIndexers(cache.Indexers{l.claimIndex(): func(object any) ([]string, error) {
			claim, ok := object.(*corev1.PersistentVolumeClaim)
			if !ok || !unbound(claim) || claim.Annotations[annSelectedNode] == "" {
				return nil, nil
			}
			return []string{claim.Annotations[annSelectedNode]}, nil
		}}),
		l.volumeInformer.AddIndexers(cache.Indexers{l.volumeIndex(): func(object any) ([]string, error) {
			pv, ok := object.(*corev1.PersistentVolume)
			if !ok || !ours(pv, l.config.Driver) {
				return nil, nil
			}
			return affinityValues(pv, l.config.TopologyKey), nil
		}}),
		l.podInformer.AddIndexers(cache.Indexers{l.podIndex(): func(object any) ([]string, error) {
			pod, ok := object.(*corev1.Pod)
			if !ok {
				return nil, nil
			}
			return claimsOfPlacedPod(pod), nil
		}}),
	)
}

// Run works until ctx ends, and returns nil then, with all its goroutines ended. The informers must have been started
// or be started soon.
func (l *Leader) Run(ctx context.Context) error {
	l.claimQueue = newQueue("select-node", l.config.RetryBase, l.config.RetryLimit, l.log, l.syncClaim)
	defer l.claimQueue.ShutDown()
	l.volumeQueue = newQueue("orphaned-volume", l.config.RetryBase, l.config.RetryLimit, l.log, l.syncVolume)
	defer l.volumeQueue.ShutDown()
	l.pace = workqueue.NewTypedItemExponentialFailureRateLimiter[claimKey](l.config.RetryBase, l.config.RetryLimit)
	synced, unwatch, err := l.watch()
	defer unwatch()
	if err != nil {
		return err
	}
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return nil
	}
	var group sync.WaitGroup
	group.Go(func() { l.claimQueue.run(ctx, l.config.Workers) })
	group.Go(func() { l.volumeQueue.run(ctx, l.config.Workers) })
	group.Wait()
	return nil
}
