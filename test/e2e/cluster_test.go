// Package e2e tests the bundled cluster as its user meets it: by its command line, with real pods. Each test has a cluster of its
// own in a network namespace of its own, and fails if it leaves a mount, a loop device, a namespace or a process behind.
//
// The tests run the programs in bin/ (make build) and the images in bin/images (made by test/image when missing).
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/orlop-io/orlop/cluster"
	"github.com/orlop-io/orlop/test/leak"
)

// patience bounds a wait for something that takes seconds at the most on a machine that is not busy.
const patience = 2 * time.Minute

// testCluster is a cluster of one test.
type testCluster struct {
	t   *testing.T
	dir string   // its data directory
	in  []string // the command by which orlop is run, for instance in a namespace; usually none
	ns  string   // the Kubernetes namespace kubectl works in; usually the default one
}

// needRoot skips without root, and says so.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: the cluster needs root, for mounts, cgroups and network namespaces")
	}
}

// newCluster prepares a cluster that is not started yet, and its end.
func newCluster(t *testing.T) *testCluster {
	t.Helper()
	needRoot(t)
	leak.Check(t)
	c := &testCluster{t: t, dir: filepath.Join(t.TempDir(), "o")}
	t.Cleanup(func() {
		if t.Failed() {
			c.dump()
		}
		state, stateErr := cluster.ReadState(c.dir)
		if out, err := c.command(context.Background(), "down", "--purge").CombinedOutput(); err != nil {
			t.Errorf("orlop down --purge: %v\n%s", err, out)
		}
		if stateErr == nil {
			if _, err := os.Stat("/run/orlop/" + state.ID); !os.IsNotExist(err) {
				t.Errorf("/run/orlop/%s is left after down --purge: %v", state.ID, err)
			}
		}
		if _, err := os.Stat(c.dir); !os.IsNotExist(err) {
			t.Errorf("%s is left after down --purge: %v", c.dir, err)
		}
	})
	return c
}

// start makes a cluster with --netns and the flags, and waits until it is ready.
func start(t *testing.T, flags ...string) *testCluster {
	t.Helper()
	c := newCluster(t)
	c.up(flags...)
	return c
}

func (c *testCluster) up(flags ...string) string {
	c.t.Helper()
	return c.orlop(append([]string{"up", "--netns"}, flags...)...)
}

// root is the repository.
var root = sync.OnceValue(func() string {
	dir, err := filepath.Abs("../..")
	if err != nil {
		panic(err)
	}
	return dir
})

func (c *testCluster) command(ctx context.Context, args ...string) *exec.Cmd {
	line := append(append([]string{}, c.in...), filepath.Join(root(), "bin", "orlop"))
	cmd := exec.CommandContext(ctx, line[0], append(line[1:], args...)...)
	cmd.Env = append(os.Environ(), "ORLOP_DATA_DIR="+c.dir)
	return cmd
}

// try runs orlop and returns what it printed.
func (c *testCluster) try(args ...string) (string, error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	out, err := c.command(ctx, args...).CombinedOutput()
	return string(out), err
}

// orlop runs orlop, which must succeed.
func (c *testCluster) orlop(args ...string) string {
	c.t.Helper()
	out, err := c.try(args...)
	if err != nil {
		c.t.Fatalf("orlop %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// refused runs orlop, which must fail and say each of the words.
func (c *testCluster) refused(words []string, args ...string) string {
	c.t.Helper()
	out, err := c.try(args...)
	if err == nil {
		c.t.Fatalf("orlop %s succeeded and should not:\n%s", strings.Join(args, " "), out)
	}
	for _, w := range words {
		if !strings.Contains(out, w) {
			c.t.Errorf("orlop %s does not say %q:\n%s", strings.Join(args, " "), w, out)
		}
	}
	return out
}

// inNamespace is kubectl's command line.
func (c *testCluster) inNamespace(args ...string) []string {
	line := []string{"kubectl"}
	if c.ns != "" {
		line = append(line, "--namespace="+c.ns)
	}
	return append(line, args...)
}

func (c *testCluster) kubectl(args ...string) string {
	c.t.Helper()
	return c.orlop(c.inNamespace(args...)...)
}

// apply applies manifests given as text.
func (c *testCluster) apply(manifests string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	cmd := c.command(ctx, c.inNamespace("apply", "-f", "-")...)
	cmd.Stdin = strings.NewReader(manifests)
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("kubectl apply: %v\n%s", err, out)
	}
}

// get reads one field of an object by JSONPath.
func (c *testCluster) get(object, path string) string {
	c.t.Helper()
	return c.kubectl("get", object, "-o", "jsonpath={"+path+"}")
}

func (c *testCluster) waitReady(pod string) {
	c.t.Helper()
	c.kubectl("wait", "--for=condition=Ready", "pod/"+pod, "--timeout="+patience.String())
}

// status reads `orlop status -o json`; its exit status does not matter here.
func (c *testCluster) status() cluster.Status {
	c.t.Helper()
	out, err := c.command(c.t.Context(), "status", "-o", "json").Output()
	var s cluster.Status
	if jerr := json.Unmarshal(out, &s); jerr != nil {
		c.t.Fatalf("orlop status: %v, %v\n%s", err, jerr, out)
	}
	return s
}

// eventually polls until check returns nil.
func (c *testCluster) eventually(what string, check func() error) {
	c.t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(c.t.Context(), 100*time.Millisecond, patience, true, func(context.Context) (bool, error) {
		last = check()
		return last == nil, nil
	})
	if err != nil {
		c.t.Fatalf("waiting until %s: %v: %v", what, err, last)
	}
}

// eventuallySays polls kubectl until it succeeds and says each of the words.
func (c *testCluster) eventuallySays(words []string, args ...string) string {
	c.t.Helper()
	var out string
	c.eventually(fmt.Sprintf("kubectl %s says %q", strings.Join(args, " "), words), func() error {
		var err error
		if out, err = c.try(c.inNamespace(args...)...); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		for _, w := range words {
			if !strings.Contains(out, w) {
				return fmt.Errorf("no %q in:\n%s", w, out)
			}
		}
		return nil
	})
	return out
}

// dump prints what helps to see why a test failed.
func (c *testCluster) dump() {
	for _, args := range [][]string{
		{"status"}, {"kubectl", "get", "pods,pvc,pv", "-A", "-o", "wide"}, {"kubectl", "get", "events", "-A"},
		{"logs", "supervisor", "-n", "20"}, {"logs", "storage-node", "-n", "20"},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		out, _ := c.command(ctx, args...).CombinedOutput()
		cancel()
		c.t.Logf("orlop %s:\n%s", strings.Join(args, " "), bytes.TrimSpace(out[max(0, len(out)-4000):]))
	}
}

// importImage brings one of test/image's images to the cluster, building it first when it is missing.
func (c *testCluster) importImage(kind string) {
	c.t.Helper()
	file := filepath.Join(root(), "bin", "images", kind+".tar")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Minute)
	defer cancel()
	build := exec.CommandContext(ctx, "go", "run", "./test/image", "-kind", kind, "-o", file)
	build.Dir = root()
	if out, err := build.CombinedOutput(); err != nil {
		c.t.Fatalf("building the image %s: %v\n%s", kind, err, out)
	}
	c.orlop("images", "import", file)
}

// busyboxImage is what importImage("busybox") brings.
const busyboxImage = "orlop.io/test/busybox:1"

// volumePod is a claim and a pod that mounts it at /data, both of one name.
func volumePod(name, size, extra string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %[1]s}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: %[2]s}}
  %[3]s
---
apiVersion: v1
kind: Pod
metadata: {name: %[1]s}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: %[4]s
    command: [sh, -c, "trap exit TERM; while :; do sleep 1; done"]
    volumeMounts: [{name: data, mountPath: /data}]
  volumes:
  - name: data
    persistentVolumeClaim: {claimName: %[1]s}
`, name, size, extra, busyboxImage)
}
