package payload

import (
	"maps"
	"math"
	"slices"
)

const (
	modeMask = 0o777
	// fsGroupRead is what upstream's SetVolumeOwnership adds to the files of a read-only volume.
	fsGroupRead = 0o440
)

// Build returns the volume's files, or an *Error. It follows upstream: without items, all keys are files and binaryData
// wins over data; with items, data wins; a later source wins over an earlier one; an optional source may be absent, as
// a whole or in any of its keys. Content is shared with the sources, not copied.
func Build(v Volume) (Payload, error) {
	p := Payload{Files: map[string]File{}, GID: -1}
	if v.FSGroup != nil {
		gid, err := owner(*v.FSGroup)
		if err != nil {
			return Payload{}, &Error{Err: err}
		}
		p.GID = gid
	}
	b := builder{payload: p, defaultMode: v.DefaultMode, origin: map[string]origin{}}
	for i := range v.Sources {
		if err := b.source(&v.Sources[i]); err != nil {
			return Payload{}, err
		}
	}
	if err := b.conflicts(); err != nil {
		return Payload{}, err
	}
	return b.payload, nil
}

// origin is where a file comes from, for a conflict's message.
type origin struct {
	object Version
	key    string
}

type builder struct {
	payload     Payload
	defaultMode int32
	origin      map[string]origin
}

func (b *builder) source(s *Source) error {
	if s.Object != nil {
		if err := b.object(s.Object, s.Items, s.Optional); err != nil {
			return err
		}
	}
	from := Version{}
	if s.From != nil {
		from = *s.From
		b.payload.Objects = append(b.payload.Objects, from)
	}
	for _, value := range s.Values {
		if err := b.add(origin{object: from}, value.Path, value.Data, value.Mode, value.UID); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) object(o *Object, items []Item, optional bool) error {
	if !o.Found {
		if optional {
			return nil
		}
		return &Error{Object: o.Version, Err: ErrObjectMissing}
	}
	b.payload.Objects = append(b.payload.Objects, o.Version)
	if len(items) == 0 {
		return b.whole(o)
	}
	for _, item := range items {
		data, ok := o.Data[item.Key]
		if !ok {
			data, ok = o.BinaryData[item.Key]
		}
		if !ok {
			if optional {
				continue
			}
			return &Error{Object: o.Version, Key: item.Key, Path: item.Path, Err: ErrKeyMissing}
		}
		if err := b.add(origin{o.Version, item.Key}, item.Path, data, item.Mode, nil); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) whole(o *Object) error {
	for _, data := range []map[string]Content{o.Data, o.BinaryData} {
		// Sorted, so that of several bad keys it is always the same that is reported.
		for _, key := range slices.Sorted(maps.Keys(data)) {
			if err := b.add(origin{o.Version, key}, key, data[key], nil, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *builder) add(from origin, path string, data Content, mode *int32, uid *int64) error {
	refuse := func(err error) error {
		return &Error{Object: from.object, Key: from.key, Path: path, Err: err}
	}
	clean, err := CleanPath(path)
	if err != nil {
		return refuse(err)
	}
	if mode == nil {
		mode = &b.defaultMode
	}
	if *mode&^modeMask != 0 {
		return refuse(ErrMode)
	}
	f := File{Data: data, Mode: uint32(*mode), UID: -1, GID: b.payload.GID}
	if f.GID >= 0 {
		f.Mode |= fsGroupRead
	}
	if uid != nil {
		if f.UID, err = owner(*uid); err != nil {
			return refuse(err)
		}
	}
	b.payload.Files[clean] = f
	b.origin[clean] = from
	return nil
}

// conflicts refuses a path that would have to be a file and a directory.
func (b *builder) conflicts() error {
	for _, path := range b.payload.Paths() {
		for _, dir := range directories(path) {
			if _, file := b.payload.Files[dir]; file {
				from := b.origin[dir]
				return &Error{Object: from.object, Key: from.key, Path: dir, Err: ErrConflict}
			}
		}
	}
	return nil
}

func owner(id int64) (int, error) {
	if id < 0 || id > math.MaxInt32 {
		return -1, ErrOwner
	}
	return int(id), nil
}
