package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"time"

	"github.com/orlop-io/orlop/csi/host"
	"github.com/orlop-io/orlop/csi/volume"
)

// record is what the pool knows of a volume. It is written before anything is made, with Ready false, and once more
// when the volume is complete.
type record struct {
	Version  int         `json:"version"`
	Name     string      `json:"name"`
	Kind     volume.Kind `json:"kind"`
	Capacity int64       `json:"capacity"`
	Block    bool        `json:"block,omitempty"`
	Ready    bool        `json:"ready"`
	Created  time.Time   `json:"created"`
}

func (r record) id() volume.ID { return volume.NewID(r.Kind, r.Name) }

// errIncomplete: the volume's directory is there and no record that says it is ready.
var errIncomplete = errors.New("incomplete")

func volumeDir(id volume.ID) string { return path.Join(volumesDir, id.Key()) }

// load reads the record of the volume with id's key, whatever its kind. It fails with volume.ErrNotFound when there is
// no such volume and with errIncomplete when it was never completed.
func (p *Pool) load(key string) (record, error) {
	name := path.Join(volumesDir, key)
	exists, err := p.root.Exists(name)
	if err != nil {
		return record{}, err
	}
	if !exists {
		return record{}, volume.ErrNotFound
	}
	data, err := p.root.ReadFile(path.Join(name, recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, errIncomplete
	}
	if err != nil {
		return record{}, err
	}
	damaged := func(why error) (record, error) {
		return record{}, fmt.Errorf("record %s is damaged: %w; the volume's data is left as it is",
			filepath.Join(p.root.Path(), name, recordFile), why)
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return damaged(err)
	}
	switch {
	case r.Version > formatVersion:
		return record{}, fmt.Errorf("record of volume %s has format version %d and this program knows versions up to %d; "+
			"use a newer orlop-storage", key, r.Version, formatVersion)
	case r.id().Key() != key:
		return damaged(fmt.Errorf("it is another volume's, %q", r.Name))
	case !r.Ready:
		return record{}, errIncomplete
	case p.medium(r.Kind) == nil:
		return record{}, fmt.Errorf("volume %s is of kind %q, which this program does not keep", key, r.Kind)
	}
	return r, nil
}

// save writes the record. Its steps are l with what host.Root.WriteFile appends.
func (p *Pool) save(l host.Label, r record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return p.root.WriteFile(l, path.Join(volumeDir(r.id()), recordFile), append(data, '\n'), 0o600)
}

// open returns a complete volume's record, medium and directory, to be closed. It fails with volume.ErrNotFound when
// there is no such volume.
func (p *Pool) openVolume(id volume.ID) (record, Medium, *host.Root, error) {
	fail := func(err error) (record, Medium, *host.Root, error) {
		return record{}, nil, nil, fmt.Errorf("volume %s: %w", id, err)
	}
	r, err := p.load(id.Key())
	if errors.Is(err, errIncomplete) || err == nil && r.Kind != id.Kind {
		err = volume.ErrNotFound
	}
	if err != nil {
		return fail(err)
	}
	dir, err := p.root.Sub(volumeDir(id))
	if err != nil {
		return fail(err)
	}
	return r, p.medium(r.Kind), dir, nil
}

// describe is what others are told of the volume.
func (p *Pool) describe(r record) volume.Volume {
	return volume.Volume{ID: r.id(), Capacity: r.Capacity, Context: p.medium(r.Kind).Context(), Block: r.Block}
}
