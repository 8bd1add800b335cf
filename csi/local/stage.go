package local

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/csi/host"
	"github.com/orlop-io/orlop/csi/volume"
)

// Stage implements volume.Mounter: the volume's files appear at path. For a block device nothing is mounted, and the
// device is made ready.
func (p *Pool) Stage(ctx context.Context, id volume.ID, path string, c volume.Capability) (err error) {
	r, m, dir, err := p.openVolume(id)
	if err != nil {
		return fmt.Errorf("stage: %w", err)
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	if err := p.stage(ctx, r, m, dir, path, c); err != nil {
		return fmt.Errorf("stage volume %s (%s) at %s: %w", id, r.Name, path, err)
	}
	return nil
}

func (p *Pool) stage(ctx context.Context, r record, m Medium, dir *host.Root, path string, c volume.Capability) error {
	if err := checkUse(r, m, c); err != nil {
		return err
	}
	if c.Block {
		_, err := m.Attach(ctx, dir)
		return err
	}
	there, err := p.host.MountAt(path)
	if err != nil {
		return err
	}
	if there != nil {
		if err := p.checkShown(m, dir, *there); err != nil {
			return err
		}
	} else {
		if err := p.host.MakeDir("stage.mkdir", path); err != nil {
			return err
		}
		opts, data, err := ParseMountFlags(c.MountFlags, m.MountFlags())
		if err != nil {
			return err
		}
		if err := m.Mount(ctx, dir, path, opts&^unix.MS_RDONLY, data); err != nil {
			return err
		}
	}
	return m.Settle(ctx, path)
}

// checkUse reports why a volume cannot be used in that way.
func checkUse(r record, m Medium, c volume.Capability) error {
	if err := m.Check(c); err != nil {
		return err
	}
	if c.Block != r.Block {
		return fmt.Errorf("%w: it was made %s and is asked for %s", volume.ErrInvalid, access(r.Block), access(c.Block))
	}
	return nil
}

func access(block bool) string {
	if block {
		return "as a block device"
	}
	return "with a file system"
}

// checkShown fails with volume.ErrIncompatible unless the mount shows the volume.
func (p *Pool) checkShown(m Medium, dir *host.Root, there host.Mount) error {
	shown, err := m.Shown(dir, []host.Mount{there})
	if err != nil {
		return err
	}
	if len(shown) == 0 {
		return fmt.Errorf("%w: something else (%s from %s) is mounted at %s; unmount it first",
			volume.ErrIncompatible, there.FSType, there.Source, there.Target)
	}
	return nil
}

// Unstage implements volume.Mounter. It also serves for a volume that does not exist any more, so that a node can always
// be cleaned.
func (p *Pool) Unstage(ctx context.Context, id volume.ID, path string) error {
	if err := p.host.Unmount("unstage.unmount", path); err != nil {
		return fmt.Errorf("unstage volume %s: %w", id, err)
	}
	r, m, dir, err := p.openVolume(id)
	if errors.Is(err, volume.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("unstage: %w", err)
	}
	if r.Block {
		err = m.Release(ctx, dir)
	}
	if err = errors.Join(err, dir.Close()); err != nil {
		return fmt.Errorf("unstage volume %s (%s): %w", id, r.Name, err)
	}
	return nil
}
