package volumes

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// lossyProxy stands between a client and the API server. It can swallow what passes, without closing anything: as a
// firewall does that forgot a connection, or a network that lost its way.
type lossyProxy struct {
	t        *testing.T
	listener net.Listener
	target   string
	wg       sync.WaitGroup

	// lost is what becomes of the bytes of connections that are made from now on.
	lost atomic.Bool

	mu    sync.Mutex
	conns map[*lossyConn]bool
}

type lossyConn struct {
	client, server net.Conn
	// lost connections stay open and bring nothing, for ever.
	lost atomic.Bool
}

// newProxy returns a proxy to the API server at the URL. It ends with the test.
func newProxy(t *testing.T, url string) *lossyProxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &lossyProxy{t: t, listener: l, target: strings.TrimPrefix(url, "https://"), conns: map[*lossyConn]bool{}}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		p.drop()
		p.wg.Wait()
	})
	return p
}

func (p *lossyProxy) url() string { return "https://" + p.listener.Addr().String() }

// lose swallows all that connections carry from now on, those that are open and those to come.
func (p *lossyProxy) lose() {
	p.lost.Store(true)
	p.forget()
}

// forget swallows all that the open connections carry from now on; new ones work.
func (p *lossyProxy) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.lost.Store(true)
	}
}

// find lets new connections work again. Those that lost bytes stay lost.
func (p *lossyProxy) find() { p.lost.Store(false) }

// drop closes the open connections.
func (p *lossyProxy) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.close(p.t)
	}
}

func (p *lossyProxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // closed at the end of the test
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			if err := client.Close(); err != nil {
				p.t.Error(err)
			}
			continue // the API server is down, and so is this connection
		}
		c := &lossyConn{client: client, server: server}
		c.lost.Store(p.lost.Load())
		p.mu.Lock()
		p.conns[c] = true
		p.mu.Unlock()
		var both sync.WaitGroup
		both.Go(func() { c.pump(client, server) })
		both.Go(func() { c.pump(server, client) })
		p.wg.Go(func() {
			both.Wait()
			p.mu.Lock()
			delete(p.conns, c)
			p.mu.Unlock()
		})
	}
}

// pump carries bytes one way until either end is closed; a lost connection hears nothing of the other end's close.
func (c *lossyConn) pump(to, from net.Conn) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 && !c.lost.Load() {
			if _, err := to.Write(buffer[:n]); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	if !c.lost.Load() || to == c.server {
		_ = to.Close() // it may be closed from its own side already
	}
}

func (c *lossyConn) close(t *testing.T) {
	for _, end := range []io.Closer{c.client, c.server} {
		if err := end.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	}
}
