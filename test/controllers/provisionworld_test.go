package controllers

import (
	"context"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2/ktesting"

	"github.com/orlop-io/orlop/provisioner"
	"github.com/orlop-io/orlop/provisioner/csifake"
)

const (
	provisionSelected = "volume.kubernetes.io/selected-node"
	provisionTopology = "topology.test.csi.orlop.io/node"
)

// provisionWorld is a test's namespace, class and driver. The driver is the test's own, so that tests see no claims of
// each other.
type provisionWorld struct {
	*pvWorld
	driver      string
	leaderCalls *provisionWrites
}

// newProvisionWorld makes a world with a late-binding class and, to bind what is provisioned, a PV controller.
func newProvisionWorld(t *testing.T, edit ...func(*storagev1.StorageClass)) *provisionWorld {
	t.Helper()
	w := &provisionWorld{
		pvWorld: newPVWorld(t), leaderCalls: &provisionWrites{role: provisionLeaderRole},
	}
	w.driver = w.ns + ".csi.orlop.io"
	w.createClass(w.driver, storagev1.VolumeBindingWaitForFirstConsumer, edit...)
	runPVController(t, pvConfig(t))
	return w
}

// provisionNode is a node with a driver on it. The driver's volumes and the journal outlive every restart.
type provisionNode struct {
	w       *provisionWorld
	name    string
	driver  *csifake.Driver
	socket  string
	conn    *grpc.ClientConn
	journal string
	writes  *provisionWrites
	stopped func()
}

// node makes a node whose driver serves; its provisioner does not run yet.
func (w *provisionWorld) node(name string) *provisionNode {
	w.t.Helper()
	dir := w.t.TempDir()
	n := &provisionNode{
		w: w, name: w.ns + "-" + name, socket: filepath.Join(dir, "s"), journal: filepath.Join(dir, "journal"),
		writes: &provisionWrites{role: provisionNodeRole},
	}
	n.driver = csifake.New(w.driver, map[string]string{provisionTopology: n.name})
	n.serve()
	n.dial()
	return n
}

// serve starts the driver's server, and returns what stops it.
func (n *provisionNode) serve() (stop func()) {
	n.w.t.Helper()
	stop, err := n.driver.Serve(n.socket)
	if err != nil {
		n.w.t.Fatal(err)
	}
	stop = sync.OnceFunc(stop)
	n.w.t.Cleanup(stop)
	n.stopped = stop
	return stop
}

// run runs the node's provisioner, as the user it is in a cluster, until the returned function is called, or the test
// ends.
func (n *provisionNode) run(edit ...func(*provisioner.NodeConfig)) (stop func()) {
	t := n.w.t
	t.Helper()
	client := n.writes.client(t, provisionIdentity(t, provisionNodeRole, "orlop:storage-node:"+n.name, provisionNodeGroup))
	ctx, cancel := context.WithCancel(context.Background())
	log := ktesting.NewLogger(t, ktesting.NewConfig(ktesting.Verbosity(0)))
	journal, err := provisioner.OpenFileJournal(n.journal, log)
	if err != nil {
		t.Fatal(err)
	}
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	c := provisioner.NodeConfig{
		Client: client, Conn: n.conn, Journal: journal, Driver: n.w.driver, NodeName: n.name, Log: log,
		Recorder: broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "orlop-provisioner"}),
	}
	for _, e := range edit {
		e(&c)
	}
	node, err := provisioner.NewNode(c)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- node.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("provisioner of %s: %v", n.name, err)
		}
		broadcaster.Shutdown()
		if err := journal.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// selected is a claim that the scheduler has given to the node.
func (n *provisionNode) selected(
	name string, edit ...func(*corev1.PersistentVolumeClaim),
) *corev1.PersistentVolumeClaim {
	n.w.t.Helper()
	return n.w.createClaim(n.w.claim(name, "1Mi", append([]func(*corev1.PersistentVolumeClaim){
		func(c *corev1.PersistentVolumeClaim) { c.Annotations = map[string]string{provisionSelected: n.name} },
	}, edit...)...))
}

// untilVolumes waits until the driver has exactly n volumes.
func (n *provisionNode) untilVolumes(want int) {
	n.w.t.Helper()
	n.w.until("the driver's volumes are as many as expected", func() (string, error) {
		if got := n.driver.Volumes(); len(got) != want {
			return "volumes: " + strings.Join(got, ", "), nil
		}
		return "", nil
	})
}

// untilNoPV waits until the claim's PersistentVolume is gone.
func (w *provisionWorld) untilNoPV(claim *corev1.PersistentVolumeClaim) {
	w.t.Helper()
	w.until("the PersistentVolume of claim "+claim.Name+" is gone", func() (string, error) {
		list, err := w.client.CoreV1().PersistentVolumes().List(w.t.Context(), metav1.ListOptions{
			FieldSelector: "metadata.name=" + provisioner.VolumeName(claim.UID)})
		if err != nil || len(list.Items) == 0 {
			return "", err
		}
		return "it is " + string(list.Items[0].Status.Phase), nil
	})
}

// provisionWrites counts the writes that succeed through the clients it makes, events apart, and notes the calls to be
// compared with the role.
type provisionWrites struct {
	role string
	// fault, if any, stands between the client and the API server.
	fault func(next http.RoundTripper, r *http.Request) (*http.Response, error)

	mu     sync.Mutex
	writes map[string]int
}

func (c *provisionWrites) client(t testing.TB, config *rest.Config) kubernetes.Interface {
	t.Helper()
	config = rest.CopyConfig(config)
	config.Wrap(provisionCalls[c.role].wrap)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return provisionTripper(func(r *http.Request) (*http.Response, error) {
			resp, err := c.send(next, r)
			if err == nil && r.Method != http.MethodGet && resp.StatusCode < 300 &&
				!strings.Contains(r.URL.Path, "/events") {
				c.mu.Lock()
				defer c.mu.Unlock()
				if c.writes == nil {
					c.writes = make(map[string]int)
				}
				parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/api/v1/"), "/")
				if parts[0] == "namespaces" {
					parts = parts[2:]
				}
				c.writes[r.Method+" "+parts[0]]++
			}
			return resp, err
		})
	})
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func (c *provisionWrites) send(next http.RoundTripper, r *http.Request) (*http.Response, error) {
	if c.fault != nil {
		return c.fault(next, r)
	}
	return next.RoundTrip(r)
}

func (c *provisionWrites) total() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	sum := 0
	for _, n := range c.writes {
		sum += n
	}
	return sum
}

type provisionTripper func(*http.Request) (*http.Response, error)

func (f provisionTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
