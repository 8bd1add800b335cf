// Package local keeps volumes on a node's own disk: the service behind the CSI driver local.csi.orlop.io.
//
// A Pool is a directory. It owns what all kinds of volumes have in common: the record that is written before a volume
// is made, the trash a volume is moved to before its data is removed, the room, the mounts. How one kind is kept is a
// Medium's business: package dir keeps a plain directory, package loop an image file with a file system in it.
//
//	pool.json                     format version and cluster
//	lock                          held by the process that has the pool open
//	volumes/<key>/record.json     what the volume is, and whether it is complete
//	volumes/<key>/...             the medium's data
//	trash/<key>.<n>/              what is being removed
//
// Nothing is opened by a path that leaves the pool: every name is resolved beneath it (see host.Root), and a volume's
// directory is named by the digest in its ID.
//
// A process may be killed between any two steps. A volume whose record does not say that it is ready never existed for
// anyone: Open moves it to the trash, and so does a repeated Create.
package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/csi/host"
	"github.com/orlop-io/orlop/csi/volume"
)

// formatVersion is the layout this code writes, and the newest it reads.
const formatVersion = 1

// Names within a pool.
const (
	metaFile   = "pool.json"
	lockFile   = "lock"
	volumesDir = "volumes"
	trashDir   = "trash"
	recordFile = "record.json"
)

// Medium keeps the data of one kind of volume. dir is always the volume's own directory, which holds its record beside
// what the medium puts there. The pool calls it with the volume locked.
type Medium interface {
	Kind() volume.Kind

	// Rule bounds the sizes of volumes.
	Rule() volume.SizeRule

	// Reserves says whether Allocate takes a volume's whole capacity from the pool.
	Reserves() bool

	// Context is what users of a volume are told about it.
	Context() map[string]string

	// Check reports, as volume.ErrInvalid, why volumes of this kind cannot be used in that way.
	Check(c volume.Capability) error

	// Allocate makes the volume's data and takes its room from the pool. Two calls never overlap.
	Allocate(ctx context.Context, dir *host.Root, capacity int64) error

	// Format makes what Allocate left ready for use, unless block says that it is used as it is.
	Format(ctx context.Context, dir *host.Root, block bool) error

	// MountFlags lists the mount flags that are this kind's own (see ParseMountFlags).
	MountFlags() []string

	// Mount makes the volume's files appear at path, where nothing is mounted. opts never holds MS_RDONLY; data are the
	// flags of MountFlags that were asked for.
	Mount(ctx context.Context, dir *host.Root, path string, opts host.MountOptions, data []string) error

	// Settle makes what is mounted at path fit for its first workload. It is called at every staging, and leaves alone
	// what a workload has written to.
	Settle(ctx context.Context, path string) error

	// Attach returns the path of the volume's block device, made if need be.
	Attach(ctx context.Context, dir *host.Root) (string, error)

	// Release gives up what Attach, or a killed process, has left. It fails with volume.ErrInUse when something still
	// uses it.
	Release(ctx context.Context, dir *host.Root) error

	// Shown picks from the mount table the mounts that show the volume, or its block device.
	Shown(dir *host.Root, mounts []host.Mount) ([]host.Mount, error)
}

// Config says which pool to open.
type Config struct {
	// Path of the pool's directory, made when it does not exist.
	Path string
	// ClusterID is the cluster whose volumes the pool keeps. A pool never changes its cluster.
	ClusterID string
	Host      *host.Host
	// Media are the kinds of volumes to keep. The first is the default.
	Media []Medium
}

// Pool is an open pool. All its methods are safe for concurrent use, with the restriction of volume.Backend.
type Pool struct {
	host  *host.Host
	root  *host.Root
	lock  *os.File
	media []Medium
	// room is held while room is looked for and taken.
	room sync.Mutex
	// rubbish has a value when there may be something in the trash.
	rubbish chan struct{}
}

var _ volume.Service = (*Pool)(nil)

// meta is the content of pool.json.
type meta struct {
	Version   int    `json:"version"`
	ClusterID string `json:"clusterID"`
}

// Open opens the pool, making it at its first use, and puts in order what a killed process left. It refuses a directory
// that holds something else, a pool of another cluster, of a newer format, or that another process has open.
func Open(ctx context.Context, c Config) (*Pool, error) {
	if c.ClusterID == "" {
		return nil, errors.New("a pool needs the ID of the cluster whose volumes it keeps")
	}
	if len(c.Media) == 0 {
		return nil, errors.New("a pool needs a kind of volume to keep")
	}
	if !filepath.IsAbs(c.Path) {
		return nil, fmt.Errorf("pool %q: the path is not absolute", c.Path)
	}
	if err := os.MkdirAll(c.Path, 0o700); err != nil {
		return nil, fmt.Errorf("make pool %s: %w", c.Path, err)
	}
	root, err := c.Host.OpenRoot(c.Path)
	if err != nil {
		return nil, fmt.Errorf("open pool %s: %w", c.Path, err)
	}
	p := &Pool{host: c.Host, root: root, media: c.Media, rubbish: make(chan struct{}, 1)}
	if err := p.open(ctx, c.ClusterID); err != nil {
		return nil, errors.Join(fmt.Errorf("pool %s: %w", c.Path, err), p.Close())
	}
	return p, nil
}

func (p *Pool) open(ctx context.Context, clusterID string) error {
	fresh, err := p.readMeta(clusterID)
	if err != nil {
		return err
	}
	if p.lock, err = p.root.Lock(ctx, lockFile); errors.Is(err, host.ErrLocked) {
		return fmt.Errorf("another orlop-storage has it open; stop that one or choose another pool: %w", err)
	} else if err != nil {
		return err
	}
	if fresh {
		data, err := json.Marshal(meta{Version: formatVersion, ClusterID: clusterID})
		if err != nil {
			return err
		}
		if err := p.root.WriteFile("open.meta", metaFile, append(data, '\n'), 0o600); err != nil {
			return err
		}
	}
	for _, name := range []string{volumesDir, trashDir} {
		if err := p.root.Mkdir(host.Label("open."+name), name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return p.reconcile(ctx)
}

// readMeta checks pool.json, and reports whether there is none because the directory is empty.
func (p *Pool) readMeta(clusterID string) (fresh bool, err error) {
	data, err := p.root.ReadFile(metaFile)
	if errors.Is(err, fs.ErrNotExist) {
		return true, p.checkEmpty()
	}
	if err != nil {
		return false, err
	}
	var m meta
	if err := json.Unmarshal(data, &m); err != nil {
		return false, fmt.Errorf("%s is damaged: %w; restore it from a backup", metaFile, err)
	}
	switch {
	case m.Version < 1:
		return false, fmt.Errorf("%s is damaged: it names no format version; restore it from a backup", metaFile)
	case m.Version > formatVersion:
		return false, fmt.Errorf("it has format version %d and this program knows versions up to %d; "+
			"use a newer orlop-storage", m.Version, formatVersion)
	case m.ClusterID != clusterID:
		return false, fmt.Errorf("it belongs to cluster %q and this node to cluster %q; choose another directory",
			m.ClusterID, clusterID)
	}
	return false, nil
}

// checkEmpty refuses to make a pool of a directory that holds something else. What a process killed while it made the
// pool may have left, and what mkfs puts into every file system, is allowed.
func (p *Pool) checkEmpty() error {
	names, err := p.root.Names(".")
	if err != nil {
		return err
	}
	for _, n := range names {
		if !slices.Contains([]string{lockFile, metaFile + ".tmp", "lost+found"}, n) {
			return fmt.Errorf("it is neither a pool (there is no %s) nor empty (there is %q); choose an empty directory",
				metaFile, n)
		}
	}
	return nil
}

// Ready says why the pool cannot be used at the moment, such as a disk that is gone; nil when it can.
func (p *Pool) Ready() error {
	if _, err := p.root.ReadFile(metaFile); err != nil {
		return fmt.Errorf("pool %s cannot be read: %w", p.root.Path(), err)
	}
	return nil
}

// Close gives the pool up. Volumes stay as they are, mounts included.
func (p *Pool) Close() error {
	var err error
	if p.lock != nil {
		err = p.lock.Close()
	}
	return errors.Join(err, p.root.Close())
}

// Run removes what is in the trash, whenever something is put there, until ctx ends.
func (p *Pool) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.rubbish:
			if err := p.EmptyTrash(ctx); err != nil && ctx.Err() == nil {
				klog.FromContext(ctx).Error(err, "Some deleted volumes still take room; trying again at the next deletion")
			}
		}
	}
}

func (p *Pool) medium(kind volume.Kind) Medium {
	for _, m := range p.media {
		if m.Kind() == kind {
			return m
		}
	}
	return nil
}
