package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/orlop-io/orlop/csi/host"
	"github.com/orlop-io/orlop/test/leak"
)

// mainVar has this test binary be the program itself.
const mainVar = "ORLOP_STORAGE_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(mainVar) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// process is a running "orlop-storage node".
type process struct {
	t    *testing.T
	dir  string
	cmd  *exec.Cmd
	log  *bytes.Buffer
	conn *grpc.ClientConn
	// gone ends when the process has, with err saying how.
	gone context.Context
	err  error
}

// newDir makes a directory whose path is short enough for sockets, and checks that nothing is left of what happens in it.
func newDir(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts volumes")
	}
	dir, err := os.MkdirTemp("/tmp", "orlop-node-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	leak.Check(t, leak.Under(dir))
	return dir
}

// dialOptions has calls wait for a socket that is about to be served.
var dialOptions = []grpc.DialOption{
	grpc.WithTransportCredentials(insecure.NewCredentials()),
	grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
	grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{
		BaseDelay: 10 * time.Millisecond, Multiplier: 1, MaxDelay: 10 * time.Millisecond,
	}}),
}

func start(t *testing.T, dir string, args ...string) *process {
	t.Helper()
	return run(t, dir, "local.csi.orlop.io", append([]string{
		"--node-name=n1", "--cluster-id=c1", "--pool=" + dir + "/pool", "--kubelet-dir=" + dir,
	}, args...)...)
}

// run starts the program with no flags but these, and waits until that driver of it answers.
func run(t *testing.T, dir, driver string, args ...string) *process {
	t.Helper()
	p := &process{t: t, dir: dir, log: &bytes.Buffer{}}
	p.cmd = exec.Command(os.Args[0], append([]string{"node"}, args...)...)
	p.cmd.Env = append(os.Environ(), mainVar+"=1")
	p.cmd.Stderr = p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(context.Background())
	p.gone = gone
	go func() {
		defer cancel()
		p.err = p.cmd.Wait()
	}()
	conn, err := grpc.NewClient("unix:"+dir+"/plugins/"+driver+"/csi.sock", dialOptions...)
	if err != nil {
		t.Fatal(err)
	}
	p.conn = conn
	t.Cleanup(func() { p.end(unix.SIGTERM) })
	if _, err := csi.NewIdentityClient(conn).Probe(gone, &csi.ProbeRequest{}); err != nil {
		t.Fatalf("the driver does not answer: %v", err)
	}
	return p
}

// end ends the process, once, by that signal, and checks that it went as it should.
func (p *process) end(sig unix.Signal) {
	if p.cmd == nil {
		return
	}
	p.t.Helper()
	err := p.cmd.Process.Signal(sig)
	<-p.gone.Done()
	if err = errors.Join(err, p.conn.Close()); sig != unix.SIGKILL {
		err = errors.Join(err, p.err)
	}
	if err != nil || p.t.Failed() {
		p.t.Errorf("the process ended with %v\n%s", err, p.log)
	}
	p.cmd = nil
}

var single = &csi.VolumeCapability{
	AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
	AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
}

func (p *process) create(ctx context.Context, name, backend string) (string, error) {
	resp, err := csi.NewControllerClient(p.conn).CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name: name, Parameters: map[string]string{"backend": backend},
		CapacityRange:      &csi.CapacityRange{RequiredBytes: 32 << 20},
		VolumeCapabilities: []*csi.VolumeCapability{single},
	})
	return resp.GetVolume().GetVolumeId(), err
}

func (p *process) stage(ctx context.Context, id string) error {
	_, err := csi.NewNodeClient(p.conn).NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
		VolumeId: id, StagingTargetPath: filepath.Join(p.dir, "staging", id), VolumeCapability: single,
	})
	return err
}

func (p *process) target(id string) string { return filepath.Join(p.dir, "pods", id) }

func (p *process) publish(ctx context.Context, id string) error {
	_, err := csi.NewNodeClient(p.conn).NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId: id, StagingTargetPath: filepath.Join(p.dir, "staging", id), TargetPath: p.target(id),
		VolumeCapability: single,
	})
	return err
}

// remove unpublishes, unstages and deletes the volume, whatever was done to it.
func (p *process) remove(ctx context.Context, id string) error {
	_, err := csi.NewNodeClient(p.conn).NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{
		VolumeId: id, TargetPath: p.target(id),
	})
	if err == nil {
		_, err = csi.NewNodeClient(p.conn).NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{
			VolumeId: id, StagingTargetPath: filepath.Join(p.dir, "staging", id),
		})
	}
	if err == nil {
		_, err = csi.NewControllerClient(p.conn).DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id})
	}
	return err
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// Killed, the driver leaves mounts and data alone; started again, on the sockets that the killed one left, it goes on.
func TestNodeIsKilled(t *testing.T) {
	for _, backend := range []string{"dir", "loop"} {
		t.Run(backend, func(t *testing.T) {
			dir := newDir(t)
			p := start(t, dir)
			id, err := p.create(t.Context(), "a", backend)
			must(t, err)
			must(t, p.stage(t.Context(), id))
			must(t, p.publish(t.Context(), id))
			file := filepath.Join(p.target(id), "file")
			must(t, os.WriteFile(file, []byte("before"), 0o600))
			p.end(unix.SIGKILL)
			if data, err := os.ReadFile(file); err != nil || string(data) != "before" {
				t.Errorf("without the driver the volume shows %q, %v", data, err)
			}
			must(t, os.WriteFile(file, []byte("between"), 0o600))
			p = start(t, dir)
			must(t, p.stage(t.Context(), id))
			must(t, p.publish(t.Context(), id))
			if data, err := os.ReadFile(file); err != nil || string(data) != "between" {
				t.Errorf("with the driver back the volume shows %q, %v", data, err)
			}
			must(t, p.remove(t.Context(), id))
		})
	}
}

// Killed again and again amid many operations, the driver loses and leaks nothing.
func TestNodeIsKilledAtWork(t *testing.T) {
	dir := newDir(t)
	ids := sync.Map{}
	rounds := 4
	if os.Getenv("SOAK") != "" {
		rounds = 30
	}
	for round := range rounds {
		p := start(t, dir)
		var work sync.WaitGroup
		acts := make(chan struct{})
		for worker := range 6 {
			work.Go(func() {
				for n := 0; ; n++ {
					backend := []string{"dir", "loop"}[n%2]
					id, err := p.create(p.gone, fmt.Sprintf("v%d-%d-%d", round, worker, n), backend)
					if err == nil {
						ids.Store(id, true)
						err = errors.Join(p.stage(p.gone, id), p.publish(p.gone, id))
					}
					if err == nil && n%3 > 0 {
						if err = p.remove(p.gone, id); err == nil {
							ids.Delete(id)
						}
					}
					if err != nil {
						return // the driver is gone
					}
					select {
					case acts <- struct{}{}:
					case <-p.gone.Done():
						return
					}
				}
			})
		}
		for range 10 + 7*round%20 {
			select {
			case <-acts:
			case <-p.gone.Done():
			}
		}
		p.end(unix.SIGKILL)
		work.Wait()
		p = start(t, dir)
		p.removeAll(&ids)
		p.end(unix.SIGTERM)
	}
}

// removeAll removes the volumes that the driver lists and those in ids, whose removal may have been under way, and checks
// that nothing is left.
func (p *process) removeAll(ids *sync.Map) {
	t := p.t
	t.Helper()
	resp, err := csi.NewControllerClient(p.conn).ListVolumes(t.Context(), &csi.ListVolumesRequest{})
	must(t, err)
	for _, e := range resp.GetEntries() {
		ids.Store(e.GetVolume().GetVolumeId(), true)
	}
	ids.Range(func(id, _ any) bool {
		must(t, p.remove(t.Context(), id.(string)))
		ids.Delete(id)
		return true
	})
	left, err := os.ReadDir(filepath.Join(p.dir, "pool", "volumes"))
	if err != nil || len(left) > 0 {
		t.Errorf("left in the pool: %v, %v", left, err)
	}
	for _, m := range mountsUnder(t, p.dir) {
		t.Errorf("left mounted: %s", m)
	}
}

func mountsUnder(t *testing.T, dir string) (targets []string) {
	t.Helper()
	mounts, err := host.New(nil).Mounts()
	must(t, err)
	for _, m := range mounts {
		if strings.HasPrefix(m.Target, dir+"/") {
			targets = append(targets, m.Target)
		}
	}
	return targets
}

// The kubelet is told where the driver is; /readyz says what is missing until it has taken it.
func TestNodeRegistersAndReports(t *testing.T) {
	dir := newDir(t)
	httpSocket := dir + "/http.sock"
	p := start(t, dir, "--http-socket="+httpSocket)
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", httpSocket)
		},
	}}
	get := func(path string) (int, string) {
		t.Helper()
		var resp *http.Response
		var err error
		for tick := time.NewTicker(time.Millisecond); ; <-tick.C {
			// The socket is made, and then listened on, a moment after the CSI socket answers.
			resp, err = client.Get("http://node" + path)
			if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ECONNREFUSED) || p.gone.Err() != nil {
				tick.Stop()
				break
			}
		}
		must(t, err)
		body, err := io.ReadAll(resp.Body)
		must(t, err, resp.Body.Close())
		return resp.StatusCode, string(body)
	}
	if code, body := get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "kubelet") {
		t.Errorf("before the kubelet came: %d %s", code, body)
	}
	conn, err := grpc.NewClient("unix:"+dir+"/plugins_registry/local.csi.orlop.io-reg.sock", dialOptions...)
	must(t, err)
	kubelet := registerapi.NewRegistrationClient(conn)
	info, err := kubelet.GetInfo(t.Context(), &registerapi.InfoRequest{})
	must(t, err)
	if info.GetEndpoint() != dir+"/plugins/local.csi.orlop.io/csi.sock" {
		t.Errorf("the kubelet is sent to %s", info.GetEndpoint())
	}
	_, err = kubelet.NotifyRegistrationStatus(t.Context(), &registerapi.RegistrationStatus{PluginRegistered: true})
	must(t, err, conn.Close())
	if code, body := get("/readyz"); code != http.StatusOK {
		t.Errorf("after the kubelet came: %d %s", code, body)
	}
	if _, body := get("/metrics"); !strings.Contains(body, "csi_plugin_operations_seconds") {
		t.Errorf("metrics: %s", body)
	}
	if info, err := os.Stat(httpSocket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the HTTP socket's mode: %v, %v", info.Mode(), err)
	}
}

// What is wrong is said at once and in full, before anything is made.
func TestNodeRefuses(t *testing.T) {
	dir := newDir(t)
	all := []string{"--node-name=n", "--cluster-id=c", "--pool=" + dir + "/pool", "--kubelet-dir=" + dir}
	long := "/tmp/" + strings.Repeat("x", 120)
	for name, c := range map[string]struct {
		args []string
		says []string
	}{
		"nothing given":              {nil, []string{"--node-name is required", "--pool is required", "--cluster-id is required"}},
		"a long socket":              {append(all, "--socket="+long), []string{"--socket", "107"}},
		"long directories":           {append(all, "--kubelet-dir="+long), []string{"--socket", "--registration-dir", "107"}},
		"a long HTTP path":           {append(all, "--http-socket="+long), []string{"--http-socket", "107"}},
		"a relative pool":            {append(all, "--pool=here"), []string{`"here"`, "absolute"}},
		"a pool in a file":           {append(all, "--pool=/proc/version/x"), []string{"/proc/version"}},
		"an argument":                {append(all, "extra"), []string{"extra"}},
		"two ways to the API server": {append(all, "--in-cluster", "--kubeconfig=k"), []string{"--in-cluster and --kubeconfig"}},
		"no pod":                     {append(all, "--in-cluster"), []string{"not in a pod"}},
		"no API server":              {append(all, "--config-volumes"), []string{"--config-volumes needs --kubeconfig or, in a pod, --in-cluster"}},
		"nothing to serve": {[]string{"--node-name=n", "--local-volumes=false"},
			[]string{"--local-volumes=false leaves configuration volumes alone", "--in-cluster"}},
		"nothing to serve in a pod": {[]string{"--node-name=n", "--local-volumes=false", "--in-cluster", "--config-volumes=false"},
			[]string{"--local-volumes=false leaves configuration volumes alone", "--config-volumes"}},
		"settings of what is off": {append(all, "--local-volumes=false", "--in-cluster", "--socket="+dir+"/s"),
			[]string{"--pool is for local volumes", "--cluster-id is for local volumes", "--socket is for local volumes"}},
		"no address": {append(all, "--http-address=nonsense"), []string{"--http-address", "nonsense"}},
	} {
		cmd := exec.Command(os.Args[0], append([]string{"node"}, c.args...)...)
		cmd.Env = append(os.Environ(), mainVar+"=1", "KUBERNETES_SERVICE_HOST=")
		out, err := cmd.CombinedOutput()
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 1 {
			t.Errorf("%s: %v", name, err)
		}
		for _, s := range c.says {
			if !strings.Contains(string(out), s) {
				t.Errorf("%s: the message does not say %s: %s", name, s, out)
			}
		}
	}
	if _, err := os.Stat(dir + "/pool"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a pool was made: %v", err)
	}
	start(t, dir)
	cmd := exec.Command(os.Args[0], append([]string{"node"}, all...)...)
	cmd.Args[len(cmd.Args)-3] = "--cluster-id=c1"
	cmd.Env = append(os.Environ(), mainVar+"=1")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "another orlop-storage") {
		t.Errorf("a second driver on one pool: %v: %s", err, out)
	}
}

// The program runs on other people's clusters, and links nothing of a control plane.
func TestLinksNoControlPlane(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	must(t, err)
	for dep := range strings.Lines(string(out)) {
		for _, bad := range []string{"k8s.io/kubernetes", "go.etcd.io/etcd", "k8s.io/apiserver", "github.com/containerd"} {
			if strings.HasPrefix(dep, bad) {
				t.Errorf("links %s", strings.TrimSpace(dep))
			}
		}
	}
}
