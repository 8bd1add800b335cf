package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// deletedSuffix is what the kernel appends to the path of a file that was removed.
const deletedSuffix = " (deleted)"

// LoopDevice is a loop device with a file behind it.
type LoopDevice struct {
	// Path of the device, as /dev/loop0.
	Path  string
	Minor int
	// Backing is the path of the file behind it; Deleted says that it was removed, and what Backing names now is
	// nothing, or another file.
	Backing string
	Deleted bool
}

// LoopMajor is the major number of all loop devices.
const LoopMajor = 7

// LoopDevices lists the loop devices that have a file behind them. A machine may have hundreds of loop devices that have
// none, so one look is taken at each and no more.
func (h *Host) LoopDevices() ([]LoopDevice, error) {
	const sys = "/sys/block"
	names, err := readDirNames(sys)
	if err != nil {
		return nil, err
	}
	var devices []LoopDevice
	for _, name := range names {
		digits, isLoop := strings.CutPrefix(name, "loop")
		minor, err := strconv.Atoi(digits)
		if !isLoop || err != nil {
			continue
		}
		backing, err := os.ReadFile(filepath.Join(sys, name, "loop/backing_file"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) {
			continue // nothing behind it, or detached this moment
		}
		if err != nil {
			return nil, err
		}
		d := LoopDevice{Path: "/dev/" + name, Minor: minor}
		d.Backing, d.Deleted = strings.CutSuffix(strings.TrimSuffix(string(backing), "\n"), deletedSuffix)
		devices = append(devices, d)
	}
	return devices, nil
}

func readDirNames(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	names, err := d.Readdirnames(-1)
	return names, errors.Join(err, d.Close())
}

// LoopDevicesOf lists the loop devices whose file is the one that info describes and has a path that ends in suffix.
// Other files are not looked at: to look at one on a server that is gone would take forever.
func (h *Host) LoopDevicesOf(suffix string, info fs.FileInfo) ([]LoopDevice, error) {
	all, err := h.LoopDevices()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(d LoopDevice) bool {
		if d.Deleted || !strings.HasSuffix(d.Backing, suffix) {
			return true
		}
		backing, err := os.Stat(d.Backing)
		return err != nil || !os.SameFile(backing, info)
	}), nil
}

// attachTries bounds how often a free device is asked for when others take it first.
const attachTries = 100

// AttachLoop puts a loop device in front of the file and returns the device, opened. With autoClear the device lets go
// of the file when the last user of the device does, this process included: killed at any point, it leaves nothing.
// The device does direct I/O where the file's file system can, and never passes a discard on: the room that is reserved
// for the file stays reserved.
func (h *Host) AttachLoop(l Label, image *os.File, autoClear bool) (*os.File, error) {
	if err := h.Step(l); err != nil {
		return nil, err
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("attach a loop device: %w; is the kernel module loop loaded?", err)
	}
	dev, err := attach(control, image, autoClear)
	if cerr := control.Close(); err == nil && cerr != nil {
		return nil, errors.Join(cerr, dev.Close())
	}
	if err != nil {
		return nil, fmt.Errorf("attach a loop device to %s: %w", image.Name(), err)
	}
	return dev, nil
}

func attach(control, image *os.File, autoClear bool) (*os.File, error) {
	for range attachTries {
		minor, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find a free one: %w", err)
		}
		dev, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", minor), os.O_RDWR, 0)
		if errors.Is(err, unix.ENXIO) {
			continue // removed by another process since
		}
		if err != nil {
			return nil, err
		}
		err = configure(dev, image, autoClear)
		if err == nil {
			if err := forbidDiscard(filepath.Base(dev.Name())); err != nil {
				return nil, errors.Join(err, unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_CLR_FD, 0), dev.Close())
			}
			return dev, nil
		}
		if cerr := dev.Close(); cerr != nil {
			return nil, cerr
		}
		if !errors.Is(err, unix.EBUSY) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("every free one was taken by another process, %d times", attachTries)
}

// configure attaches in one ioctl, so that no one sees the device half attached.
func configure(dev, image *os.File, autoClear bool) error {
	config := unix.LoopConfig{Fd: uint32(image.Fd())}
	config.Info.Flags = unix.LO_FLAGS_DIRECT_IO
	if autoClear {
		config.Info.Flags |= unix.LO_FLAGS_AUTOCLEAR
	}
	copy(config.Info.File_name[:len(config.Info.File_name)-1], filepath.Base(image.Name()))
	err := unix.IoctlLoopConfigure(int(dev.Fd()), &config)
	if errors.Is(err, unix.EINVAL) {
		config.Info.Flags &^= unix.LO_FLAGS_DIRECT_IO // some kernels refuse where others fall back
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &config)
	}
	return err
}

// forbidDiscard keeps fstrim and mount options from punching holes into the file behind the device. Where /sys may not
// be written it does nothing: whoever stages the volume next reserves the holes again.
func forbidDiscard(name string) error {
	err := os.WriteFile(filepath.Join("/sys/block", name, "queue/discard_max_bytes"), []byte("0"), 0)
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
		return nil
	}
	return fmt.Errorf("turn discard off for %s: %w", name, err)
}

// OpenLoop opens an attached loop device and makes sure that its file still is the one that info describes, which
// holds as long as the device is open. It returns nil when the device has let go of the file in between.
func (h *Host) OpenLoop(d LoopDevice, info fs.FileInfo) (*os.File, error) {
	dev, err := os.OpenFile(d.Path, os.O_RDWR, 0)
	if errors.Is(err, unix.ENXIO) || errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	same, err := backs(dev, info)
	if err != nil || !same {
		return nil, errors.Join(err, dev.Close())
	}
	return dev, nil
}

// backs reports whether the file behind the open device is the one that info describes.
func backs(dev *os.File, info fs.FileInfo) (bool, error) {
	status, err := unix.IoctlLoopGetStatus64(int(dev.Fd()))
	if errors.Is(err, unix.ENXIO) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("ask %s for its file: %w", dev.Name(), err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && status.Inode == st.Ino && status.Device == st.Dev, nil
}

// DetachLoop has the device let go of its file. A device that something still uses does so when that ends; one without
// a file is no error.
func (h *Host) DetachLoop(l Label, device string) error {
	if err := h.Step(l); err != nil {
		return err
	}
	dev, err := os.OpenFile(device, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENXIO) {
		return nil
	}
	if err != nil {
		return err
	}
	err = unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_CLR_FD, 0)
	if errors.Is(err, unix.ENXIO) {
		err = nil
	}
	if err = errors.Join(err, dev.Close()); err != nil {
		return fmt.Errorf("detach %s: %w", device, err)
	}
	return nil
}
