package nfstest

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
)

// Proxy is a TCP proxy before a server, through which a test makes the network fail.
type Proxy struct {
	t        *testing.T
	listener net.Listener
	dial     func(context.Context) (net.Conn, error)
	wg       sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]bool
	refuse bool
	// swallow, where not nil, is closed when bytes shall flow again; until then they wait or, with lose, vanish.
	swallow chan struct{}
	lose    bool
	accepts int
}

// NewProxy starts a proxy on a port of the loopback that connects onwards by dial.
func NewProxy(t *testing.T, dial func(context.Context) (net.Conn, error)) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{t: t, listener: listener, dial: dial, conns: map[net.Conn]bool{}}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
		p.Heal()
		p.Reset()
		p.wg.Wait()
	})
	return p
}

// Port is where the proxy listens.
func (p *Proxy) Port() int { return p.listener.Addr().(*net.TCPAddr).Port }

// Accepts returns how many connections were made.
func (p *Proxy) Accepts() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepts
}

// Reset breaks all connections with a TCP reset.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // a reset instead of a proper end; one that is closed already has no need of it
		}
		_ = c.Close() // closed twice, by both ends
	}
}

// Refuse breaks all connections and new ones at once.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	p.refuse = true
	p.mu.Unlock()
	p.Reset()
}

// Stall lets bytes wait, both ways, while connections stay open. With lose they vanish, as behind a firewall that forgot
// the connection, and connections made before stay so for good.
func (p *Proxy) Stall(lose bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.swallow == nil {
		p.swallow = make(chan struct{})
	}
	p.lose = lose
}

// Heal ends Refuse and Stall.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = false
	if p.swallow != nil {
		close(p.swallow)
		p.swallow = nil
	}
}

func (p *Proxy) accept() {
	for {
		in, err := p.listener.Accept()
		if err != nil {
			return // the test is over
		}
		p.mu.Lock()
		refuse := p.refuse
		if !refuse {
			p.accepts++
			p.conns[in] = true
		}
		p.mu.Unlock()
		if refuse {
			_ = in.Close() // nobody minds
			continue
		}
		p.wg.Go(func() { p.connection(in) })
	}
}

func (p *Proxy) connection(in net.Conn) {
	out, err := p.dial(context.Background())
	if err != nil {
		_ = in.Close() // the client sees that, and nobody else is there
		return
	}
	p.mu.Lock()
	p.conns[out] = true
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { p.copy(out, in) })
	both.Go(func() { p.copy(in, out) })
	both.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, in)
	delete(p.conns, out)
}

func (p *Proxy) copy(to, from net.Conn) {
	buf := make([]byte, 64<<10)
	lost := false
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		swallow, lose := p.swallow, p.lose
		p.mu.Unlock()
		if swallow != nil {
			lost = lost || lose
			if !lost {
				<-swallow
			}
		}
		if n > 0 && !lost {
			if _, err := to.Write(buf[:n]); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	_ = errors.Join(to.Close(), from.Close()) // the other direction closes them as well
}
