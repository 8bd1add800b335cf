package controllers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/provisioner"
	"github.com/orlop-io/orlop/provisioner/csifake"
	"github.com/orlop-io/orlop/test/leak"
)

const storageBinary = "../../bin/orlop-storage"

// realDriver is the program that serves CSI on a node, and with a kubeconfig provisions too.
type realDriver struct {
	t          testing.TB
	name       string // of the node
	pool, sock string
	kubeconfig string
	process    *exec.Cmd
	ended      chan error
}

func (d *realDriver) start() {
	d.t.Helper()
	if _, err := os.Stat(storageBinary); err != nil {
		d.t.Fatalf("%v: run `make build` first", err)
	}
	d.process = exec.Command(storageBinary, "node", "--node-name", d.name, "--pool", d.pool, "--cluster-id", "test",
		"--socket", d.sock, "--registration-dir", "", "--kubeconfig", d.kubeconfig,
		"--config-volumes=false")
	d.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := os.Create(filepath.Join(filepath.Dir(d.sock), "driver.log"))
	if err != nil {
		d.t.Fatal(err)
	}
	d.process.Stdout, d.process.Stderr = log, log
	started := make(chan error)
	d.ended = make(chan error, 1)
	go func() {
		// The death signal follows the thread that forked.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := errors.Join(d.process.Start(), log.Close())
		started <- err
		if err == nil {
			d.ended <- d.process.Wait()
		}
	}()
	if err := <-started; err != nil {
		d.t.Fatal(err)
	}
}

func (d *realDriver) kill(signal os.Signal) {
	d.t.Helper()
	if d.process == nil {
		return
	}
	if err := d.process.Process.Signal(signal); err != nil {
		d.t.Error(err)
	}
	if err := <-d.ended; err != nil && signal != os.Kill {
		d.t.Errorf("the driver ended with %v", err)
	}
	d.process = nil
}

// volumes returns how many volumes the pool has.
func (d *realDriver) volumes() int {
	d.t.Helper()
	entries, err := os.ReadDir(filepath.Join(d.pool, "volumes"))
	if err != nil {
		d.t.Fatal(err)
	}
	return len(entries)
}

// TestProvisionWithTheRealDriver runs the provisioner against the program that serves CSI on a node.
func TestProvisionWithTheRealDriver(t *testing.T) {
	leak.Check(t)
	w := &provisionWorld{
		pvWorld: newPVWorld(t), driver: "local.csi.orlop.io",
		leaderCalls: &provisionWrites{role: provisionLeaderRole},
	}
	dir := t.TempDir()
	n := &provisionNode{
		w: w, name: w.ns + "-n1", socket: filepath.Join(dir, "s"), journal: filepath.Join(dir, "journal"),
		writes: &provisionWrites{role: provisionNodeRole},
	}
	d := &realDriver{t: t, name: n.name, pool: filepath.Join(dir, "pool"), sock: n.socket}
	d.start()
	t.Cleanup(func() { d.kill(syscall.SIGTERM) })
	n.dial()
	w.createClass(w.driver, storagev1.VolumeBindingWaitForFirstConsumer)
	runPVController(t, pvConfig(t))
	n.run(provisionFast)

	ofClass := func(class string) func(*corev1.PersistentVolumeClaim) {
		return func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = &class }
	}
	for _, backend := range []string{"loop", "dir"} {
		t.Run(backend, func(t *testing.T) {
			w.extraClass(t, backend, map[string]string{"backend": backend})
			claim := n.selected(backend, ofClass(w.ns+"-"+backend))
			w.untilClaimPhase(backend, corev1.ClaimBound)
			if got := d.volumes(); got != 1 {
				t.Errorf("the pool has %d volumes", got)
			}
			pv := w.getPV(provisioner.VolumeName(claim.UID))
			if size := pv.Spec.Capacity[corev1.ResourceStorage]; size.Value() < 1<<20 {
				t.Errorf("capacity %s", size.String())
			}
			if how := pv.Annotations["orlop.io/capacity-enforcement"]; (how == "none") != (backend == "dir") {
				t.Errorf("capacity enforcement %q", how)
			}
			if backend == "dir" {
				w.untilEvent(claim, provisioner.ReasonCapacityNotEnforced, pv.Name)
			}
			w.deleteClaim(backend)
			w.untilNoPV(claim)
			if got := d.volumes(); got != 0 {
				t.Errorf("the pool has %d volumes after the claim", got)
			}
		})
	}
	for name, tt := range map[string]struct {
		parameters map[string]string
		size       string
		words      []string
	}{
		"unknown-parameter": {map[string]string{"colour": "red"}, "1Mi", []string{`"colour"`, `"backend"`}},
		"unknown-backend":   {map[string]string{"backend": "tape"}, "1Mi", []string{`"tape"`, "loop, dir"}},
		"full":              {nil, "4Ti", []string{"no room", "the volume needs 4Ti and pool"}},
		"huge":              {nil, "1Ei", []string{"OutOfRange"}},
	} {
		t.Run(name, func(t *testing.T) {
			w.extraClass(t, name, tt.parameters)
			claim := n.selected(name, ofClass(w.ns+"-"+name), func(c *corev1.PersistentVolumeClaim) {
				c.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse(tt.size)
			})
			w.untilEvent(claim, provisioner.ReasonProvisioningFailed, tt.words...)
			w.deleteClaim(name)
		})
	}
	t.Run("killed in the middle", func(t *testing.T) {
		const claims = 20
		for i := range claims {
			n.selected(fmt.Sprintf("many-%d", i))
		}
		w.untilClaimPhase("many-0", corev1.ClaimBound)
		d.kill(os.Kill)
		d.start()
		for i := range claims {
			w.untilClaimPhase(fmt.Sprintf("many-%d", i), corev1.ClaimBound)
		}
		if got := d.volumes(); got != claims {
			t.Errorf("the pool has %d volumes for %d claims", got, claims)
		}
		for i := range claims {
			w.deleteClaim(fmt.Sprintf("many-%d", i))
		}
		w.until("the pool is empty", func() (string, error) {
			if left := d.volumes(); left > 0 {
				return fmt.Sprintf("%d volumes", left), nil
			}
			return "", nil
		})
		n.journalIsEmpty()
	})
}

// extraClass makes a further class of the world, for the time of a test.
func (w *provisionWorld) extraClass(t testing.TB, suffix string, parameters map[string]string) {
	t.Helper()
	late := storagev1.VolumeBindingWaitForFirstConsumer
	name := w.ns + "-" + suffix
	_, err := w.client.StorageV1().StorageClasses().Create(t.Context(), &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: w.driver, VolumeBindingMode: &late, Parameters: parameters,
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := w.client.StorageV1().StorageClasses().Delete(context.Background(), name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
}

func (n *provisionNode) dial() {
	n.w.t.Helper()
	var err error
	if n.conn, err = csifake.Dial(n.socket); err != nil {
		n.w.t.Fatal(err)
	}
	conn := n.conn
	n.w.t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			n.w.t.Error(err)
		}
	})
}
