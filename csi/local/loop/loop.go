// Package loop keeps a volume as an image file of the pool with an ext4 file system in it, or as it is for a block
// device, behind a loop device. Its size is enforced by being its size. All of it is reserved when the volume is made: a
// full pool shows when a volume is created, and never as an I/O error in one that exists.
package loop

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/orlop-io/orlop/csi/host"
	"github.com/orlop-io/orlop/csi/local"
	"github.com/orlop-io/orlop/csi/volume"
)

// Sizes in bytes.
const (
	// DefaultSize is the capacity of a volume for which none was asked.
	DefaultSize = 1 << 30
	// MinSize leaves an ext4 file system with a journal some room for files.
	MinSize = 16 << 20
	// MaxSize stays below 16Ti, which no file on ext4, the usual file system of a pool, can reach.
	MaxSize = 15 << 40
	// multiple is the block size of the file system and of direct I/O.
	multiple = 4096
)

// fsType is the file system of volumes.
const fsType = "ext4"

// imageFile is the image, in the volume's own directory.
const imageFile = "image"

// mountFlags are what ext4 understands besides the flags that all volumes do. discard is not among them, since it would
// give back the room that is reserved.
var mountFlags = []string{
	"data=ordered", "data=journal", "lazytime", "nolazytime", "barrier=1", "errors=remount-ro", "errors=continue",
}

// Medium is a local.Medium.
type Medium struct {
	host *host.Host
}

// New returns the medium.
func New(h *host.Host) *Medium { return &Medium{host: h} }

var _ local.Medium = (*Medium)(nil)

// Kind implements local.Medium.
func (*Medium) Kind() volume.Kind { return volume.KindLoop }

// Rule implements local.Medium.
func (*Medium) Rule() volume.SizeRule {
	return volume.SizeRule{Default: DefaultSize, Min: MinSize, Max: MaxSize, Multiple: multiple}
}

// Reserves implements local.Medium.
func (*Medium) Reserves() bool { return true }

// Context implements local.Medium.
func (*Medium) Context() map[string]string { return nil }

// MountFlags implements local.Medium.
func (*Medium) MountFlags() []string { return mountFlags }

// Check implements local.Medium.
func (m *Medium) Check(c volume.Capability) error {
	if c.FSType != "" && c.FSType != fsType {
		return fmt.Errorf("%w: a volume of backend loop cannot have the file system %q; allowed is %q",
			volume.ErrInvalid, c.FSType, fsType)
	}
	if c.Block && c.Mode == volume.SingleNodeReaderOnly {
		return fmt.Errorf("%w: a block device cannot be read-only", volume.ErrInvalid)
	}
	_, _, err := local.ParseMountFlags(c.MountFlags, m.MountFlags())
	return err
}

// Allocate implements local.Medium.
func (m *Medium) Allocate(_ context.Context, vol *host.Root, capacity int64) (err error) {
	image, err := vol.Create("create.image", imageFile, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, image.Close()) }()
	if err := m.host.Overwrite("create.overwrite", image); err != nil {
		return err
	}
	return m.host.Reserve("create.reserve", image, capacity)
}

// Format implements local.Medium.
func (m *Medium) Format(ctx context.Context, vol *host.Root, block bool) (err error) {
	image, err := vol.Open(imageFile, os.O_RDWR)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, image.Close()) }()
	if !block {
		if err := m.host.MakeExt4(ctx, "create.mkfs", image); err != nil {
			return err
		}
	}
	return m.host.Sync("create.sync", image)
}

// Mount implements local.Medium. The loop device clears itself when the last mount of it goes, so that no one has to
// find and detach it afterwards.
func (m *Medium) Mount(
	_ context.Context, vol *host.Root, path string, opts host.MountOptions, data []string,
) (err error) {
	dev, err := m.attach("stage", vol, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	// noinit_itable: zeroing inode tables could punch holes into the reserved image, and is of no use here.
	data = append(slices.Clone(data), "noinit_itable")
	return m.host.MountFS("stage.mount", dev.Name(), path, fsType, opts, strings.Join(data, ","))
}

// lostFoundInode is the inode number of the lost+found that mkfs makes.
const lostFoundInode = 11

// Settle implements local.Medium. In a fresh file system every user may write, as in a plain directory, and lost+found
// goes, since databases refuse a data directory that is not empty.
func (m *Medium) Settle(_ context.Context, path string) error {
	lost := filepath.Join(path, "lost+found")
	fresh, err := m.host.HasInode(lost, lostFoundInode)
	if err != nil || !fresh {
		return err
	}
	if err := m.host.Chmod("stage.chmod", path, 0o777); err != nil {
		return err
	}
	return m.host.Remove("stage.lostfound", lost)
}

// attach returns an open loop device for the image. One that is attached already is used again: two devices on one image
// would each cache it and destroy it. Holes in the image are reserved first. Steps begin with op.
func (m *Medium) attach(op host.Label, vol *host.Root, autoClear bool) (dev *os.File, err error) {
	image, err := vol.Open(imageFile, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	defer func() {
		if cerr := image.Close(); cerr != nil && err == nil {
			dev, err = nil, errors.Join(cerr, dev.Close())
		}
	}()
	info, err := image.Stat()
	if err != nil {
		return nil, err
	}
	devices, err := m.devices(vol, info)
	if err != nil {
		return nil, err
	}
	for _, d := range devices {
		if dev, err := m.host.OpenLoop(d, info); err != nil || dev != nil {
			return dev, err
		}
	}
	if err := m.host.Reserve(op+".reserve", image, info.Size()); err != nil {
		return nil, err
	}
	return m.host.AttachLoop(op+".attach", image, autoClear)
}

// devices lists the loop devices of the volume's image, which info describes.
func (m *Medium) devices(vol *host.Root, info fs.FileInfo) ([]host.LoopDevice, error) {
	return m.host.LoopDevicesOf(filepath.Join("/", filepath.Base(vol.Path()), imageFile), info)
}

// Attach implements local.Medium. The device stays attached after a kill, for the workload that uses it.
func (m *Medium) Attach(_ context.Context, vol *host.Root) (string, error) {
	dev, err := m.attach("attach", vol, false)
	if err != nil {
		return "", err
	}
	return dev.Name(), dev.Close()
}

// releasePatience is how long Release waits for a device to become free. A container that was being started when the volume
// was unmounted holds a copy of the mount for a moment.
const releasePatience = 3 * time.Second

// Release implements local.Medium.
func (m *Medium) Release(ctx context.Context, vol *host.Root) error {
	info, err := vol.Stat(imageFile)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, releasePatience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		devices, err := m.devices(vol, info)
		if err != nil || len(devices) == 0 {
			return err
		}
		for _, d := range devices {
			if err := m.host.DetachLoop("release.detach", d.Path); err != nil {
				return err
			}
		}
		if devices, err = m.devices(vol, info); err != nil || len(devices) == 0 {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: a process, or a mount in another mount namespace, uses %s",
				volume.ErrInUse, devices[0].Path)
		}
	}
}

// Shown implements local.Medium.
func (m *Medium) Shown(vol *host.Root, mounts []host.Mount) ([]host.Mount, error) {
	info, err := vol.Stat(imageFile)
	if err != nil {
		return nil, err
	}
	devices, err := m.devices(vol, info)
	if err != nil {
		return nil, err
	}
	var shown []host.Mount
	for _, mount := range mounts {
		for _, d := range devices {
			// The file system on the device, or the device itself, bound from /dev.
			if mount.Major == host.LoopMajor && mount.Minor == d.Minor ||
				mount.FSType == "devtmpfs" && mount.Root == "/"+filepath.Base(d.Path) {
				shown = append(shown, mount)
			}
		}
	}
	return shown, nil
}
