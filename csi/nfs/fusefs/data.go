package fusefs

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/orlop-io/orlop/csi/nfs/client"
	"github.com/orlop-io/orlop/csi/nfs/wire"
)

const (
	// gatherTime is how long a write waits for others that it can be sent with.
	gatherTime = 500 * time.Millisecond
	// gatherMost is how many separate pieces of a file wait.
	gatherMost = 128
)

// extent is a piece of a file that was written here and is not known to be safe on the server.
type extent struct {
	// seq orders the writes of a file.
	seq    uint64
	offset uint64
	data   []byte
	as     *client.Client
	// verifier is what the server answered to the write.
	verifier wire.Verifier
}

func (e *extent) end() uint64 { return e.offset + uint64(len(e.data)) }

func (e *extent) overlaps(from, to uint64) bool { return e.offset < to && from < e.end() }

// behind reports whether a read of this place must wait for writes: for those to the same place, and for those after it, without
// which the server does not know how far the file goes.
func (d *dataState) behind(from uint64) bool {
	after := func(e *extent) bool { return e.end() > from }
	return slices.ContainsFunc(d.gathered, after) || slices.ContainsFunc(d.sending, after)
}

func overlapping(extents []*extent, from, to uint64) bool {
	return slices.ContainsFunc(extents, func(e *extent) bool { return e.overlaps(from, to) })
}

// dataState is what a node's writes have come to. The node's mu guards it.
type dataState struct {
	// gathered wait to be sent, in the order in which they were written, sending are on their way, and unstable were
	// answered but not committed.
	gathered, sending, unstable []*extent
	// err is the first failure that nobody was told of.
	err error
	// last is the number (FS.changes) of the last change.
	last uint64
	seq  uint64
	// own is set while the file may differ from cached only by what was written here.
	own bool
	// resending stops new writes while lost ones are sent again, which must not overtake them.
	resending bool
	timer     *time.Timer
	// moved is closed, and made anew, whenever any of this changes.
	moved chan struct{}
	// committing is held, as a token, by whoever makes the writes safe.
	committing chan struct{}
}

func (d *dataState) init() { d.moved, d.committing = make(chan struct{}), make(chan struct{}, 1) }

func (d *dataState) move() {
	close(d.moved)
	d.moved = make(chan struct{})
}

// pending reports whether writes have not been answered yet.
func (d *dataState) pending() bool { return len(d.gathered)+len(d.sending) > 0 }

// dirty reports whether writes are not known to be safe yet.
func (d *dataState) dirty() bool { return d.pending() || len(d.unstable) > 0 }

// changedSince reports whether attributes of a call made then may not know of all writes.
func (d *dataState) changedSince(when uint64) bool {
	return d.last > when || d.pending()
}

// takeError returns the failure and forgets it.
func (n *node) takeError() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	err := n.data.err
	n.data.err = nil
	return err
}

// write takes over data that is to be written. It returns an earlier write's failure.
func (fs *FS) write(ctx context.Context, n *node, as *client.Client, offset uint64, data []byte) error {
	if err := n.takeError(); err != nil {
		return err
	}
	if fs.dirty.tight() && fs.cleaning.CompareAndSwap(false, true) {
		fs.wg.Go(fs.clean)
	}
	if err := fs.dirty.reserve(ctx, int64(len(data))); err != nil {
		return err
	}
	n.mu.Lock()
	for n.data.resending {
		moved := n.data.moved
		n.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			fs.dirty.release(int64(len(data)))
			return ctx.Err()
		}
		n.mu.Lock()
	}
	defer n.mu.Unlock()
	d := &n.data
	d.last, d.own = fs.changes.Add(1), true
	n.attr.Size = max(n.attr.Size, offset+uint64(len(data)))
	if !fs.gather(d, as, offset, data) {
		d.seq++
		// Room for a sequential writer's next ones, which are likely.
		own := make([]byte, len(data), max(len(data), min(4*len(data), int(fs.transfer))))
		copy(own, data)
		d.gathered = append(d.gathered, &extent{seq: d.seq, offset: offset, data: own, as: as})
	}
	switch {
	case len(d.gathered) >= gatherMost || len(d.gathered[len(d.gathered)-1].data) >= int(fs.transfer):
		fs.send(n)
	case d.timer == nil:
		d.timer = time.AfterFunc(gatherTime, func() {
			n.mu.Lock()
			defer n.mu.Unlock()
			fs.send(n)
		})
	}
	return nil
}

// gather adds data to what waits already, if it lies in one piece of it or follows one. Only the newest piece that it overlaps may
// take it in: what is sent later must be newer.
func (fs *FS) gather(d *dataState, as *client.Client, offset uint64, data []byte) bool {
	end := offset + uint64(len(data))
	for _, e := range slices.Backward(d.gathered) {
		if !e.overlaps(offset, end) {
			continue
		}
		if e.as != as || offset < e.offset || end > e.end() {
			return false
		}
		copy(e.data[offset-e.offset:], data)
		fs.dirty.release(int64(len(data)))
		return true
	}
	for _, e := range d.gathered {
		if e.end() == offset && e.as == as && len(e.data)+len(data) <= int(fs.transfer) {
			e.data = append(e.data, data...)
			return true
		}
	}
	return false
}

// send sends what waits, but for what overlaps an older piece that is on its way. n.mu is held.
func (fs *FS) send(n *node) {
	d := &n.data
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	var blocked []*extent
	for _, e := range d.gathered {
		if overlapping(d.sending, e.offset, e.end()) || overlapping(blocked, e.offset, e.end()) {
			blocked = append(blocked, e)
			continue
		}
		d.sending = append(d.sending, e)
		fs.wg.Go(func() { fs.transmit(n, e) })
	}
	d.gathered = blocked
}

// transmit writes one piece to the server.
func (fs *FS) transmit(n *node, e *extent) {
	rest, offset, stable := e.data, e.offset, true
	var err error
	for len(rest) > 0 {
		var r wire.WriteRes
		if r, err = e.as.Write(fs.ctx, n.handle, offset, rest, wire.Unstable); err != nil {
			break
		}
		if r.Count == 0 || int(r.Count) > len(rest) {
			err = wire.ErrIO
			break
		}
		if r.Committed != wire.FileSync {
			if !stable && r.Verifier != e.verifier {
				// The server was started anew between two parts of the piece: all of it again.
				rest, offset, stable = e.data, e.offset, true
				continue
			}
			stable, e.verifier = false, r.Verifier
		}
		rest, offset = rest[r.Count:], offset+uint64(r.Count)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	d := &n.data
	d.sending = slices.DeleteFunc(d.sending, func(other *extent) bool { return other == e })
	d.last = fs.changes.Add(1)
	switch {
	case err != nil:
		if d.err == nil {
			d.err = err
		}
		fallthrough
	case stable:
		fs.dirty.release(int64(len(e.data)))
	default:
		d.unstable = append(d.unstable, e)
	}
	if len(d.gathered) > 0 {
		fs.send(n)
	}
	d.move()
}

// drain sends all that waits and returns when it was answered.
func (fs *FS) drain(ctx context.Context, n *node) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.data.gathered) > 0 {
		fs.send(n)
	}
	for n.data.pending() {
		moved := n.data.moved
		n.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			n.mu.Lock()
			return ctx.Err()
		}
		n.mu.Lock()
	}
	return nil
}

// sync makes all that was written safe on the server.
func (fs *FS) sync(ctx context.Context, n *node) error {
	select {
	case n.data.committing <- struct{}{}:
		defer func() { <-n.data.committing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	for {
		if err := fs.drain(ctx, n); err != nil {
			return err
		}
		n.mu.Lock()
		unstable := n.data.unstable
		n.data.unstable = nil
		n.mu.Unlock()
		if len(unstable) == 0 {
			return n.takeError()
		}
		when := fs.changes.Load()
		r, err := unstable[len(unstable)-1].as.Commit(ctx, n.handle, 0, 0)
		lost := err == nil && slices.ContainsFunc(unstable, func(e *extent) bool { return e.verifier != r.Verifier })
		if err != nil || lost {
			n.mu.Lock()
			n.data.unstable = append(unstable, n.data.unstable...)
			n.mu.Unlock()
		}
		switch {
		case err != nil:
			return err
		case lost:
			if err := fs.resend(ctx, n); err != nil {
				return err
			}
		default:
			fs.safe(n, unstable, r.Wcc.After, when)
		}
	}
}

// resend puts all that is not safe back to what waits, in the order in which it was written: a piece that the server lost must
// not overtake a newer one.
func (fs *FS) resend(ctx context.Context, n *node) error {
	n.mu.Lock()
	n.data.resending = true
	n.mu.Unlock()
	err := fs.drain(ctx, n)
	n.mu.Lock()
	defer n.mu.Unlock()
	d := &n.data
	if err == nil {
		slices.SortFunc(d.unstable, func(a, b *extent) int { return cmp.Compare(a.seq, b.seq) })
		d.gathered = append(d.unstable, d.gathered...)
		d.unstable = nil
	}
	d.resending = false
	d.move()
	return err
}

// safe forgets pieces that are safe. Attributes of that moment, where nothing was changed since, are those of the kernel's
// pages.
func (fs *FS) safe(n *node, extents []*extent, after *wire.Attr, when uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	d := &n.data
	for _, e := range extents {
		fs.dirty.release(int64(len(e.data)))
	}
	if after != nil && !d.changedSince(when) && len(d.unstable) == 0 {
		n.attr, n.cached, d.own = *after, *after, false
	}
	d.move()
}

// clean makes the writes of all files safe, so that writers need not wait. One cleans at a time.
func (fs *FS) clean() {
	defer fs.cleaning.Store(false)
	fs.mu.Lock()
	nodes := make([]*node, 0, len(fs.nodes))
	for _, n := range fs.nodes {
		nodes = append(nodes, n)
	}
	fs.mu.Unlock()
	for _, n := range nodes {
		n.mu.Lock()
		dirty := n.data.dirty()
		n.mu.Unlock()
		if !dirty {
			continue
		}
		if err := fs.sync(fs.ctx, n); err != nil {
			n.mu.Lock()
			if n.data.err == nil && fs.ctx.Err() == nil {
				n.data.err = err
			}
			n.mu.Unlock()
		}
	}
}
