package config

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/configsync/payload"
	"github.com/orlop-io/orlop/configsync/source"
	"github.com/orlop-io/orlop/configsync/writer"
	"github.com/orlop-io/orlop/csi/host"
	csivolume "github.com/orlop-io/orlop/csi/volume"
)

const (
	// readOnly is how pods see a volume.
	readOnly = host.MountOptions(unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV)

	// maxFiles bounds what the files of a volume take, by whole blocks: a few lines of items can name one key of a
	// megabyte thousands of times. maxTmpfs leaves room for a new generation beside the visible and superseded ones.
	maxFiles = 64 << 20
	maxTmpfs = 4 * maxFiles
	block    = 4096
)

// payload collects the volume's objects from get and decides its files. v.mu is held.
func (v *volume) payload(get func(*source.Ref) (*payload.Object, error)) (payload.Payload, error) {
	described := payload.Volume{DefaultMode: defaultFileMode, FSGroup: v.p.FSGroup, Exact: true}
	for _, s := range v.p.spec.Sources {
		object, err := get(v.refs[s.Key])
		if err != nil {
			return payload.Payload{}, err
		}
		described.Sources = append(described.Sources, payload.Source{
			Object: object, Items: s.Items, Optional: s.Optional, Mode: s.Mode, UID: s.UID, GID: s.GID,
		})
	}
	built, err := payload.Build(described)
	if err != nil {
		return payload.Payload{}, err
	}
	var size int64
	for _, f := range built.Files {
		size += (int64(len(f.Data))/block + 1) * block
	}
	if size > maxFiles {
		return payload.Payload{}, fmt.Errorf("%w: the files of volume %s take %d MiB of memory and %d are the most; "+
			"name fewer items", csivolume.ErrInvalid, v.p.volumeName(), size>>20, maxFiles>>20)
	}
	return built, nil
}

// errNoNews is an object that is being read for the first time: the event of its arrival writes the volume.
var errNoNews = errors.New("not read yet")

// follow writes the volume after an event. It returns an error if that is to be tried again.
func (v *volume) follow() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	err := v.refresh(func(ref *source.Ref) (*payload.Object, error) {
		if o := ref.Last(); o != nil {
			return o, nil
		}
		return nil, errNoNews
	})
	if errors.Is(err, errNoNews) {
		return nil
	}
	v.report(err)
	var step *writer.StepError
	if errors.As(err, &step) {
		return err
	}
	// An object that is missing, wrong or forbidden: the next event, or republish, tries again.
	return nil
}

// refresh writes the volume's files with objects from get, and says why it could not, or why they may be behind although
// it could. v.mu is held.
func (v *volume) refresh(get func(*source.Ref) (*payload.Object, error)) error {
	if v.closed || v.tree == nil {
		return nil
	}
	built, err := v.payload(get)
	if err == nil {
		v.track()
		if err = v.write(built); err == nil {
			v.act()
		}
	}
	var step *writer.StepError
	if denied := v.denied(); denied != nil && !errors.As(err, &step) {
		return denied
	}
	return err
}

// denied says which object may no longer be read, nil where all may. v.mu is held.
func (v *volume) denied() error {
	var errs []error
	for _, s := range v.p.spec.Sources {
		switch err := v.refs[s.Key].Failure(); {
		case apierrors.IsForbidden(err):
			errs = append(errs, fmt.Errorf("%w: %s", csivolume.ErrForbidden, advice(v.account.Account, s.Key)))
		case apierrors.IsUnauthorized(err):
			errs = append(errs, fmt.Errorf("%s cannot be read: %w", s.Key, errNoValidToken))
		}
	}
	return errors.Join(errs...)
}

// writeTo has the files written to that file system, which is the volume's from now on. v.mu is held.
func (v *volume) writeTo(tree *os.File) {
	h := v.driver.host
	v.tree = tree
	v.writer = writer.New(h.FDPath(tree), writer.Options{
		Before: func(s writer.Step) error { return h.Step(host.Label("write: " + string(s))) },
		// Removing a generation would empty a directory that a container has mounted with subPath.
		Pinned: func() (map[string]bool, error) { return writer.MountedDirs(tree) },
	})
}

// write writes the files and has superseded generations removed later. v.mu is held.
func (v *volume) write(p payload.Payload) error {
	changed, err := v.writer.Write(p)
	path := v.driver.host.FDPath(v.tree)
	if err != nil {
		return &writeError{text: strings.ReplaceAll(err.Error(), path, v.p.Target), err: err}
	}
	if changed {
		v.driver.queue.AddAfter(job{v.id, true}, writer.DefaultGrace)
	}
	return nil
}

// writeError names the volume by where it is seen, and not by how the driver writes it.
type writeError struct {
	text string
	err  error
}

func (e *writeError) Error() string { return e.text }
func (e *writeError) Unwrap() error { return e.err }

// prune removes generations whose grace has passed and returns when to come again, zero for never.
func (v *volume) prune() time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed || v.tree == nil {
		return 0
	}
	next, err := v.writer.Prune()
	if err != nil {
		klog.ErrorS(err, "Superseded files of a configuration volume stay for now", "target", v.p.Target)
	}
	return next
}
