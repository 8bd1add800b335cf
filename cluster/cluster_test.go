package cluster

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/orlop-io/orlop/cluster/preflight"
	"github.com/orlop-io/orlop/cluster/supervisor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newCluster is a cluster as Prepare would make it in a namespace, without touching the host's network or cgroups.
func newCluster(t *testing.T, change ...func(*Cluster)) *Cluster {
	t.Helper()
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "pause"), []byte("program"), 0o700); err != nil {
		t.Fatal(err)
	}
	c := &Cluster{
		Layout: Layout{DataDir: t.TempDir(), BinDir: bin, Node: "worker-1"},
		state:  &State{Version: stateVersion, ID: "0a1b2c3d", Node: "worker-1", Netns: true},
		facts:  preflight.Facts{KubeProxyMode: "nftables"},
		net: Network{Netns: "/run/netns/orlop-0a1b2c3d", NodeIP: netip.MustParseAddr("198.18.0.2"),
			HostIP: netip.MustParseAddr("198.18.0.1"), Pods: nsPods, NodePods: netip.MustParsePrefix("198.19.0.0/24"),
			Services: nsServices},
		log:   slog.New(slog.DiscardHandler),
		phase: phaseState{phase: PhaseStarting},
	}
	for _, f := range change {
		f(c)
	}
	if err := c.makeDirs(); err != nil {
		t.Fatal(err)
	}
	var err error
	if c.creds, err = ensureCredentials(c.Layout, c.net); err != nil {
		t.Fatal(err)
	}
	if c.probe, err = newProber(func(fn func() error) error { return fn() }, c.creds); err != nil {
		t.Fatal(err)
	}
	if err := c.connect(); err != nil {
		t.Fatal(err)
	}
	return c
}

func plain(c *Cluster) { c.state.Plain = true }

func TestSpecsAreAcceptable(t *testing.T) {
	for name, change := range map[string]func(*Cluster){"own storage": func(*Cluster) {}, "plain": plain} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, change)
			specs := c.specs()
			s, err := supervisor.New(specs, c.logDir())
			if err != nil {
				t.Fatal(err)
			}
			storage := false
			for _, spec := range specs {
				storage = storage || spec.Name == compStorageNode || spec.Name == compStorageControllers
				if spec.Netns != c.net.Netns {
					t.Errorf("%s is started in the network namespace %q", spec.Name, spec.Netns)
				}
				if spec.Ready == nil {
					t.Errorf("nobody asks whether %s is ready", spec.Name)
				}
			}
			if storage == c.state.Plain {
				t.Errorf("with plain=%t the storage's processes run: %t", c.state.Plain, storage)
			}
			// Never run: it is not to leave open files behind.
			ended, end := context.WithCancel(t.Context())
			end()
			c.supervisor = s
			c.setPhase(PhaseFailed, "etcd", "etcd exited with status 1")
			if got := c.Status(); got.Phase != PhaseFailed || got.FailedComponent != "etcd" || len(got.Components) != len(specs) {
				t.Errorf("status is %+v", got)
			}
			c.Wait(ended, 1<<60)
		})
	}
}

func TestDirectoriesWithSecretsAreRootsAlone(t *testing.T) {
	c := newCluster(t)
	for _, dir := range []string{c.pkiDir(), c.etcdDir(), c.poolDir(), c.logDir()} {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", dir, info.Mode(), err)
		}
	}
	if info, err := os.Stat(c.Kubeconfig()); err != nil || info.Mode() != 0o600 {
		t.Errorf("kubeconfig: %v, %v", info.Mode(), err)
	}
}

func TestPhases(t *testing.T) {
	p := phaseState{phase: PhaseStarting}
	p.set(PhaseFailed, "dns", "x")
	p.set(PhaseReady, "", "")
	if p.phase != PhaseReady || p.reason != "" || p.component != "" {
		t.Errorf("after it got ready: %+v", &p)
	}
	p.set(PhaseStopping, "", "")
	p.set(PhaseReady, "", "")
	if p.phase != PhaseStopping {
		t.Errorf("a cluster that is being stopped became %s", p.phase)
	}
	p.attempt(os.ErrDeadlineExceeded)
	if steps, pending := p.progress(); steps != 0 || pending != os.ErrDeadlineExceeded.Error() {
		t.Errorf("after a failure: %d, %q", steps, pending)
	}
	p.attempt(nil)
	if steps, pending := p.progress(); steps != 1 || pending != "" {
		t.Errorf("after the success: %d, %q", steps, pending)
	}
}
