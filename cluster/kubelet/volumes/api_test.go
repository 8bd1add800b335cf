package volumes

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"context"
	"time"

	"github.com/orlop-io/orlop/test/apienv"
)

// world is a real API server with a pod on a node, and a ConfigMap and a Secret that the pod shows.
type world struct {
	t   *testing.T
	env *apienv.Env
	ns  string
	pod *v1.Pod
	// node reaches the API server as the node's kubelet does.
	node *rest.Config
}

// partSize makes each file larger than what is written or read at once by chance.
const partSize = 9000

// parts are the files of the test's volumes, and the keys they are of.
var parts = []v1.KeyToPath{{Key: "a", Path: "a"}, {Key: "b", Path: "d/e/b", Mode: ptr(int32(0o400))}, {Key: "c", Path: "d/c"}, {Key: "a", Path: "z"}}

// part is the content of each file in a generation.
func part(generation string) string {
	return strings.Repeat(generation+"\n", partSize/(len(generation)+1))
}

var (
	diskVolume = v1.Volume{Name: "v", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{
		LocalObjectReference: local, DefaultMode: ptr(int32(0o644)), Items: parts}}}
	memoryVolume = v1.Volume{Name: "v", VolumeSource: v1.VolumeSource{Secret: &v1.SecretVolumeSource{
		SecretName: "x", DefaultMode: ptr(int32(0o440)), Items: parts}}}
)

func newWorld(t *testing.T) *world {
	t.Helper()
	env := apienv.Start(t)
	w := &world{t: t, env: env, ns: env.Namespace(t)}
	w.set(diskVolume, "0")
	w.set(memoryVolume, "0")
	disk, memory := diskVolume.DeepCopy(), memoryVolume.DeepCopy()
	disk.Name, memory.Name = "disk", "memory"
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: v1.PodSpec{NodeName: "n1",
		Containers: []v1.Container{{Name: "c", Image: "i"}}, Volumes: []v1.Volume{*disk, *memory}}}
	var err error
	if w.pod, err = env.Client.CoreV1().Pods(w.ns).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if w.node, err = env.User("system:node:n1", "system:nodes"); err != nil {
		t.Fatal(err)
	}
	return w
}

// set makes the volume's object be of a generation, whether it is there or not.
func (w *world) set(v v1.Volume, generation string) {
	w.t.Helper()
	meta := metav1.ObjectMeta{Name: "x"}
	core := w.env.Client.CoreV1()
	// An API server that is just coming up, or going down, is asked again.
	err := wait.PollUntilContextTimeout(w.t.Context(), 20*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		var err error
		if v.Secret != nil {
			s := &v1.Secret{ObjectMeta: meta, Data: map[string][]byte{}}
			for _, p := range parts {
				s.Data[p.Key] = []byte(part(generation))
			}
			if _, err = core.Secrets(w.ns).Update(ctx, s, metav1.UpdateOptions{}); err != nil {
				_, err = core.Secrets(w.ns).Create(ctx, s, metav1.CreateOptions{})
			}
		} else {
			cm := &v1.ConfigMap{ObjectMeta: meta, Data: map[string]string{}}
			for _, p := range parts {
				cm.Data[p.Key] = part(generation)
			}
			if _, err = core.ConfigMaps(w.ns).Update(ctx, cm, metav1.UpdateOptions{}); err != nil {
				_, err = core.ConfigMaps(w.ns).Create(ctx, cm, metav1.CreateOptions{})
			}
		}
		return err == nil, nil
	})
	if err != nil {
		w.t.Fatalf("setting the object of generation %s: %v", generation, err)
	}
}

// remove deletes the volume's object; set then makes one with another UID.
func (w *world) remove(v v1.Volume) {
	w.t.Helper()
	core := w.env.Client.CoreV1()
	remove := core.ConfigMaps(w.ns).Delete
	if v.Secret != nil {
		remove = core.Secrets(w.ns).Delete
	}
	err := remove(w.t.Context(), "x", metav1.DeleteOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
}

// host is a kubelet's host on the world's API server, which it reaches at the address.
func (w *world) host(root, address string) *testHost {
	w.t.Helper()
	config := rest.CopyConfig(w.node)
	config.Host = address
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		w.t.Fatal(err)
	}
	return newHostOn(w.t, root, client, w.pod, true)
}

// whole returns the generation that a reader sees who pins it, or fails: on files of two generations, a part of a file,
// or a file that is not there.
func whole(dir string) (string, error) {
	pinned, err := readData(dir)
	if err != nil {
		return "", err
	}
	seen := ""
	for _, p := range parts {
		raw, err := readFile(pinned, p.Path)
		if err != nil {
			return "", err
		}
		generation, _, _ := strings.Cut(raw, "\n")
		if raw != part(generation) {
			return "", fmt.Errorf("%s is not whole: %d bytes that begin with %.20q", p.Path, len(raw), raw)
		}
		if seen != "" && seen != generation {
			return "", fmt.Errorf("%s is of generation %s, and another file of %s", p.Path, generation, seen)
		}
		seen = generation
	}
	return seen, nil
}

// readData returns the generation's directory that ..data names.
func readData(dir string) (string, error) {
	name, err := os.Readlink(filepath.Join(dir, "..data"))
	return filepath.Join(dir, name), err
}

func readFile(dir, name string) (string, error) {
	raw, err := os.ReadFile(filepath.Join(dir, name))
	return string(raw), err
}
