package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/csi/host"
	csivolume "github.com/orlop-io/orlop/csi/volume"
)

// A republish mends what is damaged, and never fails for what is not its caller's doing.
func TestRepublishHeals(t *testing.T) {
	w := newWorld(t)
	w.grant(w.ns, account1)
	w.set("ConfigMap", w.ns, "cm", "1")
	p := w.pod("p", account1, map[string]string{"kind": "ConfigMap", "name": "cm"})
	must(t, p.publish())
	inside, err := host.New(nil).CloneWritable(p.target)
	must(t, err)
	must(t, os.RemoveAll(host.New(nil).FDPath(inside)+"/..data"), os.Remove(host.New(nil).FDPath(inside)+"/k"), inside.Close())
	must(t, p.publish())
	p.is("k", "1")

	// Unmounted by somebody: a container has it still, and must go on seeing changes after it is mounted again.
	container, err := os.OpenRoot(p.target)
	must(t, err)
	must(t, unix.Unmount(p.target, unix.MNT_DETACH))
	must(t, p.publish())
	p.is("k", "1")
	w.set("ConfigMap", w.ns, "cm", "2")
	p.shows("k", "2")
	if got, err := container.ReadFile("k"); err != nil || string(got) != "2" {
		t.Errorf("a container sees %q, %v", got, err)
	}
	must(t, container.Close())

	for name, change := range map[string]func(*csi.NodePublishVolumeRequest){
		"no token":       func(r *csi.NodePublishVolumeRequest) { r.Secrets = nil },
		"garbage tokens": func(r *csi.NodePublishVolumeRequest) { r.Secrets = map[string]string{tokensKey: "{"} },
		"bad attribute":  func(r *csi.NodePublishVolumeRequest) { r.VolumeContext["kind"] = "Pod" },
		"no pod":         func(r *csi.NodePublishVolumeRequest) { delete(r.VolumeContext, kubeletPrefix+"pod.name") },
		"no object":      func(r *csi.NodePublishVolumeRequest) { r.VolumeContext["name"] = "nonesuch" },
	} {
		r := p.request(p.token(3600))
		change(r)
		if _, err := w.driver.NodePublishVolume(t.Context(), r); err != nil {
			t.Errorf("%s: a republish fails: %v", name, err)
		}
		p.is("k", "2")
		w.eventSays("last good files")
		must(t, p.publish())
	}
	w.fault = func(l host.Label) error {
		if strings.HasPrefix(string(l), "write: ") || strings.HasPrefix(string(l), "record") {
			return unix.EIO
		}
		return nil
	}
	w.set("ConfigMap", w.ns, "cm", "3")
	w.eventSays("last good files", p.target, "input/output error")
	must(t, p.publish())
	p.is("k", "2")
	w.fault = nil
	p.shows("k", "3")

	must(t, env.Client.CoreV1().ConfigMaps(w.ns).Delete(t.Context(), "cm", metav1.DeleteOptions{}))
	w.eventSays("last good files", "cm: not found")
	must(t, p.publish())
	p.is("k", "3")
	frozen := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cm"}, Data: map[string]string{"k": "again"}, Immutable: new(true)}
	_, err = env.Client.CoreV1().ConfigMaps(w.ns).Create(t.Context(), frozen, metav1.CreateOptions{})
	must(t, err)
	p.shows("k", "again")

	elsewhere := p.request(p.token(3600))
	elsewhere.TargetPath += "2"
	if _, err := w.driver.NodePublishVolume(t.Context(), elsewhere); !errors.Is(err, csivolume.ErrIncompatible) {
		t.Errorf("at another target: %v", err)
	}
	must(t, p.unpublish())
}

// What a first publish refuses, it refuses with a reason, and leaves nothing.
func TestPublishRefuses(t *testing.T) {
	w := newWorld(t)
	w.grant(w.ns, account1)
	w.set("ConfigMap", w.ns, "cm", strings.Repeat("x", 1<<19))
	many := ""
	for i := range 200 {
		many += fmt.Sprintf("{key: k, path: x%d},", i)
	}
	p := w.pod("p", account1, nil)
	for name, c := range map[string]struct {
		attributes map[string]string
		change     func(*csi.NodePublishVolumeRequest)
		want       error
		says       string
	}{
		"no such object": {map[string]string{"kind": "ConfigMap", "name": "no"}, nil, csivolume.ErrNotReady, "/no: not found"},
		"no such key": {map[string]string{"kind": "ConfigMap", "name": "cm", "items": "[{key: z}]"}, nil, csivolume.ErrNotReady,
			"no such key"},
		"too much": {map[string]string{"kind": "ConfigMap", "name": "cm", "items": "[" + many + "]"}, nil, csivolume.ErrInvalid,
			"fewer items"},
		"no token": {map[string]string{"kind": "ConfigMap", "name": "cm"},
			func(r *csi.NodePublishVolumeRequest) { r.Secrets = nil }, csivolume.ErrNotReady, "tokenRequests"},
		"no pod": {map[string]string{"kind": "ConfigMap", "name": "cm"},
			func(r *csi.NodePublishVolumeRequest) { delete(r.VolumeContext, kubeletPrefix+"serviceAccount.name") },
			csivolume.ErrNotReady, "podInfoOnMount"},
		"a secretRef": {map[string]string{"kind": "ConfigMap", "name": "cm"},
			func(r *csi.NodePublishVolumeRequest) { r.Secrets["password"] = "x" }, csivolume.ErrInvalid, "nodePublishSecretRef"},
		"block": {nil, func(r *csi.NodePublishVolumeRequest) {
			r.VolumeCapability.AccessType = &csi.VolumeCapability_Block{}
		}, csivolume.ErrInvalid, "block"},
		"fsType":   {nil, func(r *csi.NodePublishVolumeRequest) { r.VolumeCapability.GetMount().FsType = "ext4" }, csivolume.ErrInvalid, "ext4"},
		"flags":    {nil, func(r *csi.NodePublishVolumeRequest) { r.VolumeCapability.GetMount().MountFlags = []string{"x"} }, csivolume.ErrInvalid, "mount options"},
		"group":    {nil, func(r *csi.NodePublishVolumeRequest) { r.VolumeCapability.GetMount().VolumeMountGroup = "-1" }, csivolume.ErrInvalid, "volume_mount_group"},
		"relative": {nil, func(r *csi.NodePublishVolumeRequest) { r.TargetPath = "x" }, csivolume.ErrInvalid, "target_path"},
		"no ID":    {nil, func(r *csi.NodePublishVolumeRequest) { r.VolumeId = "" }, csivolume.ErrInvalid, "volume_id"},
		"persistent": {map[string]string{"kind": "ConfigMap", "name": "cm"},
			func(r *csi.NodePublishVolumeRequest) { r.VolumeContext[kubeletPrefix+"ephemeral"] = "false" }, csivolume.ErrInvalid, "ephemeral"},
	} {
		p.attributes = c.attributes
		r := p.request(p.token(3600))
		if c.change != nil {
			c.change(r)
		}
		_, err := w.driver.NodePublishVolume(t.Context(), r)
		if !errors.Is(err, c.want) || !strings.Contains(fmt.Sprint(err), c.says) {
			t.Errorf("%s: %v, want %v that says %q", name, err, c.want, c.says)
		}
		if err != nil && strings.Contains(err.Error(), "eyJ") {
			t.Errorf("%s: the error has a token: %v", name, err)
		}
		p.gone()
	}
	w.gate.cut()
	p.attributes = map[string]string{"kind": "ConfigMap", "name": "cm"}
	if err := p.publish(); !errors.Is(err, csivolume.ErrUnavailable) {
		t.Errorf("without an API server: %v", err)
	}
	p.gone()
	w.gate.open()
	// Tokens are taken from where an older kubelet has them, too.
	r := p.request(p.token(3600))
	r.VolumeContext[tokensKey], r.Secrets = r.Secrets[tokensKey], nil
	_, err := w.driver.NodePublishVolume(t.Context(), r)
	must(t, err)
	if text, err := os.ReadFile(filepath.Join(w.stateDir(), fileOf(p.id))); err != nil || strings.Contains(string(text), tokensKey) {
		t.Errorf("the record keeps the attribute with the token: %v", err)
	}
	must(t, p.unpublish())
}
