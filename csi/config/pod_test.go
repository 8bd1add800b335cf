package config

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// pod is a pod in the API and one volume of it.
type pod struct {
	w          *world
	name       string
	uid        string
	account    string
	id, target string
	group      string
	attributes map[string]string
}

func (w *world) pod(name, account string, attributes map[string]string) *pod {
	w.t.Helper()
	made, err := env.Client.CoreV1().Pods(w.ns).Create(w.t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{ServiceAccountName: account, Containers: []corev1.Container{{Name: "c", Image: "i"}},
			AutomountServiceAccountToken: new(false)},
	}, metav1.CreateOptions{})
	must(w.t, err)
	return &pod{w: w, name: name, uid: string(made.UID), account: account, id: "csi-" + string(made.UID), attributes: attributes,
		target: filepath.Join(w.dir, "pods", string(made.UID), "volumes/kubernetes.io~csi/conf/mount")}
}

// token is a new one of the pod's, that lives so many seconds.
func (p *pod) token(seconds int64) authenticationv1.TokenRequestStatus {
	p.w.t.Helper()
	t, err := env.Client.CoreV1().ServiceAccounts(p.w.ns).CreateToken(p.w.t.Context(), p.account, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds, BoundObjectRef: &authenticationv1.BoundObjectReference{
			APIVersion: "v1", Kind: "Pod", Name: p.name, UID: types.UID(p.uid),
		}},
	}, metav1.CreateOptions{})
	must(p.w.t, err)
	return t.Status
}

func tokenSecret(t testing.TB, s authenticationv1.TokenRequestStatus) map[string]string {
	t.Helper()
	text, err := json.Marshal(map[string]authenticationv1.TokenRequestStatus{"": s})
	must(t, err)
	return map[string]string{tokensKey: string(text)}
}

func (p *pod) request(s authenticationv1.TokenRequestStatus) *csi.NodePublishVolumeRequest {
	context := map[string]string{
		kubeletPrefix + "pod.name": p.name, kubeletPrefix + "pod.namespace": p.w.ns, kubeletPrefix + "pod.uid": p.uid,
		kubeletPrefix + "serviceAccount.name": p.account, kubeletPrefix + "ephemeral": "true",
	}
	for k, v := range p.attributes {
		context[k] = v
	}
	return &csi.NodePublishVolumeRequest{
		VolumeId: p.id, TargetPath: p.target, VolumeContext: context, Secrets: tokenSecret(p.w.t, s),
		VolumeCapability: &csi.VolumeCapability{
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{VolumeMountGroup: p.group}},
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		},
	}
}

func (p *pod) publish() error {
	p.w.t.Helper()
	_, err := p.w.driver.NodePublishVolume(p.w.t.Context(), p.request(p.token(3600)))
	return err
}

func (p *pod) unpublish() error {
	p.w.t.Helper()
	_, err := p.w.driver.NodeUnpublishVolume(p.w.t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: p.id, TargetPath: p.target})
	return err
}

// shows waits until the file has that content.
func (p *pod) shows(file, want string) {
	p.w.t.Helper()
	eventually(p.w.t, fmt.Sprintf("%s of %s is %q", file, p.name, want), func() error {
		got, err := os.ReadFile(filepath.Join(p.target, file))
		if err == nil && string(got) != want {
			err = fmt.Errorf("it is %q", got)
		}
		return err
	})
}

// is fails unless the file has that content now.
func (p *pod) is(file, want string) {
	p.w.t.Helper()
	if got, err := os.ReadFile(filepath.Join(p.target, file)); err != nil || string(got) != want {
		p.w.t.Errorf("%s of %s is %q, %v; want %q", file, p.name, got, err, want)
	}
}

// gone fails unless nothing is left of the volume.
func (p *pod) gone() {
	p.w.t.Helper()
	if _, err := os.Lstat(p.target); !errors.Is(err, os.ErrNotExist) {
		p.w.t.Errorf("the target is left: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(p.w.stateDir(), fileOf(p.id))); !errors.Is(err, os.ErrNotExist) {
		p.w.t.Errorf("the record is left: %v", err)
	}
	if d := p.w.driver; d != nil && d.lookup(p.id) != nil {
		p.w.t.Error("the volume is followed")
	}
}

// eventSays waits for an event that says each of the words.
func (w *world) eventSays(words ...string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), hurry)
	defer cancel()
	for {
		select {
		case e := <-w.events.Events:
			missing := false
			for _, word := range words {
				missing = missing || !strings.Contains(e, word)
			}
			if !missing {
				return
			}
			w.t.Logf("another event: %s", e)
		case <-ctx.Done():
			w.t.Fatalf("no event says %q", words)
		}
	}
}
