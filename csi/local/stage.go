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
		if err := m.Mount(ctx, dir, path, c.MountFlags); err != nil {
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

// Publish implements volume.Mounter.
func (p *Pool) Publish(ctx context.Context, id volume.ID, req volume.PublishRequest) (err error) {
	r, m, dir, err := p.openVolume(id)
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	if err := p.publish(ctx, r, m, dir, req); err != nil {
		return fmt.Errorf("publish volume %s (%s) at %s: %w", id, r.Name, req.Target, err)
	}
	return nil
}

func (p *Pool) publish(ctx context.Context, r record, m Medium, dir *host.Root, req volume.PublishRequest) error {
	if err := checkUse(r, m, req.Capability); err != nil {
		return err
	}
	if r.Block && req.ReadOnly {
		// A read-only mount of a device's node would not keep anyone from writing to the device.
		return fmt.Errorf("%w: a block device cannot be published read-only", volume.ErrInvalid)
	}
	mounts, err := p.host.Mounts()
	if err != nil {
		return err
	}
	shown, err := m.Shown(dir, mounts)
	if err != nil {
		return err
	}
	if err := p.checkSingleWriter(shown, req); err != nil {
		return err
	}
	readOnly := req.ReadOnly || req.Capability.Mode == volume.SingleNodeReaderOnly
	switch there, err := p.host.MountAt(req.Target); {
	case err != nil:
		return err
	case there != nil:
		if err := p.checkShown(m, dir, *there); err != nil {
			return err
		}
		if there.ReadOnly != readOnly && !there.FSReadOnly {
			return fmt.Errorf("%w: published there already, read-only: %t", volume.ErrIncompatible, there.ReadOnly)
		}
		return nil
	}
	if r.Block {
		return p.publishDevice(ctx, m, dir, req.Target)
	}
	return p.publishMount(m, dir, req, readOnly)
}

// checkSingleWriter keeps a volume for a single writer from being published at a second target (section
// "NodePublishVolume" of the CSI specification). The kubelet's mounts of a part of the volume (subPath) do not count:
// their pod has the whole volume published too.
func (p *Pool) checkSingleWriter(shown []host.Mount, req volume.PublishRequest) error {
	if req.Capability.Mode != volume.SingleNodeSingleWriter {
		return nil
	}
	staging, err := p.host.Resolve(req.Staging)
	if err != nil {
		return err
	}
	target, err := p.host.Resolve(req.Target)
	if err != nil {
		return err
	}
	root := ""
	for _, m := range shown {
		if m.Target == staging {
			root = m.Root
		}
	}
	for _, m := range shown {
		if m.Target != staging && m.Target != target && (root == "" || m.Root == root) {
			return fmt.Errorf("%w: it has a single writer and is published at %s; unpublish it there first",
				volume.ErrInUse, m.Target)
		}
	}
	return nil
}

func (p *Pool) publishMount(m Medium, dir *host.Root, req volume.PublishRequest, readOnly bool) (err error) {
	staged, err := p.host.MountAt(req.Staging)
	if err != nil {
		return err
	}
	if staged == nil {
		return fmt.Errorf("%w at %s", volume.ErrNotStaged, req.Staging)
	}
	if err := p.checkShown(m, dir, *staged); err != nil {
		return err
	}
	source, err := p.host.OpenPath(req.Staging)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	if err := p.host.MakeDir("publish.mkdir", req.Target); err != nil {
		return err
	}
	opts, _, err := ParseMountFlags(req.Capability.MountFlags, m.MountFlags())
	if err != nil {
		return err
	}
	return p.host.Bind("publish.bind", source, req.Target, opts|readOnlyOption(readOnly))
}

func (p *Pool) publishDevice(
	ctx context.Context, m Medium, dir *host.Root, target string,
) (err error) {
	device, err := m.Attach(ctx, dir)
	if err != nil {
		return err
	}
	source, err := p.host.OpenPath(device)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	if err := p.host.MakeFile("publish.mkfile", target); err != nil {
		return err
	}
	return p.host.Bind("publish.bind", source, target, 0)
}

func readOnlyOption(readOnly bool) host.MountOptions {
	if readOnly {
		return unix.MS_RDONLY
	}
	return 0
}

// Unpublish implements volume.Mounter. It also serves for a volume that does not exist any more.
func (p *Pool) Unpublish(_ context.Context, id volume.ID, target string) error {
	err := p.host.Unmount("unpublish.unmount", target)
	if err == nil {
		err = p.host.Remove("unpublish.remove", target)
	}
	if err != nil {
		return fmt.Errorf("unpublish volume %s: %w", id, err)
	}
	return nil
}

// Stats implements volume.Mounter.
func (p *Pool) Stats(_ context.Context, id volume.ID, path string) (s volume.Stats, err error) {
	r, m, dir, err := p.openVolume(id)
	if err != nil {
		return s, fmt.Errorf("stats: %w", err)
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	there, err := p.host.MountAt(path)
	if err != nil {
		return s, err
	}
	if there != nil {
		shown, err := m.Shown(dir, []host.Mount{*there})
		if err != nil {
			return s, err
		}
		if len(shown) == 0 {
			there = nil
		}
	}
	if there == nil {
		return s, fmt.Errorf("volume %s (%s): %w at %s", id, r.Name, volume.ErrNotFound, path)
	}
	if r.Block {
		return volume.Stats{Block: true, TotalBytes: r.Capacity}, nil
	}
	space, err := p.host.Statfs(path)
	if err != nil {
		return s, err
	}
	s = volume.Stats{
		TotalBytes: space.Total, UsedBytes: space.Used, AvailableBytes: space.Available,
		TotalInodes: space.Inodes, UsedInodes: space.UsedInodes, FreeInodes: space.FreeInodes,
	}
	if there.FSReadOnly {
		s.Abnormal = "the file system is read-only, as ext4 makes it after an error; see the kernel's log"
	}
	return s, nil
}
