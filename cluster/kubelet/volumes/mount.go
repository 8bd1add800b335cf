package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"sync"
	"syscall"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/kubelet/events"
	"k8s.io/kubernetes/pkg/volume"
	volumeutil "k8s.io/kubernetes/pkg/volume/util"

	"github.com/orlop-io/orlop/configsync/action"
	"github.com/orlop-io/orlop/configsync/payload"
	"github.com/orlop-io/orlop/configsync/source"
	"github.com/orlop-io/orlop/configsync/writer"
)

// mount is one volume that is set up, or being set up.
type mount struct {
	manager *manager
	key     key

	// mu is held while the volume is written, so that no event writes while the kubelet sets up or takes down.
	mu      sync.Mutex
	closed  bool
	good    bool // a whole generation is visible
	request request
	writer  *writer.Writer
	refs    map[source.Key]*source.Ref
	podRef  *podRef
	device  uint64           // the file system that the files are on
	warned  string           // what the last event said
	shown   *payload.Payload // what files mounted with subPath are to hold, if they follow
	removed map[string]bool  // of those, the ones whose key is gone, by container and index

	onChange *action.Spec    // what the pod wants done on a change, nil for nothing
	tracker  *action.Tracker // nil where changes of this volume are not acted on
}

func newMount(m *manager, k key) *mount {
	return &mount{manager: m, key: k, refs: map[source.Key]*source.Ref{}}
}

// setUp subscribes to the volume's objects and writes it. Where it was set up before, a failure leaves its files, and is
// returned so that the kubelet tells the user.
func (mt *mount) setUp(ctx context.Context, r request) error {
	mt.mu.Lock()
	defer mt.mu.Unlock()
	if mt.closed {
		return fmt.Errorf("volume %s is being taken down", mt.key.volume)
	}
	if mt.request.dir != r.dir {
		mt.writer = nil
		mt.untrack()
	}
	mt.request = r
	mt.subscribe()
	p, err := mt.payload(func(ref *source.Ref) (*payload.Object, error) { return ref.Get(ctx) })
	if err != nil {
		return mt.keepEarlier(err)
	}
	// emptyDir makes the directory, mounts the tmpfs, and does nothing where that is done.
	spec := volume.Spec{Volume: &v1.Volume{VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: r.medium}}}}
	wrapped, err := mt.manager.host.NewWrapperMounter(mt.key.volume, spec, r.pod)
	if err != nil {
		return err
	}
	if err := wrapped.SetUpAt(r.dir, r.args); err != nil {
		return err
	}
	if err := volumeutil.MakeNestedMountpoints(mt.key.volume, r.dir, *r.pod); err != nil {
		return mt.undo(err)
	}
	if mt.device, err = device(r.dir); err != nil {
		return mt.undo(err)
	}
	mt.open()
	// Whatever is wrong with files of an earlier process, they were found, and the write mends them.
	_, found, err := mt.writer.Current()
	found = found || err != nil
	if err := mt.write(p); err != nil {
		return mt.undo(err)
	}
	mt.notify(found)
	return nil
}

// device returns the file system that a directory is on.
func device(dir string) (uint64, error) {
	var stat syscall.Stat_t
	if err := syscall.Stat(dir, &stat); err != nil {
		return 0, &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	return stat.Dev, nil
}

// keepEarlier lets a kubelet that was restarted go on with the files of the earlier process when the objects cannot be
// had: the pod runs with them already.
func (mt *mount) keepEarlier(err error) error {
	if mt.good {
		return err
	}
	if _, statErr := os.Stat(mt.request.dir); statErr != nil {
		return err
	}
	mt.open()
	if _, ok, currentErr := mt.writer.Current(); currentErr != nil || !ok {
		return errors.Join(err, currentErr)
	}
	var deviceErr error
	if mt.device, deviceErr = device(mt.request.dir); deviceErr != nil {
		return errors.Join(err, deviceErr)
	}
	mt.good = true
	// The earlier process may have been killed before it acted on its last change.
	mt.track()
	mt.report()
	mt.warn(err)
	klog.ErrorS(err, "Configuration volume keeps the files from before the restart", "pod", klog.KObj(mt.request.pod), "volume", mt.key.volume)
	return nil
}

// undo takes down what a first set-up left. A volume that is in use keeps its last good files.
func (mt *mount) undo(err error) error {
	if mt.good {
		return err
	}
	return errors.Join(err, mt.request.tearDown())
}

// write writes the payload and has superseded generations removed later.
func (mt *mount) write(p payload.Payload) error {
	mt.open()
	first := !mt.good
	mt.track()
	changed, err := mt.writer.Write(p)
	if err != nil {
		return err
	}
	mt.good = true
	if changed || first {
		// What an earlier process left is found now and removed like what this one supersedes.
		mt.manager.queue.AddAfter(job{mt.key, true}, writer.DefaultGrace)
	}
	if err := mt.overwrite(p); err != nil {
		return err
	}
	mt.warned = ""
	mt.report()
	return nil
}

func (mt *mount) open() {
	if mt.writer == nil {
		o := mt.manager.writer
		o.Sync, o.Pinned = mt.request.medium == v1.StorageMediumDefault, mt.pinned
		mt.writer = writer.New(mt.request.dir, o)
	}
}

// refresh writes the volume after an event. It returns an error if that is to be tried again; an object that is
// missing or wrong is reported on the pod, and the next event tries again.
func (mt *mount) refresh() error {
	mt.mu.Lock()
	defer mt.mu.Unlock()
	if mt.closed || !mt.good {
		return nil
	}
	p, err := mt.payload(func(ref *source.Ref) (*payload.Object, error) {
		if o := ref.Last(); o != nil {
			return o, nil
		}
		return nil, errNoNews
	})
	var refused *payload.Error
	switch {
	case errors.Is(err, errNoNews):
		return nil
	case errors.As(err, &refused):
		mt.warn(err)
		return nil
	case err != nil:
		mt.warn(err)
		return err
	}
	// A Secret must not get on disk because somebody unmounted its tmpfs. SetUp mounts it again.
	if now, err := device(mt.request.dir); err != nil || now != mt.device {
		mt.warn(errors.Join(errMoved, err))
		return nil
	}
	if err := mt.write(p); err != nil {
		mt.warn(err)
		return err
	}
	return nil
}

var errMoved = errors.New("its file system is not mounted any more; the kubelet mounts it again within two minutes")

// errNoNews is an object that is being read for the first time: the event of its arrival writes the volume.
var errNoNews = errors.New("not read yet")

// generationName is the name of a generation, which differs at each try.
var generationName = regexp.MustCompile(`\.\.[0-9_]+\.[0-9]+`)

// warn tells the user once that the volume is behind, however often it is tried.
func (mt *mount) warn(err error) {
	text := generationName.ReplaceAllString(err.Error(), "<generation>")
	if mt.warned == text {
		return
	}
	mt.warned = text
	mt.warning(events.FailedMountVolume, "Volume %q keeps its last good files: %s", mt.key.volume, text)
}

// prune removes generations whose grace has passed and returns when to come again, zero for never.
func (mt *mount) prune() time.Duration {
	mt.mu.Lock()
	defer mt.mu.Unlock()
	if mt.closed || mt.writer == nil {
		return 0
	}
	if err := mt.overwriteLate(); err != nil {
		klog.ErrorS(err, "Files mounted with subPath are behind for now", "podUID", mt.key.pod, "volume", mt.key.volume)
	}
	next, err := mt.writer.Prune()
	if err != nil {
		klog.ErrorS(err, "Superseded files of a configuration volume stay for now", "podUID", mt.key.pod, "volume", mt.key.volume)
	}
	return next
}

func (mt *mount) isGood() bool {
	mt.mu.Lock()
	defer mt.mu.Unlock()
	return mt.good
}

// close gives all references up.
func (mt *mount) close() {
	mt.mu.Lock()
	defer mt.mu.Unlock()
	mt.closed = true
	mt.untrack()
	for _, ref := range mt.refs {
		ref.Release()
	}
	mt.refs = nil
	if mt.podRef != nil {
		mt.podRef.release()
	}
}
