package local

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/csi/host"
	"github.com/orlop-io/orlop/csi/volume"
)

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
	opts, err := publishOptions(m, req)
	if err != nil {
		return err
	}
	readOnly := opts&unix.MS_RDONLY != 0
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
	if err := p.checkSingleWriter(m, dir, req); err != nil {
		return err
	}
	if r.Block {
		return p.publishDevice(ctx, m, dir, req.Target)
	}
	return p.publishMount(m, dir, req, opts)
}

// checkSingleWriter keeps a volume for a single writer from being published at a second target (section
// "NodePublishVolume" of the CSI specification). Mounts of a part of the volume, which the kubelet makes for subPath, do not
// count: their pod has the whole volume published too. Nothing is mounted at req.Target: for a target that has the volume
// already, the mounts that the kubelet makes of it in other places would count against it.
func (p *Pool) checkSingleWriter(m Medium, dir *host.Root, req volume.PublishRequest) error {
	if req.Capability.Mode != volume.SingleNodeSingleWriter {
		return nil
	}
	mounts, err := p.host.Mounts()
	if err != nil {
		return err
	}
	shown, err := m.Shown(dir, mounts)
	if err != nil {
		return err
	}
	staging, err := p.host.Resolve(req.Staging)
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
		if m.Target != staging && (root == "" || m.Root == root) {
			return fmt.Errorf("%w: it has a single writer and is published at %s; unpublish it there first",
				volume.ErrInUse, m.Target)
		}
	}
	return nil
}

// publishOptions are the options of the mount at the target. Read-only is a property of that mount alone, never of what is
// staged: the file system under it is read-only only when something is wrong with it.
func publishOptions(m Medium, req volume.PublishRequest) (host.MountOptions, error) {
	opts, _, err := ParseMountFlags(req.Capability.MountFlags, m.MountFlags())
	if req.ReadOnly || req.Capability.Mode == volume.SingleNodeReaderOnly {
		opts |= unix.MS_RDONLY
	}
	return opts, err
}

func (p *Pool) publishMount(
	m Medium, dir *host.Root, req volume.PublishRequest, opts host.MountOptions,
) (err error) {
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
	return p.host.Bind("publish.bind", source, req.Target, opts)
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
