package local

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/orlop-io/orlop/csi/host"
	"github.com/orlop-io/orlop/csi/volume"
)

// headroom is how many bytes of the pool volumes never get: for records, directories and the file system's own growth.
const headroom = 16 << 20

// Create implements volume.Backend.
func (p *Pool) Create(ctx context.Context, spec volume.Spec) (volume.Volume, error) {
	fail := func(err error) (volume.Volume, error) {
		return volume.Volume{}, fmt.Errorf("create volume %q: %w", spec.Name, err)
	}
	if spec.Name == "" || len(spec.Capabilities) == 0 {
		return fail(fmt.Errorf("%w: a volume needs a name and a capability", volume.ErrInvalid))
	}
	m, err := p.mediumFor(spec.Parameters)
	if err != nil {
		return fail(err)
	}
	if err := checkCapabilities(m, spec.Capabilities); err != nil {
		return fail(err)
	}
	if err := spec.Size.Validate(); err != nil {
		return fail(err)
	}
	want := record{
		Version: formatVersion, Name: spec.Name, Kind: m.Kind(), Block: spec.Capabilities[0].Block, Created: time.Now().UTC(),
	}
	switch have, err := p.load(want.id().Key()); {
	case err == nil:
		if err := compatible(have, want, spec.Size); err != nil {
			return fail(err)
		}
		return p.describe(have), nil
	case errors.Is(err, errIncomplete):
		if _, err := p.discard(want.id().Key()); err != nil {
			return fail(fmt.Errorf("remove what an interrupted attempt left: %w", err))
		}
	case !errors.Is(err, volume.ErrNotFound):
		return fail(err)
	}
	if want.Capacity, err = m.Rule().Choose(spec.Size); err != nil {
		return fail(err)
	}
	if err := p.make(ctx, m, want); err != nil {
		// What was made so far goes even when it is the context that ended.
		if _, derr := p.discard(want.id().Key()); derr != nil {
			err = errors.Join(err, fmt.Errorf("remove the incomplete volume: %w", derr))
		}
		return fail(err)
	}
	return p.describe(want), nil
}

// compatible reports, as volume.ErrIncompatible, why the volume there is not the one that is wanted.
func compatible(have, want record, size volume.SizeRange) error {
	switch {
	case have.Kind != want.Kind:
		return fmt.Errorf("%w: it has backend %q and %q was asked for", volume.ErrIncompatible, have.Kind, want.Kind)
	case have.Block != want.Block:
		return fmt.Errorf("%w: only one of the two is a block device", volume.ErrIncompatible)
	case !size.Contains(have.Capacity):
		return fmt.Errorf("%w: it has %s; required are %s, the limit is %s", volume.ErrIncompatible,
			volume.Bytes(have.Capacity), volume.Bytes(size.Required), volume.Bytes(size.Limit))
	}
	return nil
}

// make makes the volume: intent, room, data, completion.
func (p *Pool) make(ctx context.Context, m Medium, r record) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := p.root.Mkdir("create.mkdir", volumeDir(r.id()), 0o700); err != nil {
		return full(err)
	}
	if err := p.save("create.intent", r); err != nil {
		return full(err)
	}
	dir, err := p.root.Sub(volumeDir(r.id()))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	if err := p.allocate(ctx, m, dir, r.Capacity); err != nil {
		return full(err)
	}
	if err := m.Format(ctx, dir, r.Block); err != nil {
		return full(err)
	}
	r.Ready = true
	return full(p.save("create.ready", r))
}

// full marks the error of a full file system as volume.ErrExhausted.
func full(err error) error {
	if host.IsNoSpace(err) && !errors.Is(err, volume.ErrExhausted) {
		return fmt.Errorf("%w in the pool: %w", volume.ErrExhausted, err)
	}
	return err
}

// allocate looks for room and takes it, one volume at a time, so that two cannot count on the same room. Room that
// deleted volumes still take is freed first when it is needed.
func (p *Pool) allocate(ctx context.Context, m Medium, dir *host.Root, capacity int64) error {
	p.room.Lock()
	defer p.room.Unlock()
	available, err := p.available()
	if err != nil {
		return err
	}
	if capacity > available {
		if err := p.EmptyTrash(ctx); err != nil {
			return err
		}
		// btrfs counts what was removed as free only once that is on the disk.
		if err := p.root.SyncFS("create.syncfs"); err != nil {
			return err
		}
		if available, err = p.available(); err != nil {
			return err
		}
	}
	if capacity > available {
		return fmt.Errorf("%w: the volume needs %s and pool %s has %s available",
			volume.ErrExhausted, volume.Bytes(capacity), p.root.Path(), volume.Bytes(available))
	}
	return m.Allocate(ctx, dir, capacity)
}

// available is the room for volumes in bytes, never negative, and in whole MiB so that people can read it.
func (p *Pool) available() (int64, error) {
	space, err := p.host.Statfs(p.root.Path())
	if err != nil {
		return 0, err
	}
	return max(0, space.Available-headroom) >> 20 << 20, nil
}

// Capacity implements volume.Backend.
func (p *Pool) Capacity(_ context.Context, params map[string]string, caps []volume.Capability) (volume.Capacity, error) {
	m, err := p.mediumFor(params)
	if err != nil {
		return volume.Capacity{}, err
	}
	rule := m.Rule()
	c := volume.Capacity{Minimum: rule.Min}
	if checkCapabilities(m, caps) != nil {
		return c, nil //nolint:nilerr // no volume can have them, so there is no room for one
	}
	if c.Available, err = p.available(); err != nil {
		return volume.Capacity{}, err
	}
	c.Maximum = min(c.Available, rule.Max) / rule.Multiple * rule.Multiple
	return c, nil
}
