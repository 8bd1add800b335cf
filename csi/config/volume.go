package config

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/configsync/action"
	"github.com/orlop-io/orlop/configsync/payload"
	"github.com/orlop-io/orlop/configsync/source"
	"github.com/orlop-io/orlop/configsync/writer"
	"github.com/orlop-io/orlop/csi/host"
	csivolume "github.com/orlop-io/orlop/csi/volume"
)

// volume is one that is published, or being published.
type volume struct {
	driver *Driver
	id     string

	// mu is held while the volume is written, so that no event writes while it is published or taken away.
	mu      sync.Mutex
	closed  bool
	p       publication
	account *account
	refs    map[source.Key]*source.Ref
	tree    *os.File // the file system, writable; nil until it is published
	writer  *writer.Writer
	trouble string // why the files may be behind; empty when they are not

	tracker *action.Tracker // nil where changes are not acted on
	tracked *writer.Writer  // whose files the tracker follows
}

func newVolume(d *Driver, id string) *volume {
	return &volume{driver: d, id: id, refs: map[source.Key]*source.Ref{}}
}

func (v *volume) target() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.p.Target
}

func (v *volume) troubled() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.trouble
}

// publish makes the volume's files and then mounts them. The caller takes away what is left where that fails.
func (v *volume) publish(ctx context.Context, p publication) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.take(p); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, v.driver.patience)
	defer cancel()
	built, err := v.payload(func(ref *source.Ref) (*payload.Object, error) {
		object, err := ref.Get(ctx)
		// What volumes of the same ServiceAccount show already is not for a new one, once it is forbidden.
		return object, refusal(v.account.Account, ref.Key(), errors.Join(err, ref.Failure()), err)
	})
	var refused *payload.Error
	if errors.As(err, &refused) {
		return fmt.Errorf("%w: %w", csivolume.ErrNotReady, err)
	}
	if err != nil {
		return err
	}
	tmpfs, err := v.driver.host.NewTmpfs("publish.tmpfs", mountSource, maxTmpfs)
	if err != nil {
		return err
	}
	v.writeTo(tmpfs)
	if err := v.write(built); err != nil {
		return err
	}
	if err := v.driver.host.MakeDir("publish.target", p.Target); err != nil {
		return err
	}
	if err := v.attach("publish.attach"); err != nil {
		return err
	}
	// What a publish that was killed left says nothing of this one.
	if err := action.Forget(v.marker()); err != nil {
		return err
	}
	v.track()
	v.warnUnheeded()
	return nil
}

// refusal makes of a failure to read an object an error that says what to do. Of the failures that came before now, only
// a refusal counts; nil is returned where nothing does.
func refusal(a Account, k source.Key, failure, now error) error {
	switch {
	case apierrors.IsForbidden(failure):
		return fmt.Errorf("%w: %s", csivolume.ErrForbidden, advice(a, k))
	case now == nil:
		return nil
	case errors.Is(now, context.Canceled):
		return now
	}
	return fmt.Errorf("%w: %w", csivolume.ErrUnavailable, now)
}

// attach makes the files appear at the target, where nobody can write, and keeps a way to write them.
func (v *volume) attach(label host.Label) error {
	h := v.driver.host
	if err := h.Attach(label, v.tree, v.p.Target, readOnly); err != nil {
		return err
	}
	tree, err := h.CloneWritable(v.p.Target)
	if err != nil {
		return err
	}
	old := v.tree
	v.writeTo(tree)
	return old.Close()
}

// adopt takes up a volume that an earlier driver published. Its files are written when its objects have been read.
func (v *volume) adopt(p publication) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.take(p); err != nil {
		return err
	}
	tree, err := v.driver.host.CloneWritable(p.Target)
	if err != nil {
		return err
	}
	v.writeTo(tree)
	// The earlier driver may have been killed before it acted on its last change.
	v.track()
	v.act()
	v.driver.queue.Add(job{id: v.id})
	// What the earlier driver superseded is found now.
	v.driver.queue.AddAfter(job{v.id, true}, writer.DefaultGrace)
	return nil
}

// republish takes over what the kubelet brings and repairs the volume. parseErr is why the request makes no sense.
func (v *volume) republish(ctx context.Context, p publication, parseErr error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return
	}
	trouble := parseErr
	if parseErr == nil {
		trouble = v.renew(p)
	}
	if mounted, err := v.driver.mountedAt(v.p.Target); err != nil {
		trouble = errors.Join(trouble, err)
	} else if !mounted {
		// Containers that run see the file system still, so it is this one that has to come back.
		err := v.driver.host.MakeDir("republish.target", v.p.Target)
		if err == nil {
			err = v.attach("republish.attach")
		}
		trouble = errors.Join(trouble, err)
	}
	ctx, cancel := context.WithTimeout(ctx, v.driver.patience)
	defer cancel()
	err := v.refresh(func(ref *source.Ref) (*payload.Object, error) { return ref.Get(ctx) })
	v.report(errors.Join(trouble, err))
}

// renew takes over a publication, and records it where it differs. v.mu is held.
func (v *volume) renew(p publication) error {
	changed := !v.p.same(p) || v.p.token != p.token
	if err := v.take(p); err != nil || !changed {
		return err
	}
	return v.driver.state.write(p.record)
}

// take takes over a publication: its token, and references to its objects before those of an earlier one are given up.
// v.mu is held.
func (v *volume) take(p publication) error {
	if v.account == nil || v.account.Account != p.account {
		next, err := v.driver.useAccount(p.account)
		if err != nil {
			return err
		}
		v.leave()
		v.account = next
	}
	v.account.tokens.set(v.id, p.token)
	changed := func() { v.driver.queue.Add(job{id: v.id}) }
	wanted := map[source.Key]*source.Ref{}
	for _, s := range p.spec.Sources {
		if wanted[s.Key] != nil {
			continue
		}
		if wanted[s.Key] = v.refs[s.Key]; wanted[s.Key] == nil {
			wanted[s.Key] = v.account.source.Acquire(s.Key, changed)
		}
	}
	for k, ref := range v.refs {
		if wanted[k] == nil {
			ref.Release()
		}
	}
	v.p, v.refs = p, wanted
	return nil
}

// leave gives the account and all references up. v.mu is held.
func (v *volume) leave() {
	for _, ref := range v.refs {
		ref.Release()
	}
	v.refs = map[source.Key]*source.Ref{}
	if v.account != nil {
		v.driver.leaveAccount(v.account, v.id)
		v.account = nil
	}
}

// close ends the following. The volume's mount stays.
func (v *volume) close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return nil
	}
	v.closed = true
	v.untrack()
	v.leave()
	if v.tree == nil {
		return nil
	}
	return v.tree.Close()
}

// report keeps why the files may be behind, and tells the user once. v.mu is held.
func (v *volume) report(err error) {
	if err == nil {
		v.trouble = ""
		return
	}
	if v.trouble == err.Error() {
		return
	}
	v.trouble = err.Error()
	v.driver.complain(context.Background(), v.p, err)
}

// complain logs and tells the pod's users that a volume in use is behind.
func (d *Driver) complain(ctx context.Context, p publication, err error) {
	klog.FromContext(ctx).Error(err, "Configuration volume keeps its last good files", "pod", p.pod.Namespace+"/"+p.pod.Name,
		"volume", p.volumeName())
	d.event(p.pod, fmt.Sprintf("Volume %q keeps its last good files: %v", p.volumeName(), err))
}
