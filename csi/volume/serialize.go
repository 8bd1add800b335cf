package volume

import (
	"context"
	"fmt"
	"sync"
)

// KeyLocks is a set of locks that are never waited for. The zero value is ready; it is safe for concurrent use.
type KeyLocks struct {
	mu   sync.Mutex
	held map[string]struct{}
}

// TryAcquire takes the lock of that key, or fails with ErrBusy at once when it is held. The function it returns gives
// the lock back.
func (l *KeyLocks) TryAcquire(key string) (release func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, held := l.held[key]; held {
		return nil, ErrBusy
	}
	if l.held == nil {
		l.held = map[string]struct{}{}
	}
	l.held[key] = struct{}{}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.held, key)
	}, nil
}

// Serialize returns a Service that passes everything on to next, except that a second operation on a volume fails with
// ErrBusy while a first one is under way. Creation takes the lock that all operations on the created volume take.
// Reading (Get, List, Capacity, CheckVolume, Stats) takes no lock.
func Serialize(next Service) Service { return &serialized{Service: next} }

type serialized struct {
	Service
	locks KeyLocks
}

var _ Service = (*serialized)(nil)

// do runs f under the lock of the volume unless ctx has ended.
func (s *serialized) do(ctx context.Context, id ID, f func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	release, err := s.locks.TryAcquire(id.Key())
	if err != nil {
		return fmt.Errorf("volume %s: %w", id, err)
	}
	defer release()
	return f()
}

func (s *serialized) Create(ctx context.Context, spec Spec) (v Volume, err error) {
	// The kind is not known yet and does not matter: the key is the same for all.
	err = s.do(ctx, NewID(KindDir, spec.Name), func() error {
		v, err = s.Service.Create(ctx, spec)
		return err
	})
	return v, err
}

func (s *serialized) Delete(ctx context.Context, id ID) error {
	return s.do(ctx, id, func() error { return s.Service.Delete(ctx, id) })
}

func (s *serialized) Stage(ctx context.Context, id ID, path string, capability Capability) error {
	return s.do(ctx, id, func() error { return s.Service.Stage(ctx, id, path, capability) })
}

func (s *serialized) Unstage(ctx context.Context, id ID, path string) error {
	return s.do(ctx, id, func() error { return s.Service.Unstage(ctx, id, path) })
}

func (s *serialized) Publish(ctx context.Context, id ID, req PublishRequest) error {
	return s.do(ctx, id, func() error { return s.Service.Publish(ctx, id, req) })
}

func (s *serialized) Unpublish(ctx context.Context, id ID, target string) error {
	return s.do(ctx, id, func() error { return s.Service.Unpublish(ctx, id, target) })
}
