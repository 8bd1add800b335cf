package server

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/csi/nfs/wire"
)

const (
	// maxTransfer is the most bytes of one read or write that the server offers and takes.
	maxTransfer = 1 << 20
	maxRecord   = maxTransfer + 4096
	// inFlight is how many calls of one connection are done at a time; more wait in the connection.
	inFlight = 32
	// maxConnections is how many clients' connections there may be.
	maxConnections = 1024
	// sendPatience is how long a client may take to accept a reply.
	sendPatience = 30 * time.Second
)

// Config says what a Server serves.
type Config struct {
	Exports []Export
	// Key seals the handles, KeySize random bytes. With another key the handles that clients hold are stale.
	Key []byte
	// Port is where clients reach the server, which it answers to those who ask a port mapper. Serve on port 111 too
	// for clients that are not told the ports.
	Port uint16
}

// Server serves exports. Its methods may be called from several goroutines.
type Server struct {
	config   Config
	exports  []*export
	byNumber map[uint32]*export
	verifier verifier
	replies  *replyCache
	locks    locks
}

// New opens the exports. It fails where a directory is missing or its file system has no handles. Close the server.
func New(config Config) (_ *Server, err error) {
	if len(config.Key) != KeySize {
		return nil, fmt.Errorf("the key of an NFS server has %d bytes, not %d", len(config.Key), KeySize)
	}
	s := &Server{config: config, byNumber: map[uint32]*export{}, replies: newReplyCache()}
	s.verifier.renew()
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	for _, e := range config.Exports {
		x, err := openExport(e)
		if err != nil {
			return nil, err
		}
		s.exports = append(s.exports, x)
		if other := s.byNumber[x.number]; other != nil {
			return nil, fmt.Errorf("shares %s and %s have the same number or name: rename one", other.Path, x.Path)
		}
		s.byNumber[x.number] = x
		h, err := s.handle(x, int(x.dir.Fd()), "")
		if err != nil {
			return nil, fmt.Errorf("share %s: the file system of %s gives no file handles; ext4, XFS, Btrfs and tmpfs do: %w",
				x.Path, x.Directory, err)
		}
		_, fd, err := s.open(h)
		if err != nil {
			return nil, fmt.Errorf("share %s: open %s by its handle (this needs root): %w", x.Path, x.Directory, err)
		}
		closeFD(fd)
	}
	return s, nil
}

// Close closes the exports. Serve must have returned.
func (s *Server) Close() error {
	var errs []error
	for _, x := range s.exports {
		errs = append(errs, x.dir.Close())
	}
	s.exports = nil
	return errors.Join(errs...)
}

// Serve serves on the listener until the context ends, and returns when the last call has ended. It closes the listener.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() }) // Accept returns then
	defer stop()
	room := make(chan struct{}, maxConnections)
	for {
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			if err == nil {
				err = conn.Close()
			} else {
				err = nil
			}
			return err
		}
		if err != nil {
			cancel()
			return errors.Join(fmt.Errorf("NFS server: %w", err), ignoreClosed(listener.Close()))
		}
		wg.Go(func() {
			defer func() { <-room }()
			if err := s.connection(ctx, conn); err != nil {
				klog.FromContext(ctx).V(2).Info("NFS client left", "client", conn.RemoteAddr(), "reason", err)
			}
		})
	}
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// connection serves one client's connection until it ends.
func (s *Server) connection(ctx context.Context, conn net.Conn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // what reads and writes returns then
	defer stop()
	client, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	var (
		calls   sync.WaitGroup
		room    = make(chan struct{}, inFlight)
		sending sync.Mutex
	)
	defer calls.Wait()
	reader := wire.NewRecordReader(bufio.NewReaderSize(conn, 4096), maxRecord)
	for {
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		record, err := reader.Next(nil)
		if err != nil {
			cancel()
			if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
				err = nil
			}
			return errors.Join(err, ignoreClosed(conn.Close()))
		}
		calls.Go(func() {
			defer func() { <-room }()
			reply, sent := s.answer(ctx, client.Addr().Unmap(), record)
			defer sent()
			if reply == nil {
				cancel() // nothing that an answer could be given to
				return
			}
			sending.Lock()
			defer sending.Unlock()
			if conn.SetWriteDeadline(time.Now().Add(sendPatience)) != nil || wire.WriteRecord(conn, reply) != nil {
				cancel() // half a reply may be sent: the client must connect anew
			}
		})
	}
}

// verifier is what tells clients that unstable writes may be lost.
type verifier struct {
	mu sync.Mutex
	v  wire.Verifier
}

func (v *verifier) renew() {
	v.mu.Lock()
	defer v.mu.Unlock()
	_, _ = rand.Read(v.v[:]) // never fails
}

func (v *verifier) get() wire.Verifier {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.v
}

// locks make a change and the attributes before and after it one step, for all clients of this server.
type locks struct{ stripes [256]sync.Mutex }

func (l *locks) lock(h wire.Handle) (unlock func()) {
	mu := &l.stripes[stripe(h)]
	mu.Lock()
	return mu.Unlock
}

// lock2 locks two, which may be the same, in an order that all callers share.
func (l *locks) lock2(a, b wire.Handle) (unlock func()) {
	i, j := stripe(a), stripe(b)
	if i == j {
		return l.lock(a)
	}
	first, second := &l.stripes[min(i, j)], &l.stripes[max(i, j)]
	first.Lock()
	second.Lock()
	return func() {
		second.Unlock()
		first.Unlock()
	}
}

// stripe is the seal's last byte, which is as good as random.
func stripe(h wire.Handle) byte {
	if h == "" {
		return 0
	}
	return h[len(h)-1]
}
