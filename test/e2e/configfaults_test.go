package e2e

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// soak returns the long form of a test's measure with SOAK=1, and says otherwise that it is left out.
func soak[T any](t *testing.T, what string, short, long T) T {
	t.Helper()
	if os.Getenv("SOAK") == "1" {
		return long
	}
	t.Logf("%s: %v; skipped is the long form of %v, which SOAK=1 runs", what, short, long)
	return short
}

// TestConfigFaults breaks the cluster under pods whose configuration is read all the time. Volumes show the last good
// generation or the newest: no file is ever missing, empty, partial or mixed, and no volume goes back. Afterwards all
// show the newest.
func TestConfigFaults(t *testing.T) {
	c := start(t)
	c.importImage("busybox")
	m := newMarks(c, "m1", "m2", "m3")
	m.start()
	m.edit()
	m.converge("nothing")
	for _, x := range []struct {
		name  string
		fault func(*marks)
	}{
		{"APIServerKilled", apiServerKilled}, {"APIServerHangs", apiServerHangs}, {"KubeletKilled", kubeletKilled},
		{"EtcdKilled", etcdKilled}, {"ObjectMadeAgain", objectMadeAgain}, {"ContainerdKilled", containerdKilled},
	} {
		began := time.Now()
		x.fault(m)
		if t.Failed() {
			t.Fatalf("in %s", x.name)
		}
		t.Logf("%s took %v", x.name, time.Since(began).Round(time.Millisecond))
	}
	for _, pod := range m.pods {
		if restarts := c.get("pod/"+pod, ".status.containerStatuses[0].restartCount"); restarts != "0" {
			t.Errorf("pod %s was restarted %s times", pod, restarts)
		}
	}
	c.orlop("config", "status", "--wait=60s")
	reads := int64(0)
	for _, r := range m.readers {
		reads += r.reads.Load()
	}
	t.Logf("%d edits, %d reads of %d volumes", m.n, reads, len(m.readers))
}

// apiServerKilled: an edit just before the API server is killed, and one as soon as it is back.
func apiServerKilled(m *marks) {
	for range soak(m.c.t, "the API server is killed (times)", 2, 20) {
		m.edit()
		kill(m.c.t, m.c.pidOf("kube-apiserver"))
		m.edit()
		m.converge("the API server was killed")
	}
}

// apiServerHangs: its connections stay open and bring nothing.
func apiServerHangs(m *marks) {
	outage := soak(m.c.t, "the API server hangs", 3*time.Second, 5*time.Minute)
	m.edit()
	stopped(m.c.t, m.c.pidOf("kube-apiserver"), func() {
		select {
		case <-time.After(outage):
		case <-m.c.t.Context().Done():
		}
		m.keepReading(10)
	})
	m.edit()
	m.converge("the API server hung")
}

// kubeletKilled: many times, at any step of its writer, while edits come as fast as the API server takes them.
func kubeletKilled(m *marks) {
	ctx, stop := context.WithCancel(m.c.t.Context())
	done := make(chan error, 1)
	go func() {
		for ctx.Err() == nil {
			m.n++
			if err := m.set(ctx, m.n); err != nil && ctx.Err() == nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for range soak(m.c.t, "the kubelet is killed (times)", 6, 60) {
		m.keepReading(100)
		kill(m.c.t, m.c.pidOf("kubelet"))
	}
	m.keepReading(100)
	stop()
	if err := <-done; err != nil {
		m.c.t.Errorf("an edit while the kubelet is killed: %v", err)
	}
	m.c.pidOf("kubelet")
	m.edit()
	m.converge("the kubelet was killed")
}

// etcdKilled: the API server is there and can neither read nor write.
func etcdKilled(m *marks) {
	for range soak(m.c.t, "etcd is killed (times)", 2, 10) {
		m.edit()
		kill(m.c.t, m.c.pidOf("etcd"))
		m.edit()
		m.converge("etcd was killed")
	}
}

// objectMadeAgain: the files of a ConfigMap that is gone stay, and those of one that is made again arrive.
func objectMadeAgain(m *marks) {
	maps := m.client.CoreV1().ConfigMaps("default")
	for range soak(m.c.t, "the ConfigMap is made again (times)", 3, 100) {
		m.try("delete the ConfigMap", func(ctx context.Context) error { return maps.Delete(ctx, "marks", metav1.DeleteOptions{}) })
		m.keepReading(20)
		m.n++
		m.create(m.n)
		m.try("set the other marks", func(ctx context.Context) error { return m.set(ctx, m.n) })
		m.converge("the ConfigMap was made again")
	}
}

// containerdKilled: volumes need no container runtime.
func containerdKilled(m *marks) {
	kill(m.c.t, m.c.pidOf("containerd"))
	m.edit()
	m.converge("containerd was killed")
	m.c.pidOf("containerd")
	m.c.eventually("a container answers", func() error {
		out, err := m.c.try("kubectl", "exec", m.pods[0], "--", "cat", "/cm/a")
		if err == nil && !strings.HasPrefix(out, markText(m.n)[:8]) {
			err = errors.New("the container sees " + out[:min(8, len(out))])
		}
		return err
	})
}
