package volumes

import (
	"context"
	"fmt"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/kubernetes/pkg/volume"
)

// TestOutages: whatever becomes of the API server and of the connection to it, files are the last good generation or
// the newest, and follow once there is somebody to follow. How soon is logged, not asserted.
func TestOutages(t *testing.T) {
	needRoot(t)
	t.Setenv("HTTP2_READ_IDLE_TIMEOUT_SECONDS", "5")
	t.Setenv("HTTP2_PING_TIMEOUT_SECONDS", "5")
	w := newWorld(t)
	proxy := newProxy(t, w.env.Config.Host)
	h := w.host(t.TempDir(), proxy.url())
	h.real()
	t.Cleanup(h.manager.stop)
	dirs := map[string]string{}
	volumes := map[string]v1.Volume{"disk": diskVolume, "memory": memoryVolume}
	for name, v := range volumes {
		dirs[name] = h.mounted(v, volume.MounterArgs{})
	}
	generation := 0
	edit := func() {
		generation++
		for _, v := range volumes {
			w.set(v, fmt.Sprint(generation))
		}
	}
	// converges waits until both volumes are of the newest generation; until then they are of an earlier one, whole.
	converges := func(after string) {
		t.Helper()
		start := time.Now()
		for name, dir := range dirs {
			last := ""
			err := wait.PollUntilContextTimeout(t.Context(), time.Millisecond, 2*time.Minute, true, func(context.Context) (bool, error) {
				got, err := whole(dir)
				last = got
				return got == fmt.Sprint(generation), err
			})
			if err != nil {
				t.Fatalf("%s: %s shows generation %q, want %d: %v", after, name, last, generation, err)
			}
		}
		t.Logf("%s: the newest after %v", after, time.Since(start).Round(time.Millisecond))
	}
	edit()
	converges("an edit")

	recreate := func() {
		for _, v := range volumes {
			w.remove(v)
		}
		edit()
	}
	recreate()
	converges("the objects were deleted and made again")
	proxy.lose()
	recreate()
	proxy.drop()
	proxy.find()
	converges("the objects were deleted and made again while nobody heard of it")

	proxy.lose()
	edit()
	w.env.Kill(t)
	proxy.drop()
	proxy.find()
	w.env.Restart(t)
	converges("the API server was killed after an edit that nobody heard of, and is ready")
	edit()
	converges("an edit after that")

	edit()
	w.env.Pause(t)
	w.env.Resume(t)
	converges("the API server was stopped for a moment just after an edit, and goes on")
	edit()
	converges("an edit after that")

	proxy.forget()
	edit()
	converges("the connection was lost silently, before an edit")

	proxy.lose()
	edit()
	stalled := time.NewTimer(20 * time.Second)
	<-stalled.C
	proxy.find()
	converges("nothing got through for 20 seconds, and now does")
	edit()
	converges("an edit after that")
}
