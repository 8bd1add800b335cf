package dnsrelay

import (
	"net"
	"net/netip"
	"sync"
)

func allowed(prefix netip.Prefix, addr net.Addr) bool {
	ap, err := netip.ParseAddrPort(addr.String())
	return err == nil && prefix.Contains(ap.Addr().Unmap())
}

// filter is a listener that closes connections from outside a prefix at once and has a bounded number open;
// while there are that many, it accepts no more.
type filter struct {
	net.Listener
	allow  netip.Prefix
	slots  chan struct{}
	closed chan struct{}
	once   sync.Once
}

func newFilter(l net.Listener, allow netip.Prefix, limit int) *filter {
	return &filter{Listener: l, allow: allow, slots: make(chan struct{}, limit), closed: make(chan struct{})}
}

// Accept waits for the next connection that is allowed and has a place.
func (f *filter) Accept() (net.Conn, error) {
	select {
	case f.slots <- struct{}{}:
	case <-f.closed:
		return nil, net.ErrClosed
	}
	for {
		c, err := f.Listener.Accept()
		if err != nil {
			<-f.slots
			return nil, err
		}
		if allowed(f.allow, c.RemoteAddr()) {
			return &placed{Conn: c, release: sync.OnceFunc(func() { <-f.slots })}, nil
		}
		_ = c.Close() // nothing was sent that could be lost
	}
}

// Close stops the listener; connections stay.
func (f *filter) Close() error {
	f.once.Do(func() { close(f.closed) })
	return f.Listener.Close()
}

type placed struct {
	net.Conn
	release func()
}

func (p *placed) Close() error {
	defer p.release()
	return p.Conn.Close()
}
