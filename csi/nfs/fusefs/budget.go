package fusefs

import (
	"context"
	"sync"
)

// budget bounds the bytes of writes that are not safe yet.
type budget struct {
	mu    sync.Mutex
	used  int64
	limit int64
	// freed is closed, and made anew, whenever bytes are given back.
	freed chan struct{}
}

func (b *budget) init(limit int64) { b.limit, b.freed = limit, make(chan struct{}) }

// tight reports whether it is time to make writes safe, before writers must wait.
func (b *budget) tight() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used > b.limit/2
}

// reserve takes bytes, and waits while there are too many. One write is always let through.
func (b *budget) reserve(ctx context.Context, n int64) error {
	for {
		b.mu.Lock()
		if b.used == 0 || b.used+n <= b.limit {
			b.used += n
			b.mu.Unlock()
			return nil
		}
		freed := b.freed
		b.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (b *budget) release(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
	close(b.freed)
	b.freed = make(chan struct{})
}
