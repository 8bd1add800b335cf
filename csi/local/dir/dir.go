// Package dir keeps a volume as a plain directory of the pool. Nothing enforces its size: a volume can fill the pool, and
// says so in its context. In return it costs nothing and its files are the pool's files.
package dir

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/orlop-io/orlop/csi/host"
	"github.com/orlop-io/orlop/csi/local"
	"github.com/orlop-io/orlop/csi/volume"
)

// EnforcementKey is the key of a volume's context that says how its capacity is enforced; EnforcementNone says not at
// all.
const (
	EnforcementKey  = "orlop.io/capacity-enforcement"
	EnforcementNone = "none"
)

// DefaultSize is the capacity, in bytes, of a volume for which none was asked.
const DefaultSize = 1 << 30

// dataDir holds the volume's files, in the volume's own directory.
const dataDir = "data"

// dataMode lets every user of a container write, whatever its user ID: the directories above admit root alone, so that
// only those reach it into whose container it is mounted.
const dataMode = 0o777

// Medium is a local.Medium.
type Medium struct {
	host *host.Host
}

// New returns the medium.
func New(h *host.Host) *Medium { return &Medium{host: h} }

var _ local.Medium = (*Medium)(nil)

// Kind implements local.Medium.
func (*Medium) Kind() volume.Kind { return volume.KindDir }

// Rule implements local.Medium: any size will do, since none is enforced.
func (*Medium) Rule() volume.SizeRule {
	return volume.SizeRule{Default: DefaultSize, Min: 1, Max: math.MaxInt64, Multiple: 1}
}

// Reserves implements local.Medium.
func (*Medium) Reserves() bool { return false }

// Context implements local.Medium.
func (*Medium) Context() map[string]string { return map[string]string{EnforcementKey: EnforcementNone} }

// MountFlags implements local.Medium.
func (*Medium) MountFlags() []string { return nil }

// Check implements local.Medium.
func (m *Medium) Check(c volume.Capability) error {
	if c.Block {
		return fmt.Errorf("%w: a volume of backend dir cannot be a block device; use backend loop", volume.ErrInvalid)
	}
	if c.FSType != "" {
		return fmt.Errorf("%w: a volume of backend dir has no file system of its own and cannot be %q; "+
			"leave the file system type out or use backend loop", volume.ErrInvalid, c.FSType)
	}
	_, _, err := local.ParseMountFlags(c.MountFlags, m.MountFlags())
	return err
}

// Allocate implements local.Medium.
func (*Medium) Allocate(_ context.Context, vol *host.Root, _ int64) error {
	return vol.Mkdir("create.data", dataDir, dataMode)
}

// Format implements local.Medium: a directory is ready when it is made.
func (*Medium) Format(context.Context, *host.Root, bool) error { return nil }

// Mount implements local.Medium.
func (m *Medium) Mount(
	_ context.Context, vol *host.Root, path string, opts host.MountOptions, _ []string,
) (err error) {
	data, err := vol.Open(dataDir, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, data.Close()) }()
	return m.host.Bind("stage.bind", data, path, opts)
}

// Settle implements local.Medium: a directory is fit for use when it is made.
func (*Medium) Settle(context.Context, string) error { return nil }

// Attach implements local.Medium.
func (*Medium) Attach(context.Context, *host.Root) (string, error) {
	return "", fmt.Errorf("%w: a volume of backend dir has no block device", volume.ErrInvalid)
}

// Release implements local.Medium: there is nothing to give up.
func (*Medium) Release(context.Context, *host.Root) error { return nil }

// Shown implements local.Medium.
func (m *Medium) Shown(vol *host.Root, mounts []host.Mount) ([]host.Mount, error) {
	data, err := vol.Stat(dataDir)
	if err != nil {
		return nil, err
	}
	suffix := "/" + filepath.Base(vol.Path()) + "/" + dataDir
	var shown []host.Mount
	for _, mount := range mounts {
		// Only a mount whose root within its file system ends in this volume's path can show it. What is in use is
		// looked at no closer: a stat of a foreign mount may hang.
		if !strings.HasSuffix(mount.Root, suffix) {
			continue
		}
		info, err := os.Stat(mount.Target)
		if err == nil && os.SameFile(info, data) {
			shown = append(shown, mount)
		}
	}
	return shown, nil
}
