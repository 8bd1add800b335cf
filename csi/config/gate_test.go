package config

import (
	"io"
	"net"
	"net/url"
	"sync"
	"testing"

	"k8s.io/client-go/rest"
)

// gate is a way to the API server that can be cut.
type gate struct {
	t        *testing.T
	listener net.Listener
	to       string
	wg       sync.WaitGroup

	mu    sync.Mutex
	shut  bool
	conns map[net.Conn]bool
}

func newGate(t *testing.T) *gate {
	t.Helper()
	to, err := url.Parse(env.Config.Host)
	must(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	g := &gate{t: t, listener: l, to: to.Host, conns: map[net.Conn]bool{}}
	g.wg.Go(g.serve)
	t.Cleanup(func() {
		must(t, l.Close())
		g.cut()
		g.wg.Wait()
	})
	return g
}

// config reaches the API server through the gate, with an administrator's credentials: a driver must not use them.
func (g *gate) config() *rest.Config {
	c := rest.CopyConfig(env.Config)
	c.Host = "https://" + g.listener.Addr().String()
	return c
}

func (g *gate) serve() {
	for {
		from, err := g.listener.Accept()
		if err != nil {
			return
		}
		to, err := net.Dial("tcp", g.to)
		g.mu.Lock()
		if err != nil || g.shut {
			_ = from.Close()
			if err == nil {
				_ = to.Close()
			}
			g.mu.Unlock()
			continue
		}
		g.conns[from], g.conns[to] = true, true
		g.mu.Unlock()
		for _, pair := range [][2]net.Conn{{from, to}, {to, from}} {
			g.wg.Go(func() {
				_, _ = io.Copy(pair[0], pair[1])
				g.mu.Lock()
				defer g.mu.Unlock()
				for _, c := range pair {
					_ = c.Close()
					delete(g.conns, c)
				}
			})
		}
	}
}

// cut ends all connections, and lets none in until open.
func (g *gate) cut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = true
	for c := range g.conns {
		_ = c.Close()
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = false
}
