package volumes

import (
	"errors"
	"fmt"

	v1 "k8s.io/api/core/v1"

	"github.com/orlop-io/orlop/configsync/payload"
	"github.com/orlop-io/orlop/configsync/reference"
)

// Reasons of the events on a pod that tell of files mounted with subPath.
const (
	// reasonSubPathNotLive: a file or directory that does not follow its object.
	reasonSubPathNotLive = "SubPathNotLive"
	// reasonSubPathInvalid: the annotation has a value that means nothing.
	reasonSubPathInvalid = "SubPathAnnotationInvalid"
	// reasonSubPathKept: a file whose key is gone keeps its last content.
	reasonSubPathKept = "SubPathKeyRemoved"
)

// overwrite brings the files that containers mount with subPath to the payload that the volume shows, if the pod asks
// for it. Directories are left alone: their generation is kept, and the event at the start said so.
func (mt *mount) overwrite(p payload.Payload) error {
	if !reference.FollowsSubPath(mt.request.pod) {
		mt.shown = nil
		return nil
	}
	mt.shown = &p
	binds, err := mt.binds()
	if err != nil {
		return fmt.Errorf("files mounted with subPath: %w", err)
	}
	removed := map[string]bool{}
	var errs []error
	for i := range binds {
		b := &binds[i]
		if b.dir {
			continue
		}
		f, ok := p.Files[b.name]
		if !ok {
			at := b.container + "/" + b.index
			removed[at] = true
			if !mt.removed[at] {
				mt.warning(reasonSubPathKept, "Container %q mounts %s of volume %q with subPath: the key is "+
					"gone, and the file keeps its last content", b.container, b.name, mt.key.volume)
			}
			continue
		}
		if err := mt.overwriteOne(b, f); err != nil {
			errs = append(errs, fmt.Errorf("container %q mounts %s with subPath: %w", b.container, b.name, err))
		}
	}
	mt.removed = removed
	return errors.Join(append(errs, closeBinds(binds))...)
}

func (mt *mount) overwriteOne(b *bind, f payload.File) (err error) {
	file, err := b.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	_, err = mt.writer.Overwrite(file, b.generation, b.name, f)
	return err
}

// overwriteLate does it once more some time after a change: a container that started at that very moment may have been
// given a file of the earlier generation. The kubelet's next SetUp heals what fails here.
func (mt *mount) overwriteLate() error {
	if mt.shown == nil {
		return nil
	}
	return mt.overwrite(*mt.shown)
}

// warning writes a Warning event on the pod, where the host reports events.
func (mt *mount) warning(reason, format string, args ...any) {
	if recorder := mt.manager.host.GetEventRecorder(); recorder != nil {
		recorder.Eventf(mt.request.pod, v1.EventTypeWarning, reason, format, args...)
	}
}
