package volumes

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/kubernetes/pkg/volume"

	"github.com/orlop-io/orlop/configsync/writer"
	"github.com/orlop-io/orlop/test/leak"
)

// kubeletEnv is what a child process that plays the kubelet is told; it is a test binary that runs TestPlayKubelet.
const kubeletEnv = "ORLOP_VOLUMES_TEST_KUBELET"

// role says what a child plays.
type role struct {
	Root, Kubeconfig string
	Pod              *v1.Pod
	Volume           v1.Volume
}

// TestPlayKubelet is a kubelet as far as configuration volumes go: it sets the volume up, removes what is superseded,
// and says "ready". Then it reads the step at which it is to be killed, says "armed", and follows the object until it is.
// If the change takes fewer steps it says "survived" and ends with its input.
func TestPlayKubelet(t *testing.T) {
	raw := os.Getenv(kubeletEnv)
	if raw == "" {
		t.Skip("skipped: another test starts it")
	}
	var r role
	if err := json.Unmarshal([]byte(raw), &r); err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", r.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	h := newHostOn(t, r.Root, client, r.Pod, true)
	h.real()
	var mu sync.Mutex
	kill, steps := 0, 0
	h.manager.writer.Before = func(writer.Step) error {
		mu.Lock()
		defer mu.Unlock()
		if kill == 0 {
			return nil
		}
		if steps++; steps == kill {
			if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
				return err
			}
			select {}
		}
		return nil
	}
	dir, err := h.setUp(r.Volume, volume.MounterArgs{})
	if err != nil {
		t.Fatal(err)
	}
	h.ages()
	fmt.Println("ready")
	in := bufio.NewReader(os.Stdin)
	order := struct {
		Kill int
		Next string
	}{}
	line, err := in.ReadBytes('\n')
	if err != nil {
		return
	}
	if err := json.Unmarshal(line, &order); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	kill = order.Kill
	mu.Unlock()
	fmt.Println("armed")
	h.eventually("the change arrives", filepath.Join(dir, "a"), part(order.Next))
	// The volume is locked while it is written.
	h.manager.mu.Lock()
	for _, mt := range h.manager.mounts {
		mt.isGood()
	}
	h.manager.mu.Unlock()
	fmt.Println("survived")
	if _, err := io.Copy(io.Discard, in); err != nil {
		t.Error(err)
	}
	h.manager.stop()
}

// kubelet is a child that plays one.
type kubelet struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
	err strings.Builder
}

func startKubelet(t *testing.T, r role) *kubelet {
	t.Helper()
	raw, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	k := &kubelet{cmd: exec.Command("/proc/self/exe", "-test.run=^TestPlayKubelet$")}
	k.cmd.Env = append(os.Environ(), kubeletEnv+"="+string(raw))
	k.cmd.Stderr = &k.err
	out, err := k.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	k.out = bufio.NewScanner(out)
	if k.in, err = k.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := k.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return k
}

// says waits until the child says the word, and reports false where it ends before.
func (k *kubelet) says(word string) bool {
	for k.out.Scan() {
		if k.out.Text() == word {
			return true
		}
	}
	return false
}

// TestKilledAtEveryStep kills the kubelet before every step of a change, on disk (synced) and in memory. Whoever reads
// meanwhile sees the earlier generation or the new one, whole; the next kubelet brings the new one, and removes what
// was left after its grace.
func TestKilledAtEveryStep(t *testing.T) {
	needRoot(t)
	w := newWorld(t)
	kubeconfig, err := w.env.Kubeconfig(w.node)
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]v1.Volume{"on disk": diskVolume, "in memory": memoryVolume} {
		t.Run(name, func(t *testing.T) {
			leak.Check(t)
			h := newHostOn(t, t.TempDir(), w.env.Client, w.pod, true)
			h.real()
			t.Cleanup(h.manager.stop)
			v := *v.DeepCopy()
			w.set(v, "0")
			dir := h.mounted(v, volume.MounterArgs{})
			h.restart() // from here on it is the children that write
			r := role{Root: filepath.Dir(h.host.GetPodsDir()), Kubeconfig: kubeconfig, Pod: w.pod, Volume: v}

			// No reader is in the middle of a generation while a child lets its grace pass.
			var pause sync.Mutex
			reads, stop := 0, make(chan struct{})
			var readers sync.WaitGroup
			readers.Go(func() {
				for {
					pause.Lock()
					if _, err := whole(dir); err != nil {
						t.Errorf("a reader: %v", err)
						pause.Unlock()
						return
					}
					reads++
					pause.Unlock()
					select {
					case <-stop:
						return
					case <-time.After(time.Millisecond):
					}
				}
			})
			steps := w.killAtEach(t, r, dir, &pause)
			close(stop)
			readers.Wait()
			t.Logf("killed at each of %d steps; %d reads meanwhile", steps, reads)
			if steps < 15 {
				t.Errorf("a change of this volume takes more than %d steps", steps)
			}
		})
	}
}

// killAtEach changes the object once for each step, and returns how many a change has.
func (w *world) killAtEach(t *testing.T, r role, dir string, pause *sync.Mutex) int {
	t.Helper()
	for n := 1; ; n++ {
		old, next := fmt.Sprint(n-1), fmt.Sprint(n)
		pause.Lock()
		k := startKubelet(t, r)
		ready := k.says("ready")
		pause.Unlock()
		if !ready {
			t.Fatalf("the kubelet after a kill at step %d does not come up: %v\n%s", n-1, k.cmd.Wait(), &k.err)
		}
		// The kubelet before was killed in the change to the generation that is the old one now.
		if got, err := whole(dir); err != nil || got != old {
			t.Fatalf("after a kill at step %d and a restart the volume shows %q, %v; want %s", n-1, got, err, old)
		}
		onlyNewest(t, dir, n-1)
		if _, err := fmt.Fprintf(k.in, `{"Kill":%d,"Next":%q}`+"\n", n, next); err != nil {
			t.Fatal(err)
		}
		if !k.says("armed") {
			t.Fatalf("the kubelet was not armed: %v\n%s", k.cmd.Wait(), &k.err)
		}
		w.set(r.Volume, next)
		survived := k.says("survived")
		err := errors.Join(k.in.Close(), k.cmd.Wait())
		if got, wholeErr := whole(dir); wholeErr != nil || (got != old && got != next) || (survived && got != next) {
			t.Fatalf("killed at step %d: the volume shows %q, %v", n, got, wholeErr)
		}
		if survived {
			if err != nil {
				t.Errorf("%v\n%s", err, &k.err)
			}
			return n - 1
		}
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("step %d: the kubelet ended with %v, want a kill\n%s", n, err, &k.err)
		}
	}
}

// onlyNewest fails if anything is in the volume's directory but one generation and what shows it.
func onlyNewest(t *testing.T, dir string, n int) {
	t.Helper()
	data, err := readData(dir)
	if err != nil {
		t.Fatal(err)
	}
	wanted := map[string]bool{"..data": true, filepath.Base(data): true, "a": true, "d": true, "z": true}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !wanted[e.Name()] {
			t.Errorf("after a kill at step %d, a restart and the grace, %s is left", n, e.Name())
		}
	}
	files := 0
	if err := filepath.WalkDir(data, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			files++
		}
		return err
	}); err != nil || files != len(parts)+1 {
		t.Errorf("after a kill at step %d and a restart the generation has %d files, %v", n, files, err)
	}
}
