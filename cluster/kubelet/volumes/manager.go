package volumes

import (
	"context"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/volume"

	"github.com/orlop-io/orlop/configsync/source"
	"github.com/orlop-io/orlop/configsync/writer"
)

const (
	// workers write volumes after an event, so many at a time.
	workers = 8
	// patience is how long a SetUp waits for an object to be read for the first time.
	patience = 5 * time.Second
)

// key names a volume of a pod on the node.
type key struct {
	pod    types.UID
	plugin string
	volume string
}

// request is one call of SetUp.
type request struct {
	dir      string
	pod      *v1.Pod
	volume   v1.Volume
	medium   v1.StorageMedium
	args     volume.MounterArgs
	tearDown func() error
}

// job is what a worker does with a volume: write it again, or remove superseded generations.
type job struct {
	key   key
	prune bool
}

// manager knows the configuration volumes that are set up and writes them when their objects change.
type manager struct {
	once   sync.Once
	config Config
	host   volume.VolumeHost
	source *source.Source
	pods   *pods
	queue  workqueue.TypedRateLimitingInterface[job]
	wg     sync.WaitGroup
	// actions is nil where changes are not acted on.
	actions *actions

	notices notices
	// writer are options of every volume's writer; a test sets a clock and faults.
	writer writer.Options

	mu     sync.Mutex
	mounts map[key]*mount
}

func newManager(config Config) *manager {
	return &manager{config: config, pods: newPods(), mounts: map[key]*mount{}}
}

// start begins to serve, with the first plugin that is initialised. The workers live as long as the kubelet.
func (m *manager) start(host volume.VolumeHost) {
	m.once.Do(func() {
		m.host = host
		client := host.GetKubeClient()
		if client == nil {
			return
		}
		m.actions = newActions(host, m.config)
		m.source = source.New(client)
		m.pods.watch = m.source.Pods(string(host.GetNodeName()))
		m.source.OnOutage(m.pods.outage)
		m.queue = workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[job](100*time.Millisecond, 10*time.Second))
		for range workers {
			m.wg.Go(m.work)
		}
	})
}

// stop ends all that start began. The kubelet never calls it; a test does.
func (m *manager) stop() {
	m.queue.ShutDown()
	m.wg.Wait()
	m.actions.stop()
	m.pods.close()
	m.source.Close()
}

func (m *manager) work() {
	for {
		j, shutdown := m.queue.Get()
		if shutdown {
			return
		}
		m.do(j)
		m.queue.Done(j)
	}
}

func (m *manager) do(j job) {
	m.mu.Lock()
	mt := m.mounts[j.key]
	m.mu.Unlock()
	if mt == nil {
		m.queue.Forget(j)
		return
	}
	if j.prune {
		if next := mt.prune(); next > 0 {
			m.queue.AddAfter(j, next)
		}
		return
	}
	if err := mt.refresh(); err != nil {
		klog.ErrorS(err, "Configuration volume keeps its last good files", "podUID", j.key.pod, "volume", j.key.volume)
		m.queue.AddRateLimited(j)
		return
	}
	m.queue.Forget(j)
}

// setUp sets a volume up for the first time, or brings it up to date.
func (m *manager) setUp(k key, r request) error {
	m.mu.Lock()
	mt := m.mounts[k]
	if mt == nil {
		mt = newMount(m, k)
		m.mounts[k] = mt
	}
	m.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := mt.setUp(ctx, r)
	if err != nil && !mt.isGood() {
		// The kubelet may never ask for it again, nor tear down what was not set up.
		m.remove(k)
	}
	return err
}

// remove stops following a volume's objects. When it returns, nothing writes into the volume any more.
func (m *manager) remove(k key) {
	m.mu.Lock()
	mt := m.mounts[k]
	delete(m.mounts, k)
	m.mu.Unlock()
	m.notices.forget(k.pod, k.volume)
	if mt != nil {
		mt.close()
	}
}
