package provisioner

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/bits"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// Labels that upstream's provisioner puts on CSIStorageCapacity objects too.
const (
	labelDriver    = "csi.storage.k8s.io/drivername"
	labelManagedBy = "csi.storage.k8s.io/managed-by"
)

const (
	// DefaultCapacityInterval is how often a driver is asked whose capacity changes without our doing.
	DefaultCapacityInterval = time.Minute
	// capacitySpacing is the shortest time between two looks: a burst of claims causes one.
	capacitySpacing = time.Second
)

// CapacityConfig has a Node publish how much room its driver has, as one CSIStorageCapacity object for each of the
// driver's StorageClasses.
type CapacityConfig struct {
	// Namespace holds the objects. It is required and must exist.
	Namespace string
	// Changed says that the room has changed otherwise than by this Node's own doing. It may be nil.
	Changed <-chan struct{}
	// Interval between looks without a reason. Default DefaultCapacityInterval.
	Interval time.Duration
}

// capacityPublisher keeps the objects of one driver on one node in step with what the driver says.
type capacityPublisher struct {
	config   CapacityConfig
	client   kubernetes.Interface
	driver   *driverClient
	node     string
	topology map[string]string
	classes  storagelisters.StorageClassLister
	log      klog.Logger

	factory informers.SharedInformerFactory
	own     cache.SharedIndexInformer
	objects storagelisters.CSIStorageCapacityNamespaceLister
	wake    chan struct{}
}

func (n *Node) newCapacityPublisher() (*capacityPublisher, error) {
	p := &capacityPublisher{
		config: *n.config.Capacity, client: n.client, driver: n.driver, node: n.config.NodeName, topology: n.topology,
		classes: n.cache.classes, log: n.log, wake: make(chan struct{}, 1),
	}
	orDefault(&p.config.Interval, DefaultCapacityInterval)
	p.factory = informers.NewSharedInformerFactoryWithOptions(n.client, 0,
		informers.WithNamespace(p.config.Namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.LabelSelector = labels.Set{labelManagedBy: p.manager()}.String()
		}))
	capacities := p.factory.Storage().V1().CSIStorageCapacities()
	p.own = capacities.Informer()
	p.objects = capacities.Lister().CSIStorageCapacities(p.config.Namespace)
	// Objects that somebody changes or deletes are put right.
	_, err := p.own.AddEventHandler(cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(_, _ any) { p.changed() },
		DeleteFunc: func(any) { p.changed() },
	})
	return p, err
}

// manager is the value of the label that tells this node's objects. A label is shorter than a node's name may be.
func (p *capacityPublisher) manager() string { return "orlop-" + digest(p.driver.name, p.node) }

func (p *capacityPublisher) objectName(class string) string {
	return "csisc-" + digest(p.driver.name, p.node, class)
}

func digest(parts ...string) string {
	h := sha256.New()
	for _, part := range parts {
		// Neither a name nor a driver has a slash; hash.Hash never fails.
		_, _ = h.Write([]byte(part + "/"))
	}
	return hex.EncodeToString(h.Sum(nil)[:10])
}

// changed has the publisher look soon. It never blocks, and does nothing on a nil publisher.
func (p *capacityPublisher) changed() {
	if p == nil {
		return
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// run publishes until ctx ends.
func (p *capacityPublisher) run(ctx context.Context) {
	p.factory.StartWithContext(ctx)
	defer p.factory.Shutdown()
	if !cache.WaitForCacheSync(ctx.Done(), p.own.HasSynced) {
		return
	}
	ticker := time.NewTicker(p.config.Interval)
	defer ticker.Stop()
	look := time.NewTimer(0)
	defer look.Stop()
	armed, delay := true, capacitySpacing
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			armed = false
			err := p.publish(ctx)
			if err == nil || ctx.Err() != nil {
				delay = capacitySpacing
				continue
			}
			delay = min(2*delay, p.config.Interval)
			p.log.Info("Could not publish the node's free capacity; will try again", "after", delay, "err", err)
		case <-p.wake:
		case <-p.config.Changed:
		case <-ticker.C:
		}
		if !armed {
			armed = true
			look.Reset(delay)
		}
	}
}

// publish asks the driver and brings the objects into line.
func (p *capacityPublisher) publish(ctx context.Context) error {
	classes, errClasses := p.classes.List(labels.Everything())
	stale, errObjects := p.objects.List(labels.Everything())
	if err := errors.Join(errClasses, errObjects); err != nil {
		return err
	}
	existing := make(map[string]*storagev1.CSIStorageCapacity, len(stale))
	for _, object := range stale {
		existing[object.Name] = object
	}
	var errs []error
	for _, class := range classes {
		parameters, _, refusal := splitParameters(class.Parameters)
		if class.Provisioner != p.driver.name || refusal != nil {
			continue
		}
		room, err := p.driver.capacity(ctx, parameters, p.topology)
		if classify(err) == failed {
			// No volume of such a class can be made; the claim is told why when it comes.
			continue
		}
		if err != nil {
			return err
		}
		name := p.objectName(class.Name)
		errs = append(errs, p.put(ctx, existing[name], name, class.Name, room))
		delete(existing, name)
	}
	for name := range existing {
		errs = append(errs, ignoreNotFound(p.client.StorageV1().CSIStorageCapacities(p.config.Namespace).
			Delete(ctx, name, metav1.DeleteOptions{})))
	}
	return errors.Join(errs...)
}

// put creates or updates one object, if it is not as it should be.
func (p *capacityPublisher) put(
	ctx context.Context, old *storagev1.CSIStorageCapacity, name, class string, room *csi.GetCapacityResponse,
) error {
	want := &storagev1.CSIStorageCapacity{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.config.Namespace, Name: name,
			Labels: map[string]string{labelDriver: p.driver.name, labelManagedBy: p.manager()},
		},
		NodeTopology:     &metav1.LabelSelector{MatchLabels: p.topology},
		StorageClassName: class,
		Capacity:         bytesQuantity(roundDown(room.GetAvailableCapacity())),
	}
	if room.GetMaximumVolumeSize() != nil {
		want.MaximumVolumeSize = bytesQuantity(roundDown(room.GetMaximumVolumeSize().GetValue()))
	}
	objects := p.client.StorageV1().CSIStorageCapacities(p.config.Namespace)
	if old != nil {
		if sameQuantity(old.Capacity, want.Capacity) && sameQuantity(old.MaximumVolumeSize, want.MaximumVolumeSize) {
			return nil
		}
		want.ResourceVersion, want.OwnerReferences = old.ResourceVersion, old.OwnerReferences
		_, err := objects.Update(ctx, want, metav1.UpdateOptions{})
		return err
	}
	// Owned by the Node, the object goes with it.
	node, err := p.client.CoreV1().Nodes().Get(ctx, p.node, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("own the CSIStorageCapacity of StorageClass %s: %w", class, err)
	}
	want.OwnerReferences = []metav1.OwnerReference{{
		APIVersion: corev1.SchemeGroupVersion.String(), Kind: "Node", Name: node.Name, UID: node.UID,
	}}
	_, err = objects.Create(ctx, want, metav1.CreateOptions{})
	return err
}

func sameQuantity(a, b *resource.Quantity) bool { return equality.Semantic.DeepEqual(a, b) }

// roundDown keeps six binary digits of a number of bytes, so that a small volume more or less is not worth a write.
// What is published is never more than what there is, and at most 3 % less.
func roundDown(n int64) int64 {
	if n <= 0 {
		return 0
	}
	drop := max(0, bits.Len64(uint64(n))-6)
	return n >> drop << drop
}
