package fusefs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/csi/nfs/client"
	"github.com/orlop-io/orlop/csi/nfs/wire"
)

// Options say how a share is mounted.
type Options struct {
	// AttrTimeout is for how long attributes and names are believed, 0 for 3 s, negative for not at all.
	AttrTimeout time.Duration
	// ReadOnly refuses every change.
	ReadOnly bool
	// ReadAhead is how many bytes the kernel reads ahead of a sequential reader, 0 for 8 MiB.
	ReadAhead int
	// Dirty is how many bytes of writes that are not safe on the server yet are kept at most, 0 for 64 MiB. Writers
	// wait beyond it.
	Dirty int64
}

const (
	maxTransfer    = 1 << 20
	maxBackground  = 64
	defaultTimeout = 3 * time.Second
	defaultAhead   = 8 << 20
	defaultDirty   = 64 << 20
	dirPage        = 64 << 10
	fuseRoot       = 1
)

// FS is a mounted share.
type FS struct {
	fuse.RawFileSystem

	client  *client.Client
	options Options
	server  *fuse.Server
	target  string
	served  chan struct{}
	// transfer is how many bytes one read or write has at most.
	transfer uint32

	// ctx ends when the mount does: background writes stop.
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	// changes numbers what this client changes, so that older attributes are told from newer ones.
	changes atomic.Uint64
	dirty   budget
	// cleaning is set while somebody makes writes safe because there are too many.
	cleaning atomic.Bool

	mu       sync.Mutex
	nodes    map[uint64]*node
	byHandle map[wire.Handle]*node
	names    map[entryName]*node
	nextNode uint64
	files    map[uint64]*openFile
	dirs     map[uint64]*openDir
	nextFile uint64
}

// Mount mounts the share on the directory. The client's Patience decides whether it is a soft or a hard mount. It must
// run as root, and needs /dev/fuse.
func Mount(ctx context.Context, c *client.Client, target string, options Options) (*FS, error) {
	if options.AttrTimeout == 0 {
		options.AttrTimeout = defaultTimeout
	}
	options.AttrTimeout = max(options.AttrTimeout, 0)
	if options.ReadAhead == 0 {
		options.ReadAhead = defaultAhead
	}
	if options.Dirty == 0 {
		options.Dirty = defaultDirty
	}
	info, err := c.FSInfo(ctx)
	if err != nil {
		return nil, err
	}
	root, err := c.GetAttr(ctx, c.Root())
	if err != nil {
		return nil, err
	}
	fs := &FS{
		RawFileSystem: fuse.NewDefaultRawFileSystem(), client: c, options: options, target: target, served: make(chan struct{}),
		transfer: max(4096, min(maxTransfer, info.ReadMax, info.WriteMax)),
		nodes:    map[uint64]*node{}, byHandle: map[wire.Handle]*node{}, names: map[entryName]*node{},
		nextNode: fuseRoot,
		files:    map[uint64]*openFile{}, dirs: map[uint64]*openDir{},
	}
	fs.dirty.init(options.Dirty)
	fs.ctx, fs.cancel = context.WithCancel(context.WithoutCancel(ctx))
	fs.adopt(c.Root(), &root, fs.changes.Load())
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV)
	if options.ReadOnly {
		flags |= unix.MS_RDONLY
	}
	fs.server, err = fuse.NewServer(fs, target, &fuse.MountOptions{
		AllowOther: true, Name: "nfs", FsName: c.String(), MaxBackground: maxBackground, MaxWrite: int(fs.transfer),
		MaxReadAhead: int(fs.transfer), DisableXAttrs: true, ExplicitDataCacheControl: true, DirectMountStrict: true,
		DirectMountFlags: flags, Options: []string{"default_permissions"}, DisableSplice: true,
	})
	if err != nil {
		fs.cancel()
		return nil, fmt.Errorf("mount %s on %s: %w", c, target, err)
	}
	go func() {
		defer close(fs.served)
		fs.server.Serve()
	}()
	if err := fs.server.WaitMount(); err != nil {
		return nil, errors.Join(fmt.Errorf("mount %s on %s: %w", c, target, err), fs.Unmount())
	}
	if err := setReadAhead(target, options.ReadAhead); err != nil {
		klog.FromContext(ctx).Info("Sequential reads will be slower: read-ahead cannot be set", "target", target, "err", err)
	}
	return fs, nil
}

// setReadAhead sets how far the kernel reads ahead; FUSE itself allows 128 KiB.
func setReadAhead(target string, bytes int) error {
	var st unix.Stat_t
	if err := unix.Stat(target, &st); err != nil {
		return &os.PathError{Op: "stat", Path: target, Err: err}
	}
	return os.WriteFile(fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", unix.Major(st.Dev), unix.Minor(st.Dev)),
		[]byte(strconv.Itoa(bytes>>10)), 0)
}

// unmountPatience is how long the last work (hidden names, pages of mappings) may take after the end of the mount.
const unmountPatience = 5 * time.Second

// Wait returns when the file system is unmounted, by whomever.
func (fs *FS) Wait() {
	<-fs.served
	ended := make(chan struct{})
	go func() {
		fs.wg.Wait()
		close(ended)
	}()
	timer := time.NewTimer(unmountPatience)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
	}
	fs.cancel()
	<-ended
}

// Unmount takes the mount away, also where it is in use or its server is away: whoever uses it gets errors. It returns
// when the last call has ended.
func (fs *FS) Unmount() error {
	err := unix.Unmount(fs.target, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		// What has it open keeps it until this process ends.
		err = unix.Unmount(fs.target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err == nil {
			fs.cancel()
			return nil
		}
	}
	if err != nil {
		return &os.PathError{Op: "unmount", Path: fs.target, Err: err}
	}
	fs.Wait()
	return nil
}

// String names the file system in the logs of FUSE.
func (fs *FS) String() string { return "nfs " + fs.client.String() }

// node is a file or directory that the kernel knows of.
type node struct {
	id     uint64
	handle wire.Handle

	// lookups is how often the kernel was told of the node, named by which names (FS.mu).
	lookups uint64
	named   map[entryName]bool

	mu   sync.Mutex
	attr wire.Attr
	// cached are the attributes that the kernel's pages of the file belong to.
	cached wire.Attr
	open   int
	// removing is not nil while a call is under way that may remove the file's last name, and closed with its end.
	removing chan struct{}
	// hiding is set while the file's last name becomes a hidden one.
	hiding bool
	// silly is the name that the file has on the server since its last name was removed while it was open.
	silly *wire.EntryArgs
	data  dataState
}

// adopt returns the node of a handle with the attributes that came with it, from a call that was made when as many
// changes had been made. It does not count as a look-up.
func (fs *FS) adopt(h wire.Handle, attr *wire.Attr, when uint64) *node {
	fs.mu.Lock()
	n := fs.byHandle[h]
	if n == nil {
		n = &node{id: fs.nextNode, handle: h, named: map[entryName]bool{}}
		n.data.init()
		fs.nextNode++
		fs.byHandle[h], fs.nodes[n.id] = n, n
	}
	fs.mu.Unlock()
	if attr != nil {
		n.update(attr, when)
	}
	return n
}

// update takes over attributes, but for the size where this client wrote meanwhile.
func (n *node) update(attr *wire.Attr, when uint64) wire.Attr {
	n.mu.Lock()
	defer n.mu.Unlock()
	size := n.attr.Size
	n.attr = *attr
	if n.data.changedSince(when) {
		n.attr.Size = size
	}
	return n.present()
}

// present returns the attributes as the kernel shall see them; n.mu is held.
func (n *node) present() wire.Attr {
	a := n.attr
	if n.silly != nil && a.Links > 0 {
		a.Links--
	}
	return a
}

func (fs *FS) node(id uint64) *node {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.nodes[id]
}

// Forget is told that the kernel dropped a node.
func (fs *FS) Forget(id, lookups uint64) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n := fs.nodes[id]
	if n == nil || id == fuseRoot {
		return
	}
	n.lookups -= min(lookups, n.lookups)
	if n.lookups == 0 {
		delete(fs.nodes, id)
		for name := range n.named {
			delete(fs.names, name)
		}
		if fs.byHandle[n.handle] == n {
			delete(fs.byHandle, n.handle)
		}
	}
}

// entryName names an entry of a directory that the kernel knows.
type entryName struct {
	dir  uint64
	name string
}

// name notes which node an entry is, nil for none that is known.
func (fs *FS) name(e entryName, n *node) {
	if old := fs.names[e]; old != nil {
		delete(old.named, e)
		delete(fs.names, e)
	}
	if n != nil {
		fs.names[e] = n
		n.named[e] = true
	}
}

// named returns the node of an entry; nil where the kernel knows none.
func (fs *FS) named(dir uint64, name string) *node {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.names[entryName{dir, name}]
}

// entry tells the kernel of the node that an entry is.
func (fs *FS) entry(dir uint64, name string, n *node, out *fuse.EntryOut) {
	fs.mu.Lock()
	n.lookups++
	fs.name(entryName{dir, name}, n)
	// It may have been forgotten since it was adopted.
	fs.nodes[n.id], fs.byHandle[n.handle] = n, n
	fs.mu.Unlock()
	n.mu.Lock()
	a := n.present()
	n.mu.Unlock()
	out.NodeId, out.Generation = n.id, 1
	out.SetEntryTimeout(fs.options.AttrTimeout)
	out.SetAttrTimeout(fs.options.AttrTimeout)
	setAttr(&out.Attr, &a)
}

func setAttr(to *fuse.Attr, a *wire.Attr) {
	to.Ino, to.Size, to.Blocks, to.Nlink = a.FileID, a.Size, (a.Used+511)/512, a.Links
	to.Mode = a.Mode&0o7777 | typeBits(a.Type)
	to.Uid, to.Gid = a.UID, a.GID
	to.Atime, to.Atimensec = uint64(a.Atime.Sec), a.Atime.Nsec
	to.Mtime, to.Mtimensec = uint64(a.Mtime.Sec), a.Mtime.Nsec
	to.Ctime, to.Ctimensec = uint64(a.Ctime.Sec), a.Ctime.Nsec
	to.Rdev = uint32(unix.Mkdev(a.Device.Major, a.Device.Minor))
	to.Blksize = maxTransfer
}

func typeBits(t wire.FileType) uint32 {
	switch t {
	case wire.TypeDirectory:
		return unix.S_IFDIR
	case wire.TypeBlock:
		return unix.S_IFBLK
	case wire.TypeCharacter:
		return unix.S_IFCHR
	case wire.TypeSymlink:
		return unix.S_IFLNK
	case wire.TypeSocket:
		return unix.S_IFSOCK
	case wire.TypeFIFO:
		return unix.S_IFIFO
	}
	return unix.S_IFREG
}
