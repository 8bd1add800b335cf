package config

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/orlop-io/orlop/csi/driver"
	"github.com/orlop-io/orlop/csi/host"
)

// Variables that have this test binary be a driver: where it serves, how it finds the API server, where its state is,
// and the label of the step before which it kills itself.
const (
	socketVar     = "ORLOP_CONFIG_TEST_SOCKET"
	kubeconfigVar = "ORLOP_CONFIG_TEST_KUBECONFIG"
	stateVar      = "ORLOP_CONFIG_TEST_STATE"
	killVar       = "ORLOP_CONFIG_TEST_KILL"
)

func serveForTest(socket string) int {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	err := func() (err error) {
		api, err := clientcmd.BuildConfigFromFlags("", os.Getenv(kubeconfigVar))
		if err != nil {
			return err
		}
		h := host.New(func(l host.Label) error {
			if string(l) == os.Getenv(killVar) {
				return unix.Kill(unix.Getpid(), unix.SIGKILL)
			}
			return nil
		})
		d, err := Open(ctx, Config{NodeID: "n1", API: api, StateDir: os.Getenv(stateVar), Host: h})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, d.Close()) }()
		l, err := h.ListenUnix(socket)
		if err != nil {
			return err
		}
		return driver.NewServer(d, driver.NewMetrics(DriverName)).Serve(ctx, l)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// process is a driver in a process of its own.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	log  bytes.Buffer
	conn *grpc.ClientConn
	gone context.Context // ends with the process
}

// spawn starts a driver on the world's state that kills itself before that step; nothing for never.
func (w *world) spawn(kill host.Label) *process {
	w.t.Helper()
	kubeconfig, err := env.Kubeconfig(env.Config)
	must(w.t, err)
	socket := filepath.Join(w.dir, "s")
	p := &process{t: w.t, cmd: exec.Command(os.Args[0])}
	p.cmd.Env = append(os.Environ(), socketVar+"="+socket, kubeconfigVar+"="+kubeconfig, stateVar+"="+w.stateDir(),
		killVar+"="+string(kill))
	p.cmd.Stderr = &p.log
	must(w.t, p.cmd.Start())
	gone, cancel := context.WithCancel(context.Background())
	p.gone = gone
	go func() {
		defer cancel()
		_ = p.cmd.Wait() // ends tells how it went
	}()
	p.conn, err = grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)), grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{
			BaseDelay: 5 * time.Millisecond, Multiplier: 1, MaxDelay: 5 * time.Millisecond,
		}}))
	must(w.t, err)
	return p
}

// call calls the driver, and reports false when it died instead of answering.
func (p *process) call(f func(context.Context, csi.NodeClient) error) bool {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.gone, hurry)
	defer cancel()
	for {
		err := f(ctx, csi.NewNodeClient(p.conn))
		switch code := status.Code(err); {
		case err == nil:
			return true
		case strings.Contains(err.Error(), "has not been read yet") && ctx.Err() == nil:
			continue // an API server that is slow, on a machine that is busy: a kubelet comes again too
		case code != codes.Unavailable && code != codes.Canceled:
			p.t.Fatalf("the driver says %v\n%s", err, &p.log)
		}
		// A connection that broke is a process that ends, or has.
		p.wait()
		return false
	}
}

// wait waits for the process's end, and has one that does not end tell what it is doing.
func (p *process) wait() {
	p.t.Helper()
	select {
	case <-p.gone.Done():
	case <-time.After(hurry):
		must(p.t, p.cmd.Process.Signal(unix.SIGQUIT))
		<-p.gone.Done()
		p.t.Fatalf("the driver did not end by itself\n%s", &p.log)
	}
}

// ends waits for the process's end, and fails unless it came by SIGKILL.
func (p *process) ends() {
	p.t.Helper()
	p.wait()
	if status, ok := p.cmd.ProcessState.Sys().(interface{ Signal() unix.Signal }); !ok || status.Signal() != unix.SIGKILL {
		p.t.Errorf("the driver ended with %v\n%s", p.cmd.ProcessState, &p.log)
	}
	must(p.t, p.conn.Close())
}

func (p *process) kill() {
	p.t.Helper()
	must(p.t, p.cmd.Process.Kill())
	p.ends()
}

// labels records the steps of a call, each once.
type labels struct {
	mu  sync.Mutex
	all []host.Label
}

func (l *labels) fault(label host.Label) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Contains(l.all, label) {
		l.all = append(l.all, label)
	}
	return nil
}

func (l *labels) take() []host.Label {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.all
	l.all = nil
	return all
}

// A driver that is killed before any step of a publish, an edit, an unpublish or its own start leaves old files or new
// ones, all or none, and the next driver finishes the work.
func TestKilledBeforeEveryStep(t *testing.T) {
	w := newWorld(t)
	w.grant(w.ns, account1)
	w.set("Secret", w.ns, "s", "1")
	p := w.pod("p", account1, map[string]string{"kind": "Secret", "name": "s", "uid": "1000",
		"items": "[{key: k, path: a/k}, {key: k, path: b}]"})
	p.group = "2000"
	var seen labels
	w.fault = seen.fault
	must(t, p.publish())
	publishing := seen.take()
	w.set("Secret", w.ns, "s", "2")
	p.shows("b", "2")
	p.shows("a/k", "2")
	editing := seen.take()
	must(t, p.unpublish())
	unpublishing := seen.take()
	w.stop()
	w.fault = nil
	t.Logf("steps: publish %q, edit %q, unpublish %q", publishing, editing, unpublishing)
	if len(publishing) < 10 || len(editing) < 8 || len(unpublishing) < 3 {
		t.Error("these are fewer steps than there must be")
	}
	publish := func(ctx context.Context, c csi.NodeClient) error {
		_, err := c.NodePublishVolume(ctx, p.request(p.token(3600)))
		return err
	}
	unpublish := func(ctx context.Context, c csi.NodeClient) error {
		_, err := c.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: p.id, TargetPath: p.target})
		return err
	}
	finish := func(d *process) {
		t.Helper()
		if !d.call(publish) {
			t.Fatal("the next driver died")
		}
		p.shows("b", "2")
		p.shows("a/k", "2")
		if !d.call(unpublish) {
			t.Fatal("the next driver died")
		}
		p.gone()
		d.kill()
	}
	starting := []host.Label{"state.directory", "state.private", "state.tmpfs", "state.attach"}
	for _, l := range starting {
		w.spawn(l).ends()
		finish(w.spawn(""))
		must(t, unix.Unmount(w.stateDir(), 0))
	}
	for _, l := range publishing {
		d := w.spawn(l)
		if d.call(publish) {
			t.Errorf("publishing does not reach %q", l)
			d.kill()
		} else {
			d.ends()
		}
		// A volume appears with all of its files.
		if _, err := os.Lstat(filepath.Join(p.target, "..data")); err == nil {
			p.is("a/k", "2")
			p.is("b", "2")
		}
		finish(w.spawn(""))
	}
	for i, l := range editing {
		before, after := fmt.Sprintf("edit %d", i), "2"
		w.set("Secret", w.ns, "s", before)
		d := w.spawn("")
		if !d.call(publish) {
			t.Fatal("the driver died")
		}
		d.kill()
		w.set("Secret", w.ns, "s", after)
		w.spawn(l).ends() // it takes the volume up, sees the edit, and is killed on its way
		for _, file := range []string{"a/k", "b"} {
			got, err := os.ReadFile(filepath.Join(p.target, file))
			if err != nil || string(got) != before && string(got) != after {
				t.Errorf("killed before %q, %s is %q, %v", l, file, got, err)
			}
		}
		d = w.spawn("")
		p.shows("a/k", after)
		p.shows("b", after)
		finish(d)
	}
	for _, l := range unpublishing {
		d := w.spawn("")
		if !d.call(publish) {
			t.Fatal("the driver died")
		}
		d.kill()
		d = w.spawn(l)
		if d.call(unpublish) {
			t.Errorf("unpublishing does not reach %q", l)
		}
		d.ends()
		d = w.spawn("")
		if !d.call(unpublish) {
			t.Fatal("the next driver died")
		}
		p.gone()
		d.kill()
	}
	// Records of what is not mounted, and garbage, are being removed.
	d := w.spawn("")
	if !d.call(publish) {
		t.Fatal("the driver died")
	}
	d.kill()
	must(t, os.WriteFile(filepath.Join(w.stateDir(), "garbage"), []byte("x"), 0o600))
	w.spawn("record.garbage").ends()
	must(t, unix.Unmount(p.target, 0))
	w.spawn("record.remove").ends()
	finish(w.spawn(""))
}
