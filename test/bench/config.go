package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/orlop-io/orlop/cluster"
)

const (
	volumesPerPod = 10
	// upstreamPatience is more than two of upstream's periods of 60 to 90 s.
	upstreamPatience = 4 * time.Minute
	benchImage       = "orlop.io/test/busybox:1"
	benchImageFile   = "bin/images/busybox.tar"
)

// configResult is what one kind of cluster did with one number of volumes of one size.
type configResult struct {
	volumes, size int
	latency       []float64 // seconds from the PATCH being sent to the new file being visible
	patch         []float64 // seconds of them in which the API server answered the PATCH, for Orlop's alone
	watches       int       // of single ConfigMaps and Secrets, which only kubelets open
	cpu           float64   // of the kubelet while nothing changed, in parts of one core
}

// configBench measures how long an edit of a ConfigMap takes to be visible in a volume of a running pod, in a cluster
// with Orlop's volumes and in one with upstream's.
func configBench(ctx context.Context, volumes []int) error {
	image := exec.CommandContext(ctx, "go", "run", "./test/image", "-kind", "busybox", "-o", benchImageFile)
	if out, err := image.CombinedOutput(); err != nil {
		return fmt.Errorf("building the image busybox: %w\n%s", err, out)
	}
	var results [2][]configResult
	for i, k := range []kind{{name: "orlop"}, {name: "plain", flags: []string{"--plain"}}} {
		for _, n := range volumes {
			for _, size := range []int{1_000, 100_000, 1_000_000} {
				if n > 1 && size > 1_000 {
					continue
				}
				r, err := configRun(ctx, k, n, size)
				if err != nil {
					return fmt.Errorf("config, %s, %d volumes of %d bytes: %w", k.name, n, size, err)
				}
				results[i] = append(results[i], r)
				p := percentiles(r.latency)
				fmt.Fprintf(os.Stderr, "%s, %d volumes of %d B: p50 %.1f ms, p99 %.1f ms, max %.1f ms", k.name, n, size, p[0]*1e3, p[1]*1e3, p[2]*1e3)
				if len(r.patch) > 0 {
					fmt.Fprintf(os.Stderr, "; the PATCH itself p50 %.1f ms", percentiles(r.patch)[0]*1e3)
				}
				fmt.Fprintln(os.Stderr)
			}
		}
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "ConfigMap edit to visible, ms\torlop p50\tp99\tmax\tplain p50\tp99\tmax\tratio of p50\twatches\tplain\tidle kubelet CPU, %\tplain\t")
	for i, a := range results[0] {
		b := results[1][i]
		pa, pb := percentiles(a.latency), percentiles(b.latency)
		fmt.Fprintf(w, "%d volumes of %d B\t%.1f\t%.1f\t%.1f\t%.0f\t%.0f\t%.0f\t%.0f\t%d\t%d\t%.1f\t%.1f\t\n", a.volumes, a.size,
			pa[0]*1e3, pa[1]*1e3, pa[2]*1e3, pb[0]*1e3, pb[1]*1e3, pb[2]*1e3, pb[0]/pa[0], a.watches, b.watches, a.cpu*100, b.cpu*100)
	}
	return w.Flush()
}

// percentiles are p50, p99 and the maximum.
func percentiles(v []float64) [3]float64 {
	v = slices.Sorted(slices.Values(v))
	return [3]float64{v[len(v)/2], v[len(v)*99/100], v[len(v)-1]}
}

func configRun(ctx context.Context, k kind, volumes, size int) (_ configResult, err error) {
	r := configResult{volumes: volumes, size: size}
	dir, err := os.MkdirTemp("", "orlop-bench-")
	if err != nil {
		return r, err
	}
	defer func() {
		_, derr := orlop(context.WithoutCancel(ctx), dir, "down", "--purge")
		err = errors.Join(err, derr)
	}()
	for _, args := range [][]string{append([]string{"up", "--netns"}, k.flags...), {"images", "import", benchImageFile}} {
		if _, err := orlop(ctx, dir, args...); err != nil {
			return r, err
		}
	}
	b, err := newConfigCluster(ctx, dir)
	if err != nil {
		return r, err
	}
	if err := b.pods(ctx, volumes, size); err != nil {
		return r, err
	}
	if r.watches, err = b.watches(ctx); err != nil {
		return r, err
	}
	if r.cpu, err = b.idle(ctx); err != nil {
		return r, err
	}
	if k.name == "plain" {
		// All at once: one after the other would take a minute each.
		r.latency, err = b.editAll(ctx, volumes, size)
		return r, err
	}
	for i := range 200 {
		took, patch, err := b.edit(ctx, i%volumes, i, size)
		if err != nil {
			return r, err
		}
		r.latency, r.patch = append(r.latency, took.Seconds()), append(r.patch, patch.Seconds())
	}
	return r, nil
}

type configCluster struct {
	dir    string
	status cluster.Status
	client kubernetes.Interface
}

func newConfigCluster(ctx context.Context, dir string) (*configCluster, error) {
	out, err := orlop(ctx, dir, "status", "-o", "json")
	if err != nil {
		return nil, err
	}
	b := &configCluster{dir: dir}
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

// value is what generation n of a volume's file holds; its first word tells them apart.
func value(n, size int) string {
	s := fmt.Sprintf("generation-%d ", n)
	return s + strings.Repeat("x", max(0, size-len(s)))
}

// pods makes the ConfigMaps and pods that mount them, and waits until all run.
func (b *configCluster) pods(ctx context.Context, volumes, size int) error {
	core := b.client.CoreV1()
	for first := 0; first < volumes; first += volumesPerPod {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("p%d", first)}, Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: new(int64),
			Containers:                    []corev1.Container{{Name: "c", Image: benchImage, Command: []string{"sleep", "1000000"}}}}}
		for i := first; i < min(first+volumesPerPod, volumes); i++ {
			cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name(i)}, Data: map[string]string{"f": value(-1, size)}}
			if _, err := core.ConfigMaps("default").Create(ctx, cm, metav1.CreateOptions{}); err != nil {
				return err
			}
			pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name(i), VolumeSource: corev1.VolumeSource{
				ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: name(i)}}}})
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
	found, err := filepath.Glob(filepath.Join(b.dir, "nodes/*/kubelet/pods/*/volumes/kubernetes.io~configmap", name(volume), "f"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("files of %s: %v, %w", name(volume), found, err)
	}
	return found[0], nil
}

func (b *configCluster) patch(ctx context.Context, volume, n, size int) error {
	patch := fmt.Appendf(nil, `{"data":{"f":%q}}`, value(n, size))
	_, err := b.client.CoreV1().ConfigMaps("default").Patch(ctx, name(volume), types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}

// shows reports whether the file holds generation n, by its first bytes.
func shows(file string, n int) (bool, error) {
	want := value(n, 0)
	f, err := os.Open(file)
	if err != nil {
		return false, err
	}
	got := make([]byte, len(want))
	_, err = f.Read(got)
	return string(got) == want, errors.Join(err, f.Close())
}

// edit changes one ConfigMap and returns how long the file took to change, from before the PATCH, and how long the
// PATCH took.
func (b *configCluster) edit(ctx context.Context, volume, n, size int) (took, patch time.Duration, err error) {
	file, err := b.file(volume)
	if err != nil {
		return 0, 0, err
	}
	sent := time.Now()
	answered := make(chan error, 1)
	go func() {
		err := b.patch(ctx, volume, n, size)
		patch = time.Since(sent)
		answered <- err
	}()
	tick := time.NewTicker(500 * time.Microsecond)
	defer tick.Stop()
	pending := true
	for {
		ok, err := shows(file, n)
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
func (b *configCluster) editAll(ctx context.Context, volumes, size int) ([]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, upstreamPatience)
	defer cancel()
	sent, files := map[int]time.Time{}, map[int]string{}
	for i := range volumes {
		file, err := b.file(i)
		if err != nil {
			return nil, err
		}
		files[i], sent[i] = file, time.Now()
		if err := b.patch(ctx, i, 0, size); err != nil {
			return nil, err
		}
	}
	var took []float64
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for len(files) > 0 {
		for i, file := range files {
			ok, err := shows(file, 0)
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

// watches counts the open watches of single ConfigMaps and Secrets. The kubelet's one watch of its pods that volumes with
// labels or annotations need is not among them; there are no such volumes here.
func (b *configCluster) watches(ctx context.Context) (int, error) {
	raw, err := b.client.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return 0, err
	}
	sum := 0
	for line := range strings.Lines(string(raw)) {
		if !strings.HasPrefix(line, "apiserver_longrunning_requests{") || !strings.Contains(line, `verb="WATCH"`) ||
			!strings.Contains(line, `scope="resource"`) {
			continue
		}
		for _, resource := range []string{"configmaps", "secrets"} {
			if strings.Contains(line, `resource="`+resource+`"`) {
				fields := strings.Fields(line)
				n, err := strconv.ParseFloat(fields[len(fields)-1], 64)
				if err != nil {
					return 0, err
				}
				sum += int(n)
			}
		}
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
