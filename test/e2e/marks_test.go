package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// A mark is a number that all files of one edit hold. marks edits a ConfigMap, a Secret and labels of pods, and reads what
// the pods' volumes make of them as fast as it can.
type marks struct {
	c      *testCluster
	client kubernetes.Interface
	pods   []string
	n      int64 // the last mark that was set

	readers []*markReader
}

// markPadding makes a file long enough to be seen in part, if it ever could be.
var markPadding = strings.Repeat("padding ", 512)

// markText is a whole file: its mark stands at both ends.
func markText(n int64) string { return fmt.Sprintf("%08d\n%s\n%08d\n", n, markPadding, n) }

// markOf returns the mark of a whole file.
func markOf(text string) (int64, error) {
	text = strings.TrimSpace(text)
	if label, ok := strings.CutPrefix(text, `mark="`); ok {
		return strconv.ParseInt(strings.TrimSuffix(label, `"`), 10, 64)
	}
	first, rest, _ := strings.Cut(text, "\n")
	n, err := strconv.ParseInt(first, 10, 64)
	if err != nil {
		return 0, err
	}
	if _, last, _ := strings.Cut(rest, "\n"); last != first || len(text) < len(markPadding) {
		return 0, fmt.Errorf("the file of %d bytes begins with %s and ends otherwise", len(text), first)
	}
	return n, nil
}

// markVolumes are the volumes of each pod, and their files by the object they are of.
var markVolumes = map[string][][]string{
	"kubernetes.io~configmap/cm":        {{"a", "b", "c"}},
	"kubernetes.io~secret/s":            {{"x", "y"}},
	"kubernetes.io~downward-api/labels": {{"labels"}},
	"kubernetes.io~projected/all":       {{"a", "deep/b", "c"}, {"x", "y"}, {"label"}},
}

func markPod(name string) string {
	return fmt.Sprintf(`
---
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {mark: "0"}}
spec:
  terminationGracePeriodSeconds: 0
  automountServiceAccountToken: false
  containers:
  - name: c
    image: %s
    command: [sleep, "1000000"]
    volumeMounts: [{name: cm, mountPath: /cm}, {name: s, mountPath: /s}, {name: labels, mountPath: /labels}, {name: all, mountPath: /all}]
  volumes:
  - {name: cm, configMap: {name: marks}}
  - {name: s, secret: {secretName: marks}}
  - {name: labels, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
  - name: all
    projected:
      sources:
      - configMap: {name: marks, items: [{key: a, path: a}, {key: b, path: deep/b}, {key: c, path: c}]}
      - secret: {name: marks}
      - downwardAPI: {items: [{path: label, fieldRef: {fieldPath: "metadata.labels['mark']"}}]}
`, name, busyboxImage)
}

// client is the administrator's, for what kubectl takes too long or tells too much.
func (c *testCluster) client() kubernetes.Interface {
	c.t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", c.status().Kubeconfig)
	if err != nil {
		c.t.Fatal(err)
	}
	config.QPS, config.Burst, config.Timeout = 1000, 1000, 10*time.Second
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		c.t.Fatal(err)
	}
	return client
}

// newMarks starts the pods. Nothing is read before start.
func newMarks(c *testCluster, pods ...string) *marks {
	c.t.Helper()
	m := &marks{c: c, client: c.client(), pods: pods}
	m.create(0)
	if _, err := m.client.CoreV1().Secrets("default").Create(c.t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "marks"},
		Data: map[string][]byte{"x": []byte(markText(0)), "y": []byte(markText(0))}}, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	manifests := ""
	for _, pod := range pods {
		manifests += markPod(pod)
	}
	c.apply(manifests)
	for _, pod := range pods {
		c.waitReady(pod)
		uid := c.get("pod/"+pod, ".metadata.uid")
		for volume, groups := range markVolumes {
			found, err := filepath.Glob(filepath.Join(c.dir, "nodes/*/kubelet/pods", uid, "volumes", volume))
			if err != nil || len(found) != 1 {
				c.t.Fatalf("volume %s of %s: %v, %v", volume, pod, found, err)
			}
			m.readers = append(m.readers, &markReader{dir: found[0], groups: groups, last: make([]atomic.Int64, len(groups))})
		}
	}
	return m
}

// create makes the ConfigMap.
func (m *marks) create(n int64) {
	m.c.t.Helper()
	m.try("create the ConfigMap", func(ctx context.Context) error {
		_, err := m.client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "marks"},
			Data: map[string]string{"a": markText(n), "b": markText(n), "c": markText(n)}}, metav1.CreateOptions{})
		return err
	})
}

// start begins to read, until the test ends. What a reader sees that must not be is an error of the test.
func (m *marks) start() {
	stop := make(chan struct{})
	var all sync.WaitGroup
	for _, r := range m.readers {
		all.Go(func() { r.run(m.c.t, stop) })
	}
	m.c.t.Cleanup(func() {
		close(stop)
		all.Wait()
		for _, r := range m.readers {
			if r.reads.Load() == 0 {
				m.c.t.Errorf("%s was never read", r.dir)
			}
		}
	})
}

// try does something until it succeeds: there may be no API server at the moment.
func (m *marks) try(what string, do func(context.Context) error) {
	m.c.t.Helper()
	m.c.eventually(what, func() error { return do(m.c.t.Context()) })
}

// edit sets the next mark, everywhere.
func (m *marks) edit() {
	m.c.t.Helper()
	m.n++
	m.try(fmt.Sprintf("the API server takes mark %d", m.n), func(ctx context.Context) error { return m.set(ctx, m.n) })
}

func (m *marks) set(ctx context.Context, n int64) error {
	core := m.client.CoreV1()
	patch := func(field string, keys ...string) []byte {
		var values []string
		for _, key := range keys {
			values = append(values, fmt.Sprintf("%q:%q", key, markText(n)))
		}
		return fmt.Appendf(nil, `{%q:{%s}}`, field, strings.Join(values, ","))
	}
	_, cerr := core.ConfigMaps("default").Patch(ctx, "marks", types.MergePatchType, patch("data", "a", "b", "c"), metav1.PatchOptions{})
	_, serr := core.Secrets("default").Patch(ctx, "marks", types.MergePatchType, patch("stringData", "x", "y"), metav1.PatchOptions{})
	err := errors.Join(cerr, serr)
	for _, pod := range m.pods {
		label := fmt.Appendf(nil, `{"metadata":{"labels":{"mark":"%d"}}}`, n)
		_, perr := core.Pods("default").Patch(ctx, pod, types.MergePatchType, label, metav1.PatchOptions{})
		err = errors.Join(err, perr)
	}
	return err
}

// converge waits until all volumes show the last mark, and tells how long that took.
func (m *marks) converge(after string) {
	m.c.t.Helper()
	began := time.Now()
	m.c.eventually(fmt.Sprintf("all volumes show mark %d after %s", m.n, after), func() error {
		for _, r := range m.readers {
			for i := range r.last {
				if got := r.last[i].Load(); got != m.n {
					return fmt.Errorf("%s shows mark %d", filepath.Join(r.dir, r.groups[i][0]), got)
				}
			}
		}
		return nil
	})
	m.c.t.Logf("%s: all %d volumes are current %v after the API server took the last edit", after, len(m.readers),
		time.Since(began).Round(time.Millisecond))
}

// keepReading waits until every volume was read so many times more.
func (m *marks) keepReading(times int64) {
	m.c.t.Helper()
	var want []int64
	for _, r := range m.readers {
		want = append(want, r.reads.Load()+times)
	}
	m.c.eventually("all volumes are read", func() error {
		for i, r := range m.readers {
			if got := r.reads.Load(); got < want[i] {
				return fmt.Errorf("%s was read %d times of %d", r.dir, got, want[i])
			}
		}
		return nil
	})
}

// markReader reads one volume on the host.
type markReader struct {
	dir    string
	groups [][]string
	last   []atomic.Int64 // the mark of each group
	reads  atomic.Int64
}

func (r *markReader) run(t *testing.T, stop <-chan struct{}) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		if err := r.read(); err != nil {
			t.Errorf("%s, read %d: %v", r.dir, r.reads.Load(), err)
			return // one is enough
		}
		r.reads.Add(1)
	}
}

// read pins a generation and reads all its files, and one by its visible name. It fails for a file that is missing,
// empty or partial, for marks that are mixed, and for one that goes back.
func (r *markReader) read() error {
	generation, err := os.Readlink(filepath.Join(r.dir, "..data"))
	if err != nil {
		return err
	}
	for i, files := range r.groups {
		mark := int64(-1)
		for _, file := range files {
			raw, err := os.ReadFile(filepath.Join(r.dir, generation, file))
			if err != nil {
				return err
			}
			n, err := markOf(string(raw))
			if file == "label" {
				n, err = strconv.ParseInt(string(raw), 10, 64)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			if mark >= 0 && n != mark {
				return fmt.Errorf("mixed: %s has mark %d, another file of %s %d", file, n, generation, mark)
			}
			mark = n
		}
		if before := r.last[i].Swap(mark); mark < before {
			return fmt.Errorf("%s went back from mark %d to %d", files[0], before, mark)
		}
	}
	if _, err := os.ReadFile(filepath.Join(r.dir, r.groups[0][0])); err != nil {
		return err
	}
	return nil
}
