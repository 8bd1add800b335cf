package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/orlop-io/orlop/csi/nfs/wire"
)

// DefaultPort is the port of NFS where Options name none.
const DefaultPort = 2049

// Options say which share to use, as whom, and how.
type Options struct {
	// Server is a host name or an address, Share the path of the share on it.
	Server, Share string
	// Port is NFS' port, 0 for DefaultPort. MountPort is the MOUNT protocol's; for 0 the server's port mapper is
	// asked, and a server without one is tried on Port.
	Port, MountPort int
	// Auth says who calls; nil for the user and group of this process.
	Auth *wire.Auth
	// Connections is how many connections carry the calls, 0 for one.
	Connections int
	// ConnectTimeout bounds one attempt to connect, 0 for 10 s.
	ConnectTimeout time.Duration
	// Retransmit is how long an answer may take before the call is sent again on another connection, 0 for 60 s.
	Retransmit time.Duration
	// Patience bounds each call; 0 lets it wait until its context ends.
	Patience time.Duration
	// DialContext makes connections; nil for TCP, from a port below 1024 where this process may use one, since many
	// servers allow only those.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
}

// withDefaults fills in what is zero.
func (o Options) withDefaults() *Options {
	if o.Port == 0 {
		o.Port = DefaultPort
	}
	if o.Auth == nil {
		o.Auth = &wire.Auth{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
	}
	o.Connections = max(o.Connections, 1)
	if o.ConnectTimeout == 0 {
		o.ConnectTimeout = 10 * time.Second
	}
	if o.Retransmit == 0 {
		o.Retransmit = time.Minute
	}
	return &o
}

func (o *Options) dial(ctx context.Context, address string) (net.Conn, error) {
	if o.DialContext != nil {
		return o.DialContext(ctx, "tcp", address)
	}
	return dialReserved(ctx, address)
}

// dialReserved connects from a port below 1024, or from any where that is not allowed.
func dialReserved(ctx context.Context, address string) (net.Conn, error) {
	const lowest, highest = 665, 1023 // as other clients of NFS do, to leave the ports of services alone
	port := lowest + int(xids.Load()%(highest-lowest+1))
	for range highest - lowest + 1 {
		d := net.Dialer{LocalAddr: &net.TCPAddr{Port: port}}
		conn, err := d.DialContext(ctx, "tcp", address)
		switch {
		case errors.Is(err, syscall.EADDRINUSE), errors.Is(err, syscall.EADDRNOTAVAIL):
			if port++; port > highest {
				port = lowest
			}
			continue
		case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}
		return conn, err
	}
	return new(net.Dialer).DialContext(ctx, "tcp", address)
}

// Client is a mounted share. Its methods may be called from several goroutines.
type Client struct {
	shared *shared
	auth   *wire.Auth
}

// shared is what all views of a client have in common.
type shared struct {
	o        *Options
	root     wire.Handle
	channels []*channel
	next     atomic.Uint32
	calls    [wire.ProcCommit + 1]atomic.Uint64
}

// Mount asks the server for the share and returns a client of it. Close it.
func Mount(ctx context.Context, options Options) (*Client, error) {
	o := options.withDefaults()
	if o.Server == "" || o.Share == "" {
		return nil, errors.New("an NFS share needs a server and a path, as in server:/path")
	}
	root, err := mount(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", o, err)
	}
	return New(options, root), nil
}

// New returns a client for a share whose root's handle is known, without asking the server.
func New(options Options, root wire.Handle) *Client {
	o := options.withDefaults()
	s := &shared{o: o, root: root}
	for range o.Connections {
		s.channels = append(s.channels, newChannel(o, o.address(o.Port)))
	}
	return &Client{shared: s, auth: o.Auth}
}

func (o *Options) address(port int) string { return net.JoinHostPort(o.Server, strconv.Itoa(port)) }

// String returns the share as mount(8) writes it.
func (o *Options) String() string { return o.Server + ":" + o.Share }

// Close breaks the connections; calls under way fail. The server keeps nothing of a client.
func (c *Client) Close() error {
	var errs []error
	for _, ch := range c.shared.channels {
		errs = append(errs, ch.close())
	}
	return errors.Join(errs...)
}

// As returns a view of the client that calls as somebody else, over the same connections.
func (c *Client) As(auth *wire.Auth) *Client { return &Client{shared: c.shared, auth: auth} }

// Root returns the handle of the share's root.
func (c *Client) Root() wire.Handle { return c.shared.root }

// String returns the share as mount(8) writes it.
func (c *Client) String() string { return c.shared.o.String() }

// Calls returns how many calls of a procedure were made.
func (c *Client) Calls(p wire.Proc) uint64 { return c.shared.calls[p].Load() }

// Error is a call that failed.
type Error struct {
	// Share is where, Proc what was called.
	Share string
	Proc  wire.Proc
	// Err is a wire.Status where the server said so.
	Err error
}

var _ error = (*Error)(nil)

// Error names the share, the call and the cause.
func (e *Error) Error() string { return e.Share + ": " + e.Proc.Name() + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// busyWait is how long to wait before a call is made again that the server is too busy for (NFS3ERR_JUKEBOX), doubling.
const (
	firstBusyWait = 100 * time.Millisecond
	lastBusyWait  = 5 * time.Second
)

// do makes a call. status is where results have theirs.
func (c *Client) do(ctx context.Context, proc wire.Proc, args, results wire.Message, status *wire.Status) error {
	s := c.shared
	head := wire.CallHeader{Program: wire.ProgramNFS, Version: wire.VersionNFS, Proc: uint32(proc), Auth: c.auth}
	ch := s.channels[int(s.next.Add(1))%len(s.channels)]
	for wait := firstBusyWait; ; wait = min(2*wait, lastBusyWait) {
		s.calls[proc].Add(1)
		if err := ch.call(ctx, head, args, results, s.o.Patience); err != nil {
			return &Error{s.o.String(), proc, err}
		}
		if *status != wire.ErrJukebox {
			if err := status.Err(); err != nil {
				return &Error{s.o.String(), proc, err}
			}
			return nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return &Error{s.o.String(), proc, ended(ctx, *status)}
		}
	}
}
