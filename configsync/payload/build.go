package payload

import (
	"cmp"
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
	b := builder{payload: p, defaultMode: v.DefaultMode, exact: v.Exact, origin: map[string]origin{}}
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
	exact       bool
	origin      map[string]origin
}

func (b *builder) source(s *Source) error {
	if s.Object != nil {
		if err := b.object(s); err != nil {
			return err
		}
	}
	from := Version{}
	if s.From != nil {
		from = *s.From
		b.payload.Objects = append(b.payload.Objects, from)
	}
	for _, value := range s.Values {
		if err := b.add(origin{object: from}, value.Path, value.Data, asked{mode: value.Mode, uid: value.UID}); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) object(s *Source) error {
	o, from := s.Object, asked{s.Mode, s.UID, s.GID}
	if !o.Found {
		if s.Optional {
			return nil
		}
		return &Error{Object: o.Version, Err: ErrObjectMissing}
	}
	b.payload.Objects = append(b.payload.Objects, o.Version)
	if len(s.Items) == 0 {
		return b.whole(o, from)
	}
	for _, item := range s.Items {
		data, ok := o.Data[item.Key]
		if !ok {
			data, ok = o.BinaryData[item.Key]
		}
		if !ok {
			if s.Optional {
				continue
			}
			return &Error{Object: o.Version, Key: item.Key, Path: item.Path, Err: ErrKeyMissing}
		}
		if err := b.add(origin{o.Version, item.Key}, item.Path, data, asked{item.Mode, item.UID, item.GID}.or(from)); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) whole(o *Object, as asked) error {
	for _, data := range []map[string]Content{o.Data, o.BinaryData} {
		// Sorted, so that of several bad keys it is always the same that is reported.
		for _, key := range slices.Sorted(maps.Keys(data)) {
			if err := b.add(origin{o.Version, key}, key, data[key], as); err != nil {
				return err
			}
		}
	}
	return nil
}

// asked is what a manifest asks of a file; nil is nothing.
type asked struct {
	mode     *int32
	uid, gid *int64
}

// or fills in what is not asked for.
func (a asked) or(b asked) asked {
	return asked{cmp.Or(a.mode, b.mode), cmp.Or(a.uid, b.uid), cmp.Or(a.gid, b.gid)}
}

func (b *builder) add(from origin, path string, data Content, as asked) error {
	refuse := func(err error) error {
		return &Error{Object: from.object, Key: from.key, Path: path, Err: err}
	}
	clean, err := CleanPath(path)
	if err != nil {
		return refuse(err)
	}
	mode := cmp.Or(as.mode, &b.defaultMode)
	if *mode&^modeMask != 0 {
		return refuse(ErrMode)
	}
	f := File{Data: data, Mode: uint32(*mode), UID: -1, GID: b.payload.GID}
	if as.gid != nil {
		if f.GID, err = owner(*as.gid); err != nil {
			return refuse(err)
		}
	} else if f.GID >= 0 && (as.mode == nil || !b.exact) {
		f.Mode |= fsGroupRead
	}
	if as.uid != nil {
		if f.UID, err = owner(*as.uid); err != nil {
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
