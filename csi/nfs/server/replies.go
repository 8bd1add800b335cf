package server

import (
	"container/list"
	"context"
	"net/netip"
	"sync"

	"github.com/orlop-io/orlop/csi/nfs/wire"
)

// replies are how many replies are kept for calls that are sent twice. Their size is bounded by what CREATE answers.
const replies = 8192

// replyKey tells a copy of a call from another call: its beginning is hashed, since a client that starts anew may begin
// with any transaction ID.
type replyKey struct {
	client             netip.Addr
	xid, program, proc uint32
	sum                uint64
}

// keptReply is a reply, or the promise of one.
type keptReply struct {
	key   replyKey
	done  chan struct{}
	reply *wire.Encoder
}

// replyCache is the duplicate request cache. Connections break and calls come again on the next one: without it, a MKDIR
// that was done would be answered by NFS3ERR_EXIST.
type replyCache struct {
	mu    sync.Mutex
	known map[replyKey]*list.Element
	order *list.List // the oldest first
}

func newReplyCache() *replyCache {
	return &replyCache{known: map[replyKey]*list.Element{}, order: list.New()}
}

// once returns the reply of the first call of this key, and waits where that is under way; nil when the context ends.
func (c *replyCache) once(ctx context.Context, key replyKey, run func() *wire.Encoder) *wire.Encoder {
	c.mu.Lock()
	if e := c.known[key]; e != nil {
		kept := e.Value.(*keptReply)
		c.mu.Unlock()
		select {
		case <-kept.done:
			// Each connection writes its own mark.
			return kept.reply.Clone()
		case <-ctx.Done():
			return nil
		}
	}
	kept := &keptReply{key: key, done: make(chan struct{})}
	c.known[key] = c.order.PushBack(kept)
	if c.order.Len() > replies {
		oldest := c.order.Front()
		delete(c.known, oldest.Value.(*keptReply).key)
		c.order.Remove(oldest)
	}
	c.mu.Unlock()
	kept.reply = run()
	close(kept.done)
	return kept.reply.Clone()
}
