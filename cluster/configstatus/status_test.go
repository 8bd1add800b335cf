package configstatus

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/orlop-io/orlop/configsync/payload"
	"github.com/orlop-io/orlop/configsync/writer"
)

// host is a node's tree, written by the real writer, and an API.
type host struct {
	t       *testing.T
	node    Node
	objects []runtime.Object // metadata of ConfigMaps and Secrets
	pods    []runtime.Object
	down    bool
}

func newHost(t *testing.T) *host {
	return &host{t: t, node: Node{KubeletDir: t.TempDir(), PodLogsDir: t.TempDir()}}
}

func (h *host) report(f Filter) *Report {
	h.t.Helper()
	scheme := metadatafake.NewTestScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		h.t.Fatal(err)
	}
	api := API{Client: fake.NewClientset(h.pods...), Metadata: metadatafake.NewSimpleMetadataClient(scheme, h.objects...), Node: "n"}
	if h.down {
		api.Client.(*fake.Clientset).PrependReactor("list", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, errors.New("connection refused")
		})
	}
	r, err := h.node.Report(context.Background(), api, f)
	if err != nil {
		h.t.Fatal(err)
	}
	return r
}

// has adds an object to the API. A mark is f:data or another part of the object that was edited at that time.
func (h *host) has(kind payload.Kind, namespace, name, uid, version string, edits map[string]time.Time) {
	o := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: string(kind)},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: "", ResourceVersion: version, CreationTimestamp: metav1.NewTime(start)}}
	o.UID = uidOf(uid)
	for field, at := range edits {
		o.ManagedFields = append(o.ManagedFields, metav1.ManagedFieldsEntry{
			Time: &metav1.Time{Time: at}, FieldsV1: metav1.NewFieldsV1(`{"` + field + `":{".":{},"f:k":{}}}`)})
	}
	h.objects = append(h.objects, o)
}

// shows writes a volume of a pod.
func (h *host) shows(podUID, plugin, volume string, files map[string]string, objects ...payload.Version) string {
	h.t.Helper()
	dir := filepath.Join(h.node.KubeletDir, "pods", podUID, "volumes", plugin, volume)
	if plugin == "kubernetes.io~csi" {
		dir = filepath.Join(dir, "mount")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		h.t.Fatal(err)
	}
	p := payload.Payload{Files: map[string]payload.File{}, Objects: objects, GID: -1}
	for path, data := range files {
		p.Files[path] = payload.File{Data: payload.Content(data), Mode: 0o644, UID: -1, GID: -1}
	}
	if _, err := writer.New(dir, writer.Options{}).Write(p); err != nil {
		h.t.Fatal(err)
	}
	return dir
}

func configMap(name, uid, version string) payload.Version {
	return payload.Version{Kind: payload.ConfigMap, Namespace: "ns", Name: name, UID: uid, ResourceVersion: version}
}

func pod(name string, volumes ...corev1.Volume) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{"l": "1"},
		Annotations: map[string]string{"a": "1"}}, Spec: corev1.PodSpec{NodeName: "n", Volumes: volumes}}
	p.UID = uidOf("uid-" + name)
	return p
}

func configMapVolume(name string, optional bool) corev1.Volume {
	return corev1.Volume{Name: "v-" + name, VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: name}, Optional: &optional}}}
}

// One volume of one ConfigMap, against whatever the API may have of it.
func TestStateOfAnObject(t *testing.T) {
	frozen := configMap("cm", "u1", "5")
	frozen.Immutable = true
	for name, x := range map[string]struct {
		shown    []payload.Version // nil: not set up; empty: set up, of nothing
		uid      string            // of the API's, "" for none
		version  string
		optional bool
		want     State
		says     string
	}{
		"the same":                       {shown: []payload.Version{configMap("cm", "u1", "5")}, uid: "u1", version: "5", want: Current},
		"newer in the API":               {shown: []payload.Version{configMap("cm", "u1", "5")}, uid: "u1", version: "12", want: Behind, says: "at version 12"},
		"volume ahead of what was asked": {shown: []payload.Version{configMap("cm", "u1", "12")}, uid: "u1", version: "5", want: Current},
		"immutable, labels edited":       {shown: []payload.Version{frozen}, uid: "u1", version: "12", want: Current},
		"immutable, made again":          {shown: []payload.Version{frozen}, uid: "u2", version: "12", want: Behind, says: "made again"},
		"made again":                     {shown: []payload.Version{configMap("cm", "u1", "5")}, uid: "u2", version: "12", want: Behind, says: "made again"},
		"deleted":                        {shown: []payload.Version{configMap("cm", "u1", "5")}, want: Behind, says: "was deleted"},
		"optional and absent":            {shown: []payload.Version{}, optional: true, want: Current},
		"optional and there":             {shown: []payload.Version{}, optional: true, uid: "u1", version: "5", want: Behind, says: "not shown yet"},
		"not set up":                     {uid: "u1", version: "5", want: Pending, says: "not set up yet"},
		"not set up, for lack of it":     {want: Pending, says: "there is no ConfigMap cm"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.pods = append(h.pods, pod("p", configMapVolume("cm", x.optional)))
			if x.shown != nil {
				h.shows("uid-p", "kubernetes.io~configmap", "v-cm", map[string]string{"k": "1"}, x.shown...)
			}
			if x.uid != "" {
				h.has(payload.ConfigMap, "ns", "cm", x.uid, x.version, nil)
			}
			r := h.report(Filter{Namespace: "ns"})
			if len(r.Volumes) != 1 {
				t.Fatalf("%d volumes: %+v", len(r.Volumes), r)
			}
			v := r.Volumes[0]
			if v.State != x.want || !strings.Contains(v.Message, x.says) || v.Kind != "configMap" || v.Pod != "p" || !r.Compared {
				t.Errorf("state %s, %q; want %s, %q; %+v", v.State, v.Message, x.want, x.says, v)
			}
			if x.shown != nil && (v.Since.IsZero() || v.Generation == "" || len(v.Objects) != len(x.shown)) {
				t.Errorf("what it shows is not told: %+v", v)
			}
			if r.Behind() != (x.want == Behind || x.want == Pending) {
				t.Errorf("Behind() is %v in state %s", r.Behind(), v.State)
			}
		})
	}
}

// The files of labels and annotations are compared by content; the kubelet's own annotations are left out.
func TestStateOfFields(t *testing.T) {
	items := []corev1.DownwardAPIVolumeFile{}
	for path, field := range map[string]string{"labels": "metadata.labels", "all/annotations": "metadata.annotations",
		"one": "metadata.labels['l']", "seen": "metadata.annotations['kubernetes.io/config.seen']", "name": "metadata.name"} {
		items = append(items, corev1.DownwardAPIVolumeFile{Path: path, FieldRef: &corev1.ObjectFieldSelector{FieldPath: field}})
	}
	items = append(items, corev1.DownwardAPIVolumeFile{Path: "cpu", ResourceFieldRef: &corev1.ResourceFieldSelector{}})
	for name, x := range map[string]struct {
		change map[string]string
		want   State
	}{
		"the same":        {nil, Current},
		"label":           {map[string]string{"labels": `l="0"`}, Behind},
		"annotation more": {map[string]string{"all/annotations": "a=\"1\"\nb=\"1\""}, Behind},
		"one label":       {map[string]string{"one": "0"}, Behind},
		"fixed":           {map[string]string{"name": "other", "cpu": "2"}, Current},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.pods = append(h.pods, pod("p", corev1.Volume{Name: "d",
				VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: items}}}))
			files := map[string]string{"labels": `l="1"`, "all/annotations": "a=\"1\"\nkubernetes.io/config.seen=\"now\"", "one": "1",
				"seen": "now", "name": "p", "cpu": "1"}
			for path, data := range x.change {
				files[path] = data
			}
			h.shows("uid-p", "kubernetes.io~downward-api", "d", files,
				payload.Version{Kind: payload.Pod, Namespace: "ns", Name: "p", UID: "uid-p", ResourceVersion: "1"})
			r := h.report(Filter{})
			if len(r.Volumes) != 1 || r.Volumes[0].State != x.want {
				t.Errorf("want %s: %+v", x.want, r.Volumes)
			}
		})
	}
}

// All there may be on a node: several pods and kinds, one that is gone, one of another driver, one of upstream's.
func TestReport(t *testing.T) {
	h := newHost(t)
	inline := corev1.Volume{Name: "i", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: csiDriver,
		VolumeAttributes: map[string]string{"sources": "[{kind: Secret, name: s, namespace: other}, {kind: ConfigMap, name: none, optional: true}]"}}}}
	foreign := corev1.Volume{Name: "f", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: "local.csi.orlop.io"}}}
	all := corev1.Volume{Name: "all", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}},
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}}}}}}
	secret := corev1.Volume{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "own"}}}
	ended := pod("ended", configMapVolume("cm", false))
	ended.Status.Phase = corev1.PodSucceeded
	h.pods = append(h.pods, pod("a", all, inline, foreign), pod("b", secret), ended)
	for _, driver := range []struct{ volume, name string }{{"i", csiDriver}, {"f", "local.csi.orlop.io"}} {
		h.shows("uid-a", "kubernetes.io~csi", driver.volume, map[string]string{"k": "1"},
			payload.Version{Kind: payload.Secret, Namespace: "other", Name: "s", UID: "u2", ResourceVersion: "7"})
		data := filepath.Join(h.node.KubeletDir, "pods/uid-a/volumes/kubernetes.io~csi", driver.volume, "vol_data.json")
		if err := os.WriteFile(data, []byte(`{"driverName":"`+driver.name+`"}`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h.shows("uid-a", "kubernetes.io~projected", "all", map[string]string{"k": "1"}, configMap("cm", "u1", "5"))
	own := h.shows("uid-b", "kubernetes.io~secret", "s", map[string]string{"k": "1"})
	generation, _, err := writer.ReadGeneration(own)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(own, generation.Name, "..generation")); err != nil {
		t.Fatal(err) // upstream's writer has none
	}
	h.shows("uid-gone", "kubernetes.io~configmap", "v", nil, configMap("cm", "u1", "5"))
	if err := os.Mkdir(filepath.Join(h.node.PodLogsDir, "ns_former_uid-gone"), 0o755); err != nil {
		t.Fatal(err)
	}
	h.has(payload.ConfigMap, "ns", "cm", "u1", "5", nil)
	h.has(payload.Secret, "other", "s", "u2", "7", nil)

	want := "ns/a/all projected current, ns/a/i csi current, ns/b/s secret unknown, ns/former/v configMap gone"
	if got := brief(h.report(Filter{Namespace: "ns"})); got != want {
		t.Errorf("the namespace's volumes are\n%s, want\n%s", got, want)
	}
	if got := brief(h.report(Filter{})); got != want {
		t.Errorf("all volumes are\n%s, want\n%s", got, want)
	}
	if got := brief(h.report(Filter{Namespace: "other"})); got != "" {
		t.Errorf("the other namespace's volumes are %s", got)
	}
	if got := brief(h.report(Filter{Pod: "b"})); got != "ns/b/s secret unknown" {
		t.Errorf("the volumes of b are %s", got)
	}

	// Without an API server all that is on the node is told, with the names that the node has.
	h.down = true
	r := h.report(Filter{})
	if r.Compared || r.Failure != "connection refused" {
		t.Errorf("without an API server: %+v", r)
	}
	want = "//i csi unknown, ns//all projected unknown, //s secret unknown, ns/former/v configMap unknown"
	for _, v := range strings.Split(want, ", ") {
		if got := brief(r); !strings.Contains(got, v) {
			t.Errorf("without an API server the volumes are\n%s, without %s", got, v)
		}
	}
}

func brief(r *Report) string {
	var all []string
	for _, v := range r.Volumes {
		all = append(all, v.Namespace+"/"+v.Pod+"/"+v.Name+" "+v.Kind+" "+string(v.State))
	}
	return strings.Join(all, ", ")
}

// What is on disk may be damaged: it is told of the volume, and the others are told as well.
func TestDamage(t *testing.T) {
	h := newHost(t)
	h.pods = append(h.pods, pod("p", configMapVolume("cm", false), configMapVolume("other", false)))
	h.has(payload.ConfigMap, "ns", "cm", "u1", "5", nil)
	h.has(payload.ConfigMap, "ns", "other", "u2", "5", nil)
	dir := h.shows("uid-p", "kubernetes.io~configmap", "v-cm", nil, configMap("cm", "u1", "5"))
	h.shows("uid-p", "kubernetes.io~configmap", "v-other", nil, configMap("other", "u2", "5"))
	if err := os.WriteFile(filepath.Join(dir, "..data", "..generation"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := h.report(Filter{})
	if got := brief(r); got != "ns/p/v-cm configMap unknown, ns/p/v-other configMap current" || r.Volumes[0].Message == "" {
		t.Errorf("%s: %+v", got, r.Volumes[0])
	}
}
