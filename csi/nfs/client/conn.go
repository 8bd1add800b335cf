package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/orlop-io/orlop/csi/nfs/wire"
)

// xids numbers the calls of this process; servers tell clients apart by their address, so any start will do.
var xids atomic.Uint32

func init() { xids.Store(rand.Uint32()) }

var errClosed = errors.New("the client is closed")

// wait is how long to wait before a connection is tried again, doubling from the first to the last.
const (
	firstWait = 50 * time.Millisecond
	lastWait  = time.Second
)

// channel is a connection to one port of the server that is made when it is needed, and made anew when it breaks.
type channel struct {
	o       *Options
	address string
	// retry is how long the server may take to answer before the connection is taken for dead.
	retry time.Duration

	// dialling is held, as a token, by the call that makes the connection.
	dialling chan struct{}

	mu     sync.Mutex
	link   *link
	closed bool
	wg     sync.WaitGroup
}

func newChannel(o *Options, address string) *channel {
	return &channel{o: o, address: address, retry: o.Retransmit, dialling: make(chan struct{}, 1)}
}

// close breaks the connection; calls under way end with an error.
func (c *channel) close() error {
	c.mu.Lock()
	c.closed = true
	l := c.link
	c.mu.Unlock()
	var err error
	if l != nil {
		err = l.fail(errClosed)
	}
	c.wg.Wait()
	return err
}

// encode returns the call as it is sent, with a transaction ID of its own.
func encode(head *wire.CallHeader, args wire.Message) *wire.Encoder {
	head.XID = xids.Add(1)
	e := wire.RecordSpace(make([]byte, 0, 256))
	head.Encode(e)
	args.Encode(e)
	return e
}

// decode reads the results of the call that the record answers, which results may refer to.
func decode(record []byte, results wire.Message) error {
	d := wire.NewDecoder(record)
	if _, err := wire.ReplyXID(d); err != nil {
		return err
	}
	if err := wire.DecodeReply(d); err != nil {
		return err
	}
	results.Decode(d)
	return d.Finish()
}

// call sends a call until it is answered, and decodes the results. patience bounds it where it is not zero.
func (c *channel) call(ctx context.Context, head wire.CallHeader, args, results wire.Message, patience time.Duration) error {
	e := encode(&head, args)
	if patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, patience, ErrTimeout)
		defer cancel()
	}
	delay := firstWait
	for {
		sent := time.Now()
		record, err := c.attempt(ctx, head.XID, e)
		if err == nil {
			err := decode(record, results)
			if r, ok := results.(*readInto); ok {
				r.take()
				recycle(record)
			}
			return err
		}
		if errors.Is(err, errClosed) {
			return err
		}
		if ctx.Err() != nil {
			return ended(ctx, err)
		}
		// A connection that worked for a while is made anew at once.
		if time.Since(sent) > lastWait {
			delay = firstWait
		}
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ended(ctx, err)
		}
		delay = min(2*delay, lastWait)
	}
}

// ErrTimeout is the cause of a call that was given up because the client's patience ended.
var ErrTimeout = errors.New("the server does not answer")

// ended returns why a call was given up, with what went wrong last.
func ended(ctx context.Context, last error) error {
	cause := context.Cause(ctx)
	if last == nil || errors.Is(last, cause) {
		return cause
	}
	return fmt.Errorf("%w (%w)", cause, last)
}

// attempt sends the call over the present connection and waits for the record that answers it.
func (c *channel) attempt(ctx context.Context, xid uint32, e *wire.Encoder) ([]byte, error) {
	l, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	reply := l.expect(xid)
	defer l.forget(xid)
	if err := l.send(ctx, e); err != nil {
		return nil, err
	}
	timer := time.NewTimer(c.retry)
	defer timer.Stop()
	select {
	case record := <-reply:
		return record, nil
	case <-l.done:
		select {
		case record := <-reply:
			return record, nil
		default:
			return nil, l.err
		}
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-timer.C:
		// Half-open connections, and firewalls that forgot it, look like this.
		err := fmt.Errorf("no answer for %v", c.retry)
		return nil, errors.Join(err, l.fail(err))
	}
}

// connect returns the connection, and makes it if there is none. One call makes it, the others wait.
func (c *channel) connect(ctx context.Context) (*link, error) {
	select {
	case c.dialling <- struct{}{}:
		defer func() { <-c.dialling }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	c.mu.Lock()
	l, closed := c.link, c.closed
	c.mu.Unlock()
	if closed {
		return nil, errClosed
	}
	if l != nil && !l.broken() {
		return l, nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.o.ConnectTimeout)
	defer cancel()
	conn, err := c.o.dial(ctx, c.address)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errors.Join(errClosed, conn.Close())
	}
	c.link = &link{conn: conn, pending: map[uint32]chan []byte{}, done: make(chan struct{}), sending: make(chan struct{}, 1)}
	c.wg.Go(c.link.receive)
	return c.link, nil
}

// link is one TCP connection.
type link struct {
	conn net.Conn
	// sending is held, as a token, by the call that writes.
	sending chan struct{}
	// done is closed when the connection is broken; err, set before, says why.
	done chan struct{}
	err  error

	mu      sync.Mutex
	pending map[uint32]chan []byte
}

func (l *link) broken() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// fail breaks the connection; the first reason stays.
func (l *link) fail(reason error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken() {
		return nil
	}
	l.err = reason
	close(l.done)
	return l.conn.Close()
}

func (l *link) expect(xid uint32) <-chan []byte {
	reply := make(chan []byte, 1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending[xid] = reply
	return reply
}

func (l *link) forget(xid uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.pending, xid)
}

// interruptible is how long a write may take after its call was given up. A write that is interrupted breaks the
// connection, since half of a record may be written, and a server that is well takes no such time.
const interruptible = time.Second

// send writes a call.
func (l *link) send(ctx context.Context, e *wire.Encoder) error {
	select {
	case l.sending <- struct{}{}:
		defer func() { <-l.sending }()
	case <-l.done:
		return l.err
	case <-ctx.Done():
		return ctx.Err()
	}
	written := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(interruptible)
		defer timer.Stop()
		select {
		case <-written:
		case <-timer.C:
			_ = l.fail(errors.New("the server takes no more")) // the write returns why it ended
		}
	})
	err := wire.WriteRecord(l.conn, e)
	close(written)
	stop()
	if err != nil {
		return errors.Join(err, l.fail(err))
	}
	return nil
}

// recordSize is what a record of the largest usual transfer takes; larger ones are made for the occasion.
const recordSize = 1<<20 + 4096

// records are buffers of large replies, used again when whoever got one gives it back.
var records = sync.Pool{New: func() any {
	b := make([]byte, 0, recordSize)
	return &b
}}

// small is up to where a reply gets a buffer of its own size.
const small = 64 << 10

// nextRecord reads a record: a large one into a buffer of the pool.
func nextRecord(reader *wire.RecordReader) ([]byte, error) {
	buf := records.Get().(*[]byte)
	record, err := reader.Next(*buf)
	if err != nil {
		return nil, err
	}
	if len(record) > small {
		return record, nil
	}
	own := slices.Clone(record)
	records.Put(buf)
	return own, nil
}

// recycle gives the buffer of a reply back that nobody uses any more.
func recycle(record []byte) {
	if cap(record) == recordSize {
		record = record[:0]
		records.Put(&record)
	}
}

// receive hands replies to those who wait for them until the connection breaks. A reply that nobody waits for, to a call
// that was given up or sent twice, is dropped.
func (l *link) receive() {
	// The buffer is small, so that the data of large reads goes into its record at once.
	reader := wire.NewRecordReader(bufio.NewReaderSize(l.conn, 4096), wire.MaxRecord)
	for {
		record, err := nextRecord(reader)
		if err != nil {
			// The connection's own error is what counts, and it is closed without anything to flush.
			_ = l.fail(fmt.Errorf("connection to %v: %w", l.conn.RemoteAddr(), err))
			return
		}
		xid, err := wire.ReplyXID(wire.NewDecoder(record))
		if err != nil {
			_ = l.fail(fmt.Errorf("connection to %v: %w", l.conn.RemoteAddr(), err))
			return
		}
		l.mu.Lock()
		reply := l.pending[xid]
		delete(l.pending, xid)
		l.mu.Unlock()
		if reply != nil {
			reply <- record
		}
	}
}
