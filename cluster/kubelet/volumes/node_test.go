package volumes

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/kubernetes/pkg/volume"
	"k8s.io/kubernetes/pkg/volume/util/subpath"
	mountutils "k8s.io/mount-utils"

	"github.com/orlop-io/orlop/test/leak"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: mounting needs root")
	}
	leak.Check(t)
}

// ages lets the grace of all superseded generations pass, and has them removed.
func (h *testHost) ages() {
	h.t.Helper()
	h.manager.mu.Lock()
	defer h.manager.mu.Unlock()
	for _, mt := range h.manager.mounts {
		mt.prune() // registers what it finds
		h.late.Add(int64(time.Hour))
		mt.prune()
	}
}

// restart forgets what the process knows of the volumes, as a kubelet that is started again.
func (h *testHost) restart() {
	h.manager.mu.Lock()
	old := h.manager.mounts
	h.manager.mounts = map[key]*mount{}
	h.manager.mu.Unlock()
	for _, mt := range old {
		mt.close()
	}
	h.manager.notices.mu.Lock()
	defer h.manager.notices.mu.Unlock()
	h.manager.notices.pods = nil
}

// recorder is a host that keeps events and makes no mounts.
type recorder struct {
	kubeletHost

	events *record.FakeRecorder
}

func (r *recorder) GetEventRecorder() record.EventRecorder { return r.events }

// recordOnly lets the host keep events; each is one line of "type reason message".
func (h *testHost) recordOnly() *record.FakeRecorder {
	r := &recorder{h.host, record.NewFakeRecorder(100)}
	h.manager.host = r
	return r.events
}

// node is a host that makes real mounts as well.
type node struct{ *recorder }

func (n *node) GetMounter() mountutils.Interface { return mountutils.New("") }

// real lets the host make real mounts and keep events.
func (h *testHost) real() *record.FakeRecorder {
	h.t.Helper()
	events := h.recordOnly()
	n := &node{&recorder{h.host, events}}
	h.manager.host = n
	if err := h.plugins["kubernetes.io/empty-dir"].Init(n); err != nil {
		h.t.Fatal(err)
	}
	return events
}

// told returns the events that were recorded since the last call.
func told(r *record.FakeRecorder) []string {
	var found []string
	for {
		select {
		case e := <-r.Events:
			found = append(found, e)
		default:
			return found
		}
	}
}

// of returns the events of one reason.
func of(events []string, reason string) []string {
	return slices.DeleteFunc(slices.Clone(events), func(e string) bool { return !strings.Contains(e, " "+reason+" ") })
}

func (h *testHost) podDir() string {
	return filepath.Join(h.host.GetPodsDir(), string(h.pod.UID))
}

// startContainer mounts one thing of the volume as the kubelet does when it starts a container, by the kubelet's own
// code, and returns where the runtime finds it.
func (h *testHost) startContainer(container string, index int, dir, name string) string {
	h.t.Helper()
	hostPath, _, err := subpath.New(mountutils.New("")).PrepareSafeSubpath(subpath.Subpath{
		VolumeMountIndex: index, Path: filepath.Join(dir, name), VolumeName: "v", VolumePath: dir, PodDir: h.podDir(),
		ContainerName: container,
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return hostPath
}

// stopContainers takes all subPath mounts down, as the kubelet does before it takes the volume down.
func (h *testHost) stopContainers() {
	h.t.Helper()
	if err := subpath.New(mountutils.New("")).CleanSubPaths(h.podDir(), "v"); err != nil {
		h.t.Error(err)
	}
}

// mounted sets a volume up and has it taken down at the end, with what containers mount of it.
func (h *testHost) mounted(v v1.Volume, args volume.MounterArgs) string {
	h.t.Helper()
	dir, err := h.setUp(v, args)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		h.stopContainers()
		h.tearDown(v)
	})
	return dir
}

func read(t *testing.T, file string) string {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
