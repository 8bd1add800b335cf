package local

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/csi/host"
	"github.com/orlop-io/orlop/csi/volume"
)

// Delete implements volume.Backend. The volume is gone once its directory is in the trash. Room that was reserved for it
// is free when Delete returns; a directory tree is removed later, by Run.
func (p *Pool) Delete(ctx context.Context, id volume.ID) error {
	r, m, dir, err := p.openVolume(id)
	if errors.Is(err, volume.ErrNotFound) {
		return p.deleteIncomplete(id)
	}
	if err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	err = p.letGo(ctx, id, m, dir)
	if cerr := dir.Close(); err == nil {
		err = cerr
	}
	trash := ""
	if err == nil {
		trash, err = p.discard(id.Key())
	}
	if err == nil && m.Reserves() {
		err = p.root.RemoveAll(ctx, "delete.remove", trash)
	}
	if err != nil {
		return fmt.Errorf("delete volume %s (%s): %w", id, r.Name, err)
	}
	return nil
}

// deleteIncomplete removes what an interrupted Create left of the volume, if anything.
func (p *Pool) deleteIncomplete(id volume.ID) error {
	if _, err := p.load(id.Key()); !errors.Is(err, errIncomplete) {
		return nil
	}
	if _, err := p.discard(id.Key()); err != nil {
		return fmt.Errorf("delete incomplete volume %s: %w", id, err)
	}
	return nil
}

// letGo fails with volume.ErrInUse while the volume is mounted, or something is mounted beneath its directory, and gives
// up its block device.
func (p *Pool) letGo(ctx context.Context, id volume.ID, m Medium, dir *host.Root) error {
	mounts, err := p.host.Mounts()
	if err != nil {
		return err
	}
	shown, err := m.Shown(dir, mounts)
	if err != nil {
		return err
	}
	for _, mount := range mounts {
		// The pool's own path may hold symbolic links, the volume's directory within it cannot be mistaken.
		if strings.Contains(mount.Target, "/"+volumeDir(id)+"/") {
			shown = append(shown, mount)
		}
	}
	if len(shown) > 0 {
		return fmt.Errorf("%w: mounted at %s; unmount it first", volume.ErrInUse, shown[0].Target)
	}
	return m.Release(ctx, dir)
}

// discard moves the directory of the volume with that key to the trash, and returns its name there: from then on there
// is no such volume. Nothing there is no error.
func (p *Pool) discard(key string) (trash string, err error) {
	from := path.Join(volumesDir, key)
	exists, err := p.root.Exists(from)
	if err != nil || !exists {
		return "", err
	}
	taken, err := p.root.Names(trashDir)
	if err != nil {
		return "", err
	}
	name := ""
	for n := 0; ; n++ {
		if name = fmt.Sprintf("%s.%d", key, n); !slices.Contains(taken, name) {
			break
		}
	}
	trash = path.Join(trashDir, name)
	if err := p.root.Rename("discard.rename", from, trash); err != nil {
		return "", err
	}
	p.noticeRubbish()
	return trash, nil
}

// noticeRubbish has Run look at the trash.
func (p *Pool) noticeRubbish() {
	select {
	case p.rubbish <- struct{}{}:
	default:
	}
}

// EmptyTrash removes all that deleted volumes have left. What cannot be removed does not keep the rest from being.
func (p *Pool) EmptyTrash(ctx context.Context) error {
	names, err := p.root.Names(trashDir)
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range names {
		if err := p.root.RemoveAll(ctx, "trash.remove", path.Join(trashDir, n)); err != nil {
			errs = append(errs, fmt.Errorf("remove %s: %w", filepath.Join(p.root.Path(), trashDir, n), err))
		}
	}
	return errors.Join(errs...)
}

// reconcile puts in order what a killed process left: incomplete volumes go to the trash, block devices that nothing
// uses are given up. One volume that cannot be put in order does not keep the others from being used.
func (p *Pool) reconcile(ctx context.Context) error {
	log := klog.FromContext(ctx)
	keys, err := p.root.Names(volumesDir)
	if err != nil {
		return err
	}
	for _, key := range keys {
		if !volume.IsKey(key) {
			log.Info("Something in the pool is no volume and is left as it is", "name", key)
			continue
		}
		if err := p.reconcileVolume(ctx, key); err != nil {
			log.Error(err, "A volume could not be put in order and is left as it is", "key", key)
		}
	}
	p.noticeRubbish()
	return nil
}

func (p *Pool) reconcileVolume(ctx context.Context, key string) error {
	r, err := p.load(key)
	if errors.Is(err, errIncomplete) {
		klog.FromContext(ctx).Info("Removing a volume whose creation was interrupted", "key", key)
		_, err := p.discard(key)
		return err
	}
	// A loop device under a file system goes with its last mount; one that a workload uses as it is stays.
	if err != nil || !r.Block {
		return err
	}
	_, m, dir, err := p.openVolume(r.id())
	if err != nil {
		return err
	}
	err = p.letGo(ctx, r.id(), m, dir)
	if errors.Is(err, volume.ErrInUse) {
		err = nil
	}
	return errors.Join(err, dir.Close())
}

// Get implements volume.Backend.
func (p *Pool) Get(_ context.Context, id volume.ID) (volume.Volume, error) {
	r, _, dir, err := p.openVolume(id)
	if err != nil {
		return volume.Volume{}, err
	}
	return p.describe(r), dir.Close()
}

// List implements volume.Backend. Volumes that are not complete, or whose record is damaged, are left out.
func (p *Pool) List(ctx context.Context) ([]volume.Volume, error) {
	keys, err := p.root.Names(volumesDir)
	if err != nil {
		return nil, err
	}
	var volumes []volume.Volume
	for _, key := range keys {
		r, err := p.load(key)
		switch {
		case err == nil:
			volumes = append(volumes, p.describe(r))
		case !errors.Is(err, volume.ErrNotFound) && !errors.Is(err, errIncomplete):
			klog.FromContext(ctx).Error(err, "A volume is left out of the list", "key", key)
		}
	}
	slices.SortFunc(volumes, func(a, b volume.Volume) int { return strings.Compare(a.ID.String(), b.ID.String()) })
	return volumes, nil
}
