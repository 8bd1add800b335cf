package volumes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// subPaths is where the kubelet keeps, in the directory of a pod, the bind mounts of what containers mount with subPath:
// one for each, as <volume>/<container>/<index of the volumeMount>. They stay until the pod is taken down, or the
// container is started again.
const subPaths = "volume-subpaths"

// bind is one such mount of something in the volume. It tells by itself what it shows, whatever the manifest says: an
// expanded subPathExpr needs no expanding, and a kubelet that was restarted finds it like the one that made it.
type bind struct {
	container, index string
	// generation and name say what the mount shows; name is "." for a whole generation. Either may have been removed.
	generation, name string
	dir              bool
	// file names the file alone (O_PATH).
	file *os.File
}

// binds returns the volume's subPath mounts. The caller closes them.
//
// Nothing in a pod can lead this astray: the directories on the way are root's and in no container, no symbolic link is
// followed, and what is found counts only if the kernel says that it is mounted from a generation of this volume.
func (mt *mount) binds() (_ []bind, err error) {
	podDir := filepath.Join(mt.manager.host.GetPodsDir(), string(mt.key.pod))
	containers, err := readNames(filepath.Join(podDir, subPaths, mt.key.volume))
	if err != nil || len(containers) == 0 {
		return nil, err
	}
	pod, err := os.Open(podDir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, pod.Close()) }()
	var found []bind
	for _, container := range containers {
		within := path.Join(subPaths, mt.key.volume, container)
		indexes, err := readNames(filepath.Join(podDir, within))
		if err != nil {
			return nil, errors.Join(err, closeBinds(found))
		}
		for _, index := range indexes {
			file, err := openBeneath(pod, path.Join(within, index))
			if errors.Is(err, fs.ErrNotExist) {
				continue // the kubelet is taking it down
			}
			if err != nil {
				return nil, errors.Join(err, closeBinds(found))
			}
			found = append(found, bind{container: container, index: index, file: file})
		}
	}
	return mt.ours(found)
}

// ours keeps those of the mounts that show something in a generation of the volume, and closes the others: a mount that
// the kubelet has prepared and not made yet, or one of a directory outside the generations.
func (mt *mount) ours(all []bind) (_ []bind, err error) {
	volume, err := os.OpenFile(mt.request.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, errors.Join(err, closeBinds(all))
	}
	defer func() { err = errors.Join(err, volume.Close()) }()
	table, err := mountTable()
	if err != nil {
		return nil, errors.Join(err, closeBinds(all))
	}
	home, ok, err := table.place(volume)
	if err == nil && !ok {
		err = fmt.Errorf("%s: the mount that it is in is not in the mount table", mt.request.dir)
	}
	if err != nil {
		return nil, errors.Join(err, closeBinds(all))
	}
	var kept, others []bind
	var errs []error
	for _, b := range all {
		mine, err := mt.identify(&b, table, home)
		errs = append(errs, err)
		if mine {
			kept = append(kept, b)
		} else {
			others = append(others, b)
		}
	}
	if err := errors.Join(append(errs, closeBinds(others))...); err != nil {
		return nil, errors.Join(err, closeBinds(kept))
	}
	return kept, nil
}

// identify reports whether the mount shows something in a generation of the volume, and notes what.
func (mt *mount) identify(b *bind, table mounts, home string) (bool, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(int(b.file.Fd()), &stat); err != nil {
		return false, &os.PathError{Op: "stat", Path: b.file.Name(), Err: err}
	}
	kind := stat.Mode & unix.S_IFMT
	if stat.Dev != mt.device || (kind != unix.S_IFREG && kind != unix.S_IFDIR) {
		return false, nil
	}
	place, ok, err := table.place(b.file)
	if err != nil || !ok {
		return false, err
	}
	inside, ok := strings.CutPrefix(place, strings.TrimSuffix(home, "/")+"/")
	if !ok {
		return false, nil
	}
	b.generation, b.name, _ = strings.Cut(inside, "/")
	if b.name == "" {
		b.name = "."
	}
	b.dir = kind == unix.S_IFDIR
	digits, ok := strings.CutPrefix(b.generation, "..")
	return ok && digits != "" && digits[0] >= '0' && digits[0] <= '9', nil
}

// open opens the file for reading and writing.
func (b *bind) open() (*os.File, error) {
	return os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", b.file.Fd()), unix.O_RDWR|unix.O_CLOEXEC, 0)
}

func closeBinds(all []bind) error {
	var errs []error
	for _, b := range all {
		errs = append(errs, b.file.Close())
	}
	return errors.Join(errs...)
}

// pinned returns the generations that a subPath mount of a directory shows. What is removed from a directory is gone
// from its mounts too; a file that is mounted stays whole.
func (mt *mount) pinned() (map[string]bool, error) {
	binds, err := mt.binds()
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for _, b := range binds {
		if b.dir {
			names[b.generation] = true
		}
	}
	return names, closeBinds(binds)
}

// mounts is the mount table of the process, by the mounts' IDs.
type mounts map[int]*mountinfo.Info

func mountTable() (mounts, error) {
	all, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, fmt.Errorf("mount table: %w", err)
	}
	table := mounts{}
	for _, m := range all {
		table[m.ID] = m
	}
	return table, nil
}

// deleted is what the kernel adds to the path of what has been removed.
const deleted = "//deleted"

// place returns the path of an open file within its file system, and false where the mount it was opened through is gone.
func (table mounts) place(file *os.File) (string, bool, error) {
	var stat unix.Statx_t
	if err := unix.Statx(int(file.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &stat); err != nil {
		return "", false, &os.PathError{Op: "statx", Path: file.Name(), Err: err}
	}
	if stat.Mask&unix.STATX_MNT_ID == 0 {
		return "", false, errors.New("the kernel does not tell which mount a file is in; it takes Linux 5.8 or later")
	}
	m := table[int(stat.Mnt_id)]
	if m == nil {
		return "", false, nil
	}
	root := strings.TrimSuffix(m.Root, deleted)
	if stat.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return root, true, nil
	}
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", file.Fd()))
	if err != nil {
		return "", false, err
	}
	below, ok := strings.CutPrefix(name, m.Mountpoint)
	return path.Join(root, below), ok, nil
}

// openBeneath names a file beneath a directory, through mounts and never through a symbolic link.
func openBeneath(dir *os.File, name string) (*os.File, error) {
	for {
		fd, err := unix.Openat2(int(dir.Fd()), name, &unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
		})
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), filepath.Join(dir.Name(), name)), nil
		case errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN): // somebody renamed or mounted meanwhile
		default:
			return nil, &os.PathError{Op: "open", Path: filepath.Join(dir.Name(), name), Err: err}
		}
	}
}

// readNames lists a directory; one that does not exist is empty.
func readNames(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, err
}
