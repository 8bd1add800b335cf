package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/orlop-io/orlop/cluster"
)

// volumesPerPod keeps 500 volumes below the kubelet's limit of 110 pods.
const volumesPerPod = 10

// configCluster is a running cluster with the volumes of one case.
type configCluster struct {
	configCase
	dir    string
	status cluster.Status
	client kubernetes.Interface
}

func newConfigCluster(ctx context.Context, dir string, x configCase) (*configCluster, error) {
	out, err := orlop(ctx, dir, "status", "-o", "json")
	if err != nil {
		return nil, err
	}
	b := &configCluster{configCase: x, dir: dir}
	if err := json.Unmarshal(out, &b.status); err != nil {
		return nil, err
	}
	config, err := clientcmd.BuildConfigFromFlags("", b.status.Kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = 1000, 1000
	b.client, err = kubernetes.NewForConfig(config)
	return b, err
}

func name(volume int) string { return fmt.Sprintf("cm%d", volume) }

// first is what generation n of a volume's file begins with.
func (b *configCluster) first(n int) string {
	if b.label {
		return fmt.Sprintf("generation-%d.", n)
	}
	return fmt.Sprintf("generation-%d ", n)
}

// value is what generation n of a volume's file holds.
func (b *configCluster) value(n int) string {
	s := b.first(n)
	return s + strings.Repeat("x", max(0, b.size-len(s)))
}

// pods makes the ConfigMaps and pods that mount them, and waits until all run.
func (b *configCluster) pods(ctx context.Context) error {
	core := b.client.CoreV1()
	for first := 0; first < b.volumes; first += volumesPerPod {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("p%d", first),
			Labels: map[string]string{"l": "none"}}, Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: new(int64),
			Containers:                    []corev1.Container{{Name: "c", Image: benchImage, Command: []string{"sleep", "1000000"}}}}}
		for i := first; i < min(first+volumesPerPod, b.volumes); i++ {
			source := corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
				LocalObjectReference: corev1.LocalObjectReference{Name: name(i)}}}
			if b.label {
				source = corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{
					{Path: "f", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['l']"}}}}}
			} else {
				cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name(i)}, Data: map[string]string{"f": b.value(-1)}}
				if _, err := core.ConfigMaps("default").Create(ctx, cm, metav1.CreateOptions{}); err != nil {
					return err
				}
			}
			pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name(i), VolumeSource: source})
			pod.Spec.Containers[0].VolumeMounts = append(pod.Spec.Containers[0].VolumeMounts,
				corev1.VolumeMount{Name: name(i), MountPath: "/" + name(i)})
		}
		if _, err := core.Pods("default").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	_, err := orlop(ctx, b.dir, "kubectl", "wait", "--for=condition=Ready", "pod", "--all", "--timeout=10m")
	return err
}

// file is the volume's file on the host.
func (b *configCluster) file(volume int) (string, error) {
	found, err := filepath.Glob(filepath.Join(b.dir, "nodes/*/kubelet/pods/*/volumes/kubernetes.io~*", name(volume), "f"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("files of %s: %v, %w", name(volume), found, err)
	}
	return found[0], nil
}

// patch makes generation n of a volume's object.
func (b *configCluster) patch(ctx context.Context, volume, n int) error {
	if b.label {
		patch := fmt.Appendf(nil, `{"metadata":{"labels":{"l":%q}}}`, b.value(n))
		_, err := b.client.CoreV1().Pods("default").Patch(ctx, "p0", types.MergePatchType, patch, metav1.PatchOptions{})
		return err
	}
	patch := fmt.Appendf(nil, `{"data":{"f":%q}}`, b.value(n))
	_, err := b.client.CoreV1().ConfigMaps("default").Patch(ctx, name(volume), types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}

// shows reports whether the file holds generation n, by its first bytes.
func (b *configCluster) shows(file string, n int) (bool, error) {
	want := b.first(n)
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // upstream removes a generation while it is read
	}
	if err != nil {
		return false, err
	}
	got := make([]byte, len(want))
	_, err = f.Read(got)
	return string(got) == want, errors.Join(err, f.Close())
}

// edit changes one ConfigMap and returns how long the file took to change, from before the PATCH, and how long the
// PATCH took.
func (b *configCluster) edit(ctx context.Context, volume, n int) (took, patch time.Duration, err error) {
	file, err := b.file(volume)
	if err != nil {
		return 0, 0, err
	}
	sent := time.Now()
	answered := make(chan error, 1)
	go func() {
		err := b.patch(ctx, volume, n)
		patch = time.Since(sent)
		answered <- err
	}()
	tick := time.NewTicker(500 * time.Microsecond)
	defer tick.Stop()
	pending := true
	for {
		ok, err := b.shows(file, n)
		if ok {
			took = time.Since(sent)
		}
		if pending && (ok || err != nil) {
			err = errors.Join(err, <-answered)
		}
		if ok || err != nil {
			return took, patch, err
		}
		// The file may well change before the API server has answered.
		select {
		case err := <-answered:
			if err != nil {
				return 0, 0, err
			}
			pending, answered = false, nil
		case <-tick.C:
		case <-ctx.Done():
			return 0, 0, ctx.Err()
		}
	}
}

// editAll changes all ConfigMaps and returns how long each file took.
func (b *configCluster) editAll(ctx context.Context) ([]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, upstreamPatience)
	defer cancel()
	sent, files := map[int]time.Time{}, map[int]string{}
	for i := range b.volumes {
		file, err := b.file(i)
		if err != nil {
			return nil, err
		}
		files[i], sent[i] = file, time.Now()
		if err := b.patch(ctx, i, 0); err != nil {
			return nil, err
		}
	}
	var took []float64
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for len(files) > 0 {
		for i, file := range files {
			ok, err := b.shows(file, 0)
			if err != nil {
				return nil, err
			}
			if ok {
				took = append(took, time.Since(sent[i]).Seconds())
				delete(files, i)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return took, nil
}

// watches counts all watches that are open on the API server.
func (b *configCluster) watches(ctx context.Context) (int, error) {
	raw, err := b.client.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return 0, err
	}
	sum := 0
	for line := range strings.Lines(string(raw)) {
		if !strings.HasPrefix(line, "apiserver_longrunning_requests{") || !strings.Contains(line, `verb="WATCH"`) {
			continue
		}
		fields := strings.Fields(line)
		n, err := strconv.ParseFloat(fields[len(fields)-1], 64)
		if err != nil {
			return 0, err
		}
		sum += int(n)
	}
	return sum, nil
}

// idle returns the kubelet's CPU time in a while in which nothing changes.
func (b *configCluster) idle(ctx context.Context) (float64, error) {
	const period = 20 * time.Second
	before, err := b.kubeletCPU()
	if err != nil {
		return 0, err
	}
	select {
	case <-time.After(period):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	after, err := b.kubeletCPU()
	return (after - before) / period.Seconds(), err
}

// kubeletCPU is the kubelet's CPU time in seconds, user and system (proc_pid_stat(5), in ticks of 10 ms).
func (b *configCluster) kubeletCPU() (float64, error) {
	for _, c := range b.status.Components {
		if c.Name != "kubelet" {
			continue
		}
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.PID))
		if err != nil {
			return 0, err
		}
		fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+2:]))
		user, uerr := strconv.Atoi(fields[11])
		system, serr := strconv.Atoi(fields[12])
		return float64(user+system) / 100, errors.Join(uerr, serr)
	}
	return 0, errors.New("no kubelet in the cluster's status")
}
