package local

import (
	"context"
	"errors"
	"fmt"

	"github.com/orlop-io/orlop/csi/host"
	"github.com/orlop-io/orlop/csi/volume"
)

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
