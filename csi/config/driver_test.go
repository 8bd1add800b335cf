package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/csi/host"
	csivolume "github.com/orlop-io/orlop/csi/volume"
)

// A volume shows its objects, from another namespace too, exactly as asked, follows them, and leaves nothing behind.
func TestPublishAndFollow(t *testing.T) {
	w := newWorld(t)
	other := env.Namespace(t)
	w.grant(w.ns, account1)
	w.grant(other, account1)
	w.set("Secret", w.ns, "s", "secret 1")
	w.set("ConfigMap", other, "cm", "config 1")
	w.set("ConfigMap", w.ns, "cm", "own 1")
	p := w.pod("p", account1, map[string]string{"sources": fmt.Sprintf(`
- {kind: Secret, name: s, items: [{key: k, path: deep/s, mode: 0400, uid: 1000}, {key: k, path: shared, mode: "0640", gid: 3000}]}
- {kind: ConfigMap, name: cm, namespace: %s}
- {kind: ConfigMap, name: cm, items: [{key: k, path: own}], defaultMode: "0444", uid: 7, gid: 8}
- {kind: Secret, name: later, optional: true, items: [{key: k, path: later}]}
`, other)})
	p.group = "2000"
	must(t, p.publish())
	p.is("deep/s", "secret 1")
	p.is("k", "config 1")
	for file, want := range map[string]struct {
		mode     os.FileMode
		uid, gid uint32
	}{
		"deep/s": {0o400, 1000, 2000}, "shared": {0o640, 0, 3000}, "k": {0o644, 0, 2000}, "own": {0o444, 7, 8},
	} {
		info, err := os.Stat(filepath.Join(p.target, file))
		must(t, err)
		st := info.Sys().(*syscall.Stat_t)
		if info.Mode() != want.mode || st.Uid != want.uid || st.Gid != want.gid {
			t.Errorf("%s is %v %d:%d, want %+v", file, info.Mode(), st.Uid, st.Gid, want)
		}
	}
	if err := os.WriteFile(filepath.Join(p.target, "x"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing into a published volume: %v", err)
	}
	m, err := host.New(nil).MountAt(p.target)
	if err != nil || m == nil || m.FSType != "tmpfs" || m.Source != DriverName || !m.ReadOnly || m.FSReadOnly {
		t.Errorf("the mount is %+v, %v", m, err)
	}

	w.set("Secret", w.ns, "s", "secret 2")
	p.shows("deep/s", "secret 2")
	p.shows("shared", "secret 2")
	w.set("ConfigMap", other, "cm", "config 2")
	p.shows("k", "config 2")
	w.set("Secret", w.ns, "later", "here")
	p.shows("later", "here")

	// A second pod of the same ServiceAccount opens no further watch.
	q := w.pod("q", account1, map[string]string{"kind": "Secret", "name": "s"})
	must(t, q.publish())
	q.is("k", "secret 2")
	if n := w.watches(); n != 4 {
		t.Errorf("%d watches for four objects", n)
	}
	stats, err := w.driver.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: p.id, VolumePath: p.target})
	must(t, err)
	if u := stats.GetUsage()[0]; u.GetTotal() != maxTmpfs || u.GetUsed() == 0 || stats.GetVolumeCondition().GetAbnormal() {
		t.Errorf("the volume's stats are %v", stats)
	}
	for range 2 {
		must(t, p.unpublish(), q.unpublish())
	}
	p.gone()
	q.gone()
	if n := w.watches(); n != 0 {
		t.Errorf("%d watches without a volume", n)
	}
}

// watches counts the open watches of all accounts.
func (w *world) watches() int {
	w.driver.mu.Lock()
	defer w.driver.mu.Unlock()
	n := 0
	for _, a := range w.driver.accounts {
		n += a.source.Watches()
	}
	return n
}

// Without the right to read there is no volume, and the error's own commands grant it. The driver's credentials, which
// are an administrator's here, are never used.
func TestNotGranted(t *testing.T) {
	w := newWorld(t)
	other := env.Namespace(t)
	w.set("Secret", other, "s", "1")
	p := w.pod("p", account1, map[string]string{"kind": "Secret", "name": "s", "namespace": other})
	err := p.publish()
	if !errors.Is(err, csivolume.ErrForbidden) {
		t.Fatalf("publishing without the right to read: %v", err)
	}
	p.gone()
	for _, word := range []string{w.ns + "/" + account1, "Secret " + other + "/s", "get, list and watch"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error does not say %q: %v", word, err)
		}
	}
	_, commands, ok := strings.Cut(err.Error(), "to grant it: ")
	if !ok {
		t.Fatalf("the error says no command: %v", err)
	}
	for command := range strings.SplitSeq(commands, " && ") {
		if _, err := env.Kubectl(t.Context(), strings.Fields(command)[1:]...); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the volume is published once it is granted", p.publish)
	p.is("k", "1")
	// The very Secret alone was granted.
	w.set("Secret", other, "t", "1")
	q := w.pod("q", account1, map[string]string{"kind": "Secret", "name": "t", "namespace": other})
	if err := q.publish(); !errors.Is(err, csivolume.ErrForbidden) {
		t.Errorf("another Secret: %v", err)
	}
	must(t, p.unpublish())
}

// Rights that are lost leave the last good files, are reported with what to do, and are used again when they are back.
func TestGrantLost(t *testing.T) {
	w := newWorld(t)
	w.grant(w.ns, account1)
	w.set("Secret", w.ns, "s", "1")
	p := w.pod("p", account1, map[string]string{"kind": "Secret", "name": "s"})
	must(t, p.publish())
	w.revoke(w.ns, account1)
	w.set("Secret", w.ns, "s", "2")
	w.gate.cut() // a watch outlives the rights it was opened with, until it ends
	w.gate.open()
	w.eventSays("last good files", "kubectl create role", "ServiceAccount "+w.ns+"/"+account1)
	must(t, p.publish())
	stats, err := w.driver.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: p.id, VolumePath: p.target})
	if err != nil || !stats.GetVolumeCondition().GetAbnormal() || !strings.Contains(stats.GetVolumeCondition().GetMessage(), "create role") {
		t.Errorf("the volume's condition is %v, %v", stats.GetVolumeCondition(), err)
	}
	// What the driver knows still is not for a new pod.
	q := w.pod("q", account1, map[string]string{"kind": "Secret", "name": "s"})
	if err := q.publish(); !errors.Is(err, csivolume.ErrForbidden) {
		t.Errorf("a new volume after the rights were lost: %v", err)
	}
	if got, err := os.ReadFile(filepath.Join(p.target, "k")); err != nil || len(got) != 1 {
		t.Errorf("the last good file is %q, %v", got, err)
	}
	must(t, env.Client.RbacV1().RoleBindings(w.ns).Delete(t.Context(), "r-"+account1, metav1.DeleteOptions{}))
	w.grant(w.ns, account1)
	p.shows("k", "2")
	must(t, p.publish(), p.unpublish())
}

// The watch goes on with another pod's token when the one it used is refused.
func TestTokenOfAnotherPod(t *testing.T) {
	w := newWorld(t)
	w.grant(w.ns, account1)
	w.set("ConfigMap", w.ns, "cm", "1")
	attributes := map[string]string{"kind": "ConfigMap", "name": "cm"}
	p, q := w.pod("p", account1, attributes), w.pod("q", account1, attributes)
	ofP := p.token(7200)
	for pod, status := range map[*pod]*csi.NodePublishVolumeRequest{p: p.request(ofP), q: q.request(q.token(3600))} {
		_, err := w.driver.NodePublishVolume(t.Context(), status)
		must(t, err)
		pod.is("k", "1")
	}
	// p is deleted, but its volume is not taken down yet.
	must(t, env.Client.CoreV1().Pods(w.ns).Delete(t.Context(), "p", metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}))
	tokens := w.driver.lookup(p.id).account.tokens
	// The API server believes a token for some seconds after it looked at it.
	eventually(t, "the deleted pod's token is refused", func() error {
		w.gate.cut()
		w.gate.open()
		eventually(t, "the watch is back", func() error { return w.driver.lookup(q.id).failure() })
		tokens.mu.Lock()
		defer tokens.mu.Unlock()
		if _, ok := tokens.refused[bearer(ofP.Token)]; !ok {
			return errors.New("it is not")
		}
		return nil
	})
	w.set("ConfigMap", w.ns, "cm", "2")
	p.shows("k", "2")
	q.shows("k", "2")
	must(t, p.unpublish())
	w.set("ConfigMap", w.ns, "cm", "3")
	q.shows("k", "3")
	must(t, q.unpublish())
}

// failure says why the volume's first object is not followed.
func (v *volume) failure() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, ref := range v.refs {
		return ref.Failure()
	}
	return nil
}

// Without an API server, and across restarts of the driver meanwhile, the files stay; once it is back they are current
// without the kubelet's help.
func TestOutageAndRestart(t *testing.T) {
	w := newWorld(t)
	w.grant(w.ns, account1)
	w.set("ConfigMap", w.ns, "cm", "1")
	p := w.pod("p", account1, map[string]string{"kind": "ConfigMap", "name": "cm", "defaultMode": "0440"})
	p.group = "2000"
	must(t, p.publish())
	w.set("ConfigMap", w.ns, "cm", "2")
	p.shows("k", "2")
	renewed := p.token(4000)
	w.gate.cut()
	w.set("ConfigMap", w.ns, "cm", "3")
	_, err := w.driver.NodePublishVolume(t.Context(), p.request(renewed))
	must(t, err)
	w.stop()
	p.is("k", "2")
	w.start()
	p.is("k", "2")
	if got := w.driver.lookup(p.id).p; got.token.bearer != bearer(renewed.Token) || *got.FSGroup != 2000 {
		t.Errorf("the driver took up %+v", got)
	}
	must(t, p.publish())
	p.is("k", "2")
	w.gate.open()
	p.shows("k", "3")
	w.stop()
	w.set("ConfigMap", w.ns, "cm", "4")
	w.start()
	p.shows("k", "4")

	// A record that is garbage is dropped, and the next look of the kubelet brings the volume back.
	w.stop()
	record := filepath.Join(w.stateDir(), fileOf(p.id))
	text, err := os.ReadFile(record)
	must(t, err, os.WriteFile(record, text[:len(text)-5], 0o600), os.WriteFile(filepath.Join(w.stateDir(), "x"), nil, 0o600),
		os.Mkdir(filepath.Join(w.stateDir(), fileOf("d")), 0o700))
	w.start()
	if left, err := os.ReadDir(w.stateDir()); err != nil || len(left) != 1 || w.driver.lookup(p.id) != nil {
		t.Errorf("of garbage there is left %v, %v", left, err)
	}
	must(t, p.publish())
	w.set("ConfigMap", w.ns, "cm", "5")
	p.shows("k", "5")

	// A volume whose mount is gone is dropped.
	w.stop()
	must(t, unix.Unmount(p.target, 0))
	w.start()
	if left, err := os.ReadDir(w.stateDir()); err != nil || len(left) != 1 {
		t.Errorf("of a volume that is not mounted there is left %v, %v", left, err)
	}
	must(t, p.unpublish())
	p.gone()
}
