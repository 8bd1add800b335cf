package client_test

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/orlop-io/orlop/csi/nfs/client"
	"github.com/orlop-io/orlop/csi/nfs/nfstest"
	"github.com/orlop-io/orlop/csi/nfs/server"
	"github.com/orlop-io/orlop/csi/nfs/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// embedded serves a directory and returns how to mount it through a proxy.
func embedded(t *testing.T) (client.Options, *nfstest.Proxy) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short")
	}
	key := make([]byte, server.KeySize)
	_, _ = rand.Read(key)
	s, err := server.New(server.Config{Key: key, Exports: []server.Export{{
		Path: "/data", Directory: t.TempDir(), Clients: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, s.Close()); err != nil {
			t.Error(err)
		}
	})
	p := nfstest.NewProxy(t, func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", listener.Addr().String())
	})
	return client.Options{Server: "127.0.0.1", Share: "/data", Port: p.Port(), Auth: &wire.Auth{}}, p
}

// During resets, refusals and stalls every call is done, once, and none is lost.
func TestCallsSurviveTheNetwork(t *testing.T) {
	o, proxy := embedded(t)
	o.Connections, o.Retransmit = 2, 200*time.Millisecond
	c := mount(t, o)
	ctx := t.Context()
	const workers, calls = 4, 60
	var wg sync.WaitGroup
	progress := make(chan struct{}, workers*calls)
	for worker := range workers {
		wg.Go(func() {
			for i := range calls {
				// MKDIR done twice would answer that the directory exists.
				if _, err := c.Mkdir(ctx, c.Root(), fmt.Sprintf("%d-%d", worker, i), wire.SetAttr{}); err != nil {
					t.Errorf("%d-%d: %v", worker, i, err)
				}
				progress <- struct{}{}
			}
		})
	}
	faults := []func(){
		proxy.Reset, func() { proxy.Stall(false) }, proxy.Heal, proxy.Refuse, proxy.Heal, func() { proxy.Stall(true) }, proxy.Heal, proxy.Reset,
	}
	go func() {
		wg.Wait()
		close(progress)
	}()
	done := 0
	idle := time.NewTimer(time.Second)
	defer idle.Stop()
	next := 0
	for open := true; open; {
		idle.Reset(100 * time.Millisecond)
		select {
		case _, open = <-progress:
			if open {
				done++
			}
			if done%20 == 0 {
				faults[next%len(faults)]()
				next++
			}
		case <-idle.C: // nothing moves: the next fault, or its end
			faults[next%len(faults)]()
			next++
		}
	}
	proxy.Heal()
	r, err := c.ReadDirPlus(ctx, c.Root(), 0, wire.Verifier{}, 60000)
	if err != nil || len(r.Entries) != workers*calls+2 {
		t.Errorf("%d entries, %v", len(r.Entries), err)
	}
	t.Logf("%d faults, %d connections, %d calls sent", next, proxy.Accepts(), c.Calls(wire.ProcMkdir))
}

// A server that is away costs a hard client patience, a soft one an error, and a caller that gives up nothing.
func TestOutage(t *testing.T) {
	o, proxy := embedded(t)
	o.Retransmit = 100 * time.Millisecond
	hard := mount(t, o)
	o.Patience = 300 * time.Millisecond
	soft := mount(t, o)
	for name, fault := range map[string]func(){
		"refused": proxy.Refuse, "stalled": func() { proxy.Stall(false) }, "lost": func() { proxy.Stall(true) },
	} {
		t.Run(name, func(t *testing.T) {
			fault()
			if _, err := soft.GetAttr(t.Context(), soft.Root()); !errors.Is(err, client.ErrTimeout) {
				t.Errorf("soft: %v", err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			given := make(chan error, 1)
			go func() { given <- second(hard.GetAttr(ctx, hard.Root())) }()
			waiting := make(chan error, 1)
			go func() { waiting <- second(hard.Mkdir(t.Context(), hard.Root(), name, wire.SetAttr{})) }()
			select {
			case err := <-waiting:
				t.Errorf("hard: %v", err)
			case <-time.After(500 * time.Millisecond):
			}
			cancel()
			if err := <-given; !errors.Is(err, context.Canceled) {
				t.Errorf("given up: %v", err)
			}
			proxy.Heal()
			if err := <-waiting; err != nil {
				t.Errorf("after the outage: %v", err)
			}
			if _, err := soft.GetAttr(t.Context(), soft.Root()); err != nil {
				t.Errorf("soft, after the outage: %v", err)
			}
		})
	}
}

func TestClosed(t *testing.T) {
	o, _ := embedded(t)
	c, err := client.Mount(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.GetAttr(t.Context(), c.Root()); err == nil {
		t.Error("a closed client calls")
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestMountErrors(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]client.Options{
		"nothing":        {},
		"no share":       {Server: "127.0.0.1"},
		"nobody listens": {Server: "127.0.0.1", Share: "/data", Port: port},
		"no such host":   {Server: "none.invalid", Share: "/data"},
	} {
		if c, err := client.Mount(t.Context(), o); err == nil {
			t.Errorf("%s: %v", name, c)
		} else {
			t.Log(err)
		}
	}
}

// hostile answers calls by a function of the call's transaction ID and procedure.
func hostile(t *testing.T, answer func(xid, proc uint32) []byte) client.Options {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // the test is over
			}
			wg.Go(func() {
				defer func() { _ = conn.Close() }() // the client may have closed it
				for {
					record, err := wire.NewRecordReader(conn, wire.MaxRecord).Next(nil)
					if err != nil || len(record) < 24 {
						return
					}
					reply := answer(binary.BigEndian.Uint32(record), binary.BigEndian.Uint32(record[20:]))
					if reply == nil {
						return
					}
					if _, err := conn.Write(reply); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
	return client.Options{
		Server: "127.0.0.1", Share: "/data", Port: listener.Addr().(*net.TCPAddr).Port, Auth: &wire.Auth{},
		Retransmit: 100 * time.Millisecond, Patience: 400 * time.Millisecond,
	}
}

// frame makes a record of a reply.
func frame(t *testing.T, xid uint32, body func(*wire.Encoder)) []byte {
	e := wire.RecordSpace(nil)
	wire.Replied(e, xid, wire.AcceptSuccess, [2]uint32{})
	body(e)
	var b writer
	if err := wire.WriteRecord(&b, e); err != nil {
		t.Error(err)
	}
	return b
}

type writer []byte

func (w *writer) Write(b []byte) (int, error) {
	*w = append(*w, b...)
	return len(b), nil
}

func TestHostileServer(t *testing.T) {
	attr := func(e *wire.Encoder) { (&wire.GetAttrRes{Attr: wire.Attr{Type: wire.TypeDirectory}}).Encode(e) }
	for name, c := range map[string]struct {
		answer func(xid, proc uint32) []byte
		want   error
	}{
		"a short reply":     {func(xid, _ uint32) []byte { return frame(t, xid, func(e *wire.Encoder) { e.Uint32(0) }) }, wire.ErrMalformed},
		"a long reply":      {func(xid, _ uint32) []byte { return frame(t, xid, func(e *wire.Encoder) { attr(e); e.Uint32(1) }) }, wire.ErrMalformed},
		"another call's ID": {func(xid, _ uint32) []byte { return frame(t, xid+1, attr) }, client.ErrTimeout},
		"an absurd length":  {func(uint32, uint32) []byte { return []byte{0xff, 0xff, 0xff, 0xff, 1, 2, 3} }, client.ErrTimeout},
		"noise":             {func(uint32, uint32) []byte { return []byte("HTTP/1.1 400 Bad Request\r\n\r\n") }, client.ErrTimeout},
		"an end":            {func(uint32, uint32) []byte { return nil }, client.ErrTimeout},
		"an unknown status": {func(xid, _ uint32) []byte { return frame(t, xid, func(e *wire.Encoder) { e.Uint32(4711) }) }, wire.Status(4711)},
		"a file of type 99": {func(xid, _ uint32) []byte {
			return frame(t, xid, func(e *wire.Encoder) { (&wire.GetAttrRes{Attr: wire.Attr{Type: 99}}).Encode(e) })
		}, wire.ErrMalformed},
		"no file":             {func(xid, _ uint32) []byte { return frame(t, xid, func(e *wire.Encoder) { e.Uint32(2) }) }, fs.ErrNotExist},
		"two replies for one": {func(xid, _ uint32) []byte { f := frame(t, xid, attr); return append(f, f...) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			h := client.New(hostile(t, c.answer), "root")
			defer func() {
				if err := h.Close(); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.EOF) {
					t.Error(err)
				}
			}()
			for range 2 {
				if _, err := h.GetAttr(t.Context(), h.Root()); !errors.Is(err, c.want) {
					t.Errorf("%v, want %v", err, c.want)
				}
			}
		})
	}
}

// A server too busy is asked again.
func TestJukebox(t *testing.T) {
	var mu sync.Mutex
	asked := 0
	o := hostile(t, func(xid, _ uint32) []byte {
		mu.Lock()
		defer mu.Unlock()
		asked++
		return frame(t, xid, func(e *wire.Encoder) {
			if asked < 3 {
				e.Uint32(uint32(wire.ErrJukebox))
				return
			}
			(&wire.GetAttrRes{Attr: wire.Attr{Type: wire.TypeDirectory}}).Encode(e)
		})
	})
	o.Patience = 0
	c := client.New(o, "root")
	if _, err := c.GetAttr(t.Context(), c.Root()); err != nil || asked != 3 {
		t.Error(asked, err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}
