package config

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	eventrecord "k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/configsync/action"
	"github.com/orlop-io/orlop/csi/host"
	csivolume "github.com/orlop-io/orlop/csi/volume"
)

// DriverName is the name of the driver, and of its CSIDriver object.
const DriverName = "config.csi.orlop.io"

const (
	// workers write volumes after an event, so many at a time.
	workers = 8
	// patience is how long a publish waits for an object to be read for the first time.
	patience = 5 * time.Second
)

// Config is what a Driver needs.
type Config struct {
	// Version of the program, for people; NodeID is the name of the node.
	Version, NodeID string
	// API says where the API server is and how to know it. Credentials in it are not used.
	API *rest.Config
	// StateDir keeps what is published. A tmpfs is mounted there, and stays when the driver ends.
	StateDir string
	// Host makes the system calls.
	Host *host.Host
	// Recorder tells a pod's users what is wrong with a volume; nil for nobody.
	Recorder eventrecord.EventRecorder
	// Actions acts on the changes of volumes that ask for it; nil for nobody. It is closed after the driver.
	Actions *action.Runner
}

// Pod names a pod.
type Pod struct {
	Namespace, Name string
	UID             types.UID
}

// Driver implements the CSI Identity and Node services. Its methods are safe for concurrent use.
type Driver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedNodeServer

	config   Config
	host     *host.Host
	state    *state
	now      func() time.Time
	patience time.Duration
	locks    csivolume.KeyLocks
	queue    workqueue.TypedRateLimitingInterface[job]
	wg       sync.WaitGroup

	mu       sync.Mutex
	volumes  map[string]*volume
	accounts map[Account]*account
}

var (
	_ csi.IdentityServer = (*Driver)(nil)
	_ csi.NodeServer     = (*Driver)(nil)
)

// Open returns a driver that follows the volumes which an earlier one published, without waiting for the API server.
// Close it.
func Open(ctx context.Context, c Config) (*Driver, error) {
	d := &Driver{
		config: c, host: c.Host, now: time.Now, patience: patience,
		volumes: map[string]*volume{}, accounts: map[Account]*account{},
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[job](100*time.Millisecond, 10*time.Second)),
	}
	var err error
	if d.state, err = openState(ctx, c.Host, c.StateDir); err != nil {
		return nil, fmt.Errorf("open the state of %s in %s: %w", DriverName, c.StateDir, err)
	}
	for range workers {
		d.wg.Go(d.work)
	}
	if err := d.restore(ctx); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// Close ends all that Open began. The volumes stay mounted.
func (d *Driver) Close() error {
	d.queue.ShutDown()
	d.wg.Wait()
	d.mu.Lock()
	var all []*volume
	for _, v := range d.volumes {
		all = append(all, v)
	}
	d.mu.Unlock()
	var errs []error
	for _, v := range all {
		errs = append(errs, v.close())
	}
	return errors.Join(append(errs, d.state.close())...)
}

// Register adds the driver's services to a gRPC server.
func (d *Driver) Register(s grpc.ServiceRegistrar) {
	csi.RegisterIdentityServer(s, d)
	csi.RegisterNodeServer(s, d)
}

// restore takes up the volumes of an earlier driver. One whose mount is gone is not in use any more.
func (d *Driver) restore(ctx context.Context) error {
	records, err := d.state.read(ctx)
	if err != nil {
		return fmt.Errorf("read the state of %s: %w", DriverName, err)
	}
	log := klog.FromContext(ctx)
	for _, r := range records {
		mounted, err := d.mountedAt(r.Target)
		if err != nil {
			return err
		}
		if !mounted {
			log.Info("A volume is not mounted any more; forgetting it", "target", r.Target)
			if err := d.state.remove(ctx, r.ID); err != nil {
				return err
			}
			continue
		}
		p, err := parsePublication(r.ID, r.Target, r.Attributes, r.FSGroup, r.token)
		if err == nil {
			v := d.add(r.ID)
			if err = v.adopt(p); err != nil {
				err = errors.Join(err, d.remove(v))
			}
		}
		if err != nil {
			log.Error(err, "A volume cannot be followed; it keeps its files", "target", r.Target)
		}
	}
	return nil
}

// mountSource is what the mount table shows as source of a volume.
const mountSource = DriverName

// mountedAt reports whether a volume of this driver is mounted at target.
func (d *Driver) mountedAt(target string) (bool, error) {
	m, err := d.host.MountAt(target)
	return m != nil && m.FSType == "tmpfs" && m.Source == mountSource, err
}

// lookup returns the volume of that ID, nil where there is none.
func (d *Driver) lookup(id string) *volume {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.volumes[id]
}

func (d *Driver) add(id string) *volume {
	v := newVolume(d, id)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.volumes[id] = v
	return v
}

// remove stops following a volume. When it returns, nothing writes into it any more.
func (d *Driver) remove(v *volume) error {
	d.mu.Lock()
	delete(d.volumes, v.id)
	d.mu.Unlock()
	return v.close()
}

// job is what a worker does with a volume: write it again, or remove superseded generations.
type job struct {
	id    string
	prune bool
}

func (d *Driver) work() {
	for {
		j, shutdown := d.queue.Get()
		if shutdown {
			return
		}
		d.do(j)
		d.queue.Done(j)
	}
}

func (d *Driver) do(j job) {
	v := d.lookup(j.id)
	if v == nil {
		d.queue.Forget(j)
		return
	}
	if j.prune {
		if next := v.prune(); next > 0 {
			d.queue.AddAfter(j, next)
		}
		return
	}
	if v.follow() != nil {
		d.queue.AddRateLimited(j)
		return
	}
	d.queue.Forget(j)
}

// maxMessage bounds an event, whose message the API server limits to 1024 bytes.
const maxMessage = 1000

// event tells the pod's users.
func (d *Driver) event(pod Pod, message string) {
	if d.config.Recorder == nil {
		return
	}
	if len(message) > maxMessage {
		message = strings.ToValidUTF8(message[:maxMessage], "") + "…"
	}
	d.config.Recorder.Event(&corev1.ObjectReference{
		APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID,
	}, corev1.EventTypeWarning, "FailedMount", message)
}
