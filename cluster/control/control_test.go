package control

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/orlop-io/orlop/cluster"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// source is a cluster whose versions the test makes.
type source struct {
	mu      sync.Mutex
	version uint64
	changed chan struct{}
	waiting chan uint64 // told of each Wait
}

func newSource() *source {
	return &source{version: 1, changed: make(chan struct{}), waiting: make(chan uint64, 100)}
}

func (s *source) Status() cluster.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return cluster.Status{ID: "0a1b2c3d", Phase: cluster.PhaseReady, Version: s.version}
}

func (s *source) Wait(ctx context.Context, after uint64) {
	s.waiting <- after
	for {
		s.mu.Lock()
		version, changed := s.version, s.changed
		s.mu.Unlock()
		if version > after {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (s *source) change() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	close(s.changed)
	s.changed = make(chan struct{})
}

// serve answers for the source on a socket until the test ends, or end is called.
func serve(t *testing.T, s Source, stop func()) (socket string, end func()) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "control.sock")
	listener, err := Listen(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, listener, s, stop) }()
	end = sync.OnceFunc(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve returned %v", err)
		}
	})
	t.Cleanup(end)
	return socket, end
}

func dial(t *testing.T, socket string) *Client {
	c := NewClient(socket)
	t.Cleanup(c.Close)
	return c
}

func TestStatusAtOnce(t *testing.T) {
	s := newSource()
	socket, _ := serve(t, s, func() {})
	got, err := dial(t, socket).Status(t.Context(), nil)
	if err != nil || got.ID != "0a1b2c3d" || got.Phase != cluster.PhaseReady || got.Version != 1 {
		t.Fatalf("got %+v, %v", got, err)
	}
	if len(s.waiting) != 0 {
		t.Error("the server waited for a change that nobody asked for")
	}
}

func TestLongPollAnswersTheNextChange(t *testing.T) {
	s := newSource()
	socket, _ := serve(t, s, func() {})
	after := uint64(1)
	type answer struct {
		status *cluster.Status
		err    error
	}
	answered := make(chan answer, 1)
	client := dial(t, socket)
	go func() {
		status, err := client.Status(context.Background(), &after)
		answered <- answer{status, err}
	}()
	if got := <-s.waiting; got != 1 {
		t.Errorf("the server waits for a version after %d", got)
	}
	select {
	case a := <-answered:
		t.Fatalf("answered before the change: %+v", a)
	default:
	}
	s.change()
	if a := <-answered; a.err != nil || a.status.Version != 2 {
		t.Errorf("got %+v, %v", a.status, a.err)
	}
	// One who is behind is answered at once.
	if status, err := client.Status(t.Context(), &after); err != nil || status.Version != 2 {
		t.Errorf("got %+v, %v", status, err)
	}
}

func TestLongPollHonoursTheClientsContext(t *testing.T) {
	s := newSource()
	socket, _ := serve(t, s, func() {})
	ctx, cancel := context.WithCancel(t.Context())
	after := uint64(1)
	failed := make(chan error, 1)
	client := dial(t, socket)
	go func() {
		_, err := client.Status(ctx, &after)
		failed <- err
	}()
	<-s.waiting
	cancel()
	// Not "not running": the caller gave up.
	if err := <-failed; !errors.Is(err, context.Canceled) || errors.Is(err, ErrNotRunning) {
		t.Errorf("got %v", err)
	}
}

func TestStop(t *testing.T) {
	stopped := make(chan struct{}, 2)
	socket, _ := serve(t, newSource(), func() { stopped <- struct{}{} })
	client := dial(t, socket)
	for range 2 { // asking again is no error
		if err := client.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-stopped
	}
}

func TestEndOfTheServerEndsALongPoll(t *testing.T) {
	s := newSource()
	socket, end := serve(t, s, func() {})
	after := uint64(1)
	failed := make(chan error, 1)
	client := dial(t, socket)
	go func() {
		_, err := client.Status(context.Background(), &after)
		failed <- err
	}()
	<-s.waiting
	end()
	if err := <-failed; !errors.Is(err, ErrNotRunning) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

func TestNotRunning(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale.sock")
	leaveStale(t, stale)
	plain := filepath.Join(dir, "file")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, socket := range map[string]string{
		"no socket": filepath.Join(dir, "none.sock"), "no directory": filepath.Join(dir, "none", "control.sock"),
		"a socket left by a killed supervisor": stale, "a directory that is a file": filepath.Join(plain, "control.sock"),
	} {
		t.Run(name, func(t *testing.T) {
			client := dial(t, socket)
			if _, err := client.Status(t.Context(), nil); !errors.Is(err, ErrNotRunning) {
				t.Errorf("status: %v", err)
			}
			if err := client.Stop(t.Context()); !errors.Is(err, ErrNotRunning) {
				t.Errorf("stop: %v", err)
			}
		})
	}
}

// Whoever may not ask must not be told that the cluster is not running.
func TestErrorsThatSayNothingOfTheCluster(t *testing.T) {
	for _, err := range []error{fs.ErrPermission, os.ErrDeadlineExceeded} {
		if got := notRunning(t.Context(), err); errors.Is(got, ErrNotRunning) || !errors.Is(got, err) {
			t.Errorf("%v became %v", err, got)
		}
	}
	if got := notRunning(t.Context(), fs.ErrPermission); !strings.Contains(got.Error(), "sudo") {
		t.Errorf("no next step: %v", got)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "control.sock")
	leaveStale(t, socket)
	listener, err := Listen(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(socket); err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestGarbageIsRefused(t *testing.T) {
	s := newSource()
	socket, _ := serve(t, s, func() { t.Error("stopped") })
	client := dial(t, socket)
	for _, x := range []struct{ method, url string }{
		{"GET", "http://orlop/v1/stop"}, {"POST", "http://orlop/v1/status"}, {"GET", "http://orlop/"},
	} {
		resp, err := client.do(t.Context(), x.method, x.url)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode < 400 {
			t.Errorf("%s %s: %s", x.method, x.url, resp.Status)
		}
		if err := resp.Body.Close(); err != nil {
			t.Error(err)
		}
	}
	// A version that is none is answered at once, as no version at all.
	resp, err := client.do(t.Context(), "GET", "http://orlop/v1/status?after=x")
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%v, %v", resp, err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}
	if len(s.waiting) != 0 {
		t.Error("the server waited")
	}
}

// An answer other than a status is an error, not an empty status.
func TestForeignAnswer(t *testing.T) {
	for name, answer := range map[string]string{
		"an error": "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
		"cut off":  "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"id\":",
	} {
		t.Run(name, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "s.sock")
			listener, err := net.Listen("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- answerOnce(listener, answer) }()
			if s, err := dial(t, socket).Status(t.Context(), nil); err == nil || s != nil {
				t.Errorf("got %+v, %v", s, err)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

func answerOnce(listener net.Listener, answer string) error {
	conn, err := listener.Accept()
	if err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	_, rerr := conn.Read(make([]byte, 4096))
	_, werr := conn.Write([]byte(answer))
	return errors.Join(rerr, werr, conn.Close(), listener.Close())
}

// leaveStale leaves a socket that nobody listens on, as a killed process does.
func leaveStale(t *testing.T, socket string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}
