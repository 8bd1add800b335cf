package volumes

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/volume"

	"github.com/orlop-io/orlop/configsync/reference"
)

// A pod with subPath mounts of volumes that can change is told once, of all of them together; not for what never
// changes, not with the annotation, and not again after a restart of the kubelet.
func TestSubPathNotice(t *testing.T) {
	live := cases["ConfigMap"]
	frozen := v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "frozen", DefaultMode: ptr(int32(0o400))}}
	fixed := v1.VolumeSource{DownwardAPI: &v1.DownwardAPIVolumeSource{DefaultMode: ptr(int32(0o644)),
		Items: []v1.DownwardAPIVolumeFile{fieldFile("name", "metadata.name")}}}
	token := v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{DefaultMode: ptr(int32(0o644)), Sources: []v1.VolumeProjection{
		{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "t", ExpirationSeconds: ptr(int64(3600))}}}}}
	mount := func(volume, at, subPath, expr string) v1.VolumeMount {
		return v1.VolumeMount{Name: volume, MountPath: at, SubPath: subPath, SubPathExpr: expr}
	}
	for _, tt := range []struct {
		name        string
		volumes     map[string]v1.VolumeSource
		init, main  []v1.VolumeMount
		annotation  string
		says        []string // none for no event
		doesNotSay  string
		refusedSays string
	}{
		{name: "a live file", volumes: map[string]v1.VolumeSource{"v": live}, main: []v1.VolumeMount{mount("v", "/etc/app", "a", "")},
			says: []string{`container "main": /etc/app (subPath "a" of volume "v")`, "config.orlop.io/subpath: in-place", "without subPath"}},
		{name: "two volumes, two containers, an expression", volumes: map[string]v1.VolumeSource{"v": live, "w": token},
			init: []v1.VolumeMount{mount("w", "/t", "t", "")}, main: []v1.VolumeMount{mount("v", "/etc/app", "", "$(NAME)")},
			says: []string{`container "first": /t (subPath "t" of volume "w")`, `container "main": /etc/app (subPath "$(NAME)" of volume "v")`}},
		{name: "one that never changes beside", volumes: map[string]v1.VolumeSource{"v": live, "w": frozen, "x": fixed},
			main: []v1.VolumeMount{mount("v", "/a", "a", ""), mount("w", "/k", "k", ""), mount("x", "/n", "name", "")},
			says: []string{`/a (subPath`}, doesNotSay: `volume "w"`},
		{name: "nothing that changes", volumes: map[string]v1.VolumeSource{"w": frozen, "x": fixed},
			main: []v1.VolumeMount{mount("w", "/k", "k", ""), mount("x", "/n", "name", "")}},
		{name: "no subPath", volumes: map[string]v1.VolumeSource{"v": live}, main: []v1.VolumeMount{mount("v", "/etc", "", ""), mount("v", "/x", ".", "")}},
		{name: "in place", volumes: map[string]v1.VolumeSource{"v": live}, main: []v1.VolumeMount{mount("v", "/a", "a", "")}, annotation: "in-place"},
		{name: "a wrong value", volumes: map[string]v1.VolumeSource{"v": live}, main: []v1.VolumeMount{mount("v", "/a", "a", "")}, annotation: "inplace",
			says: []string{"/a (subPath"}, refusedSays: `"inplace"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t, true)
			yes := true
			if _, err := h.client.CoreV1().Secrets("ns").Create(t.Context(), &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "frozen",
				Namespace: "ns", UID: "f", ResourceVersion: "1"}, Immutable: &yes, Data: map[string][]byte{"k": nil}}, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			recorder := h.recordOnly()
			if tt.annotation != "" {
				h.pod.Annotations[reference.SubPathAnnotation] = tt.annotation
			}
			h.pod.Spec.InitContainers = []v1.Container{{Name: "first", VolumeMounts: tt.init}}
			h.pod.Spec.Containers = []v1.Container{{Name: "main", VolumeMounts: tt.main}}
			for name, source := range tt.volumes {
				h.pod.Spec.Volumes = append(h.pod.Spec.Volumes, v1.Volume{Name: name, VolumeSource: source})
			}
			all := func() {
				t.Helper()
				for _, v := range h.pod.Spec.Volumes {
					if _, err := h.setUpNamed(v, volume.MounterArgs{}); err != nil {
						t.Fatal(err)
					}
				}
			}
			all()
			all()
			h.restart()
			all()
			got := told(recorder)
			wrong, refused := of(got, reasonSubPathNotLive), of(got, reasonSubPathInvalid)
			if want := min(1, len(tt.says)); len(wrong) != want {
				t.Fatalf("%d events, want %d: %q", len(wrong), want, wrong)
			}
			for _, s := range tt.says {
				if !strings.Contains(wrong[0], s) {
					t.Errorf("%q does not say %s", wrong[0], s)
				}
			}
			if tt.doesNotSay != "" && strings.Contains(wrong[0], tt.doesNotSay) {
				t.Errorf("%q says %s", wrong[0], tt.doesNotSay)
			}
			if want := min(1, len(tt.refusedSays)); len(refused) != want || (want == 1 && !strings.Contains(refused[0], tt.refusedSays)) {
				t.Errorf("events on the annotation: %q, want %d that say %s", refused, want, tt.refusedSays)
			}
			for _, v := range h.pod.Spec.Volumes {
				h.tearDown(v)
			}
			if len(h.manager.notices.pods) != 0 {
				t.Errorf("%d pods are remembered", len(h.manager.notices.pods))
			}
		})
	}
}
