package supervisor

import (
	"context"
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// trap is a script that notes its end in file and says that it is up once it is ready for the signal.
func trap(name, file string) string {
	return "trap 'echo " + name + " >>" + file + "; exit 0' TERM; echo up; while :; do sleep 0.01; done"
}

func TestStopOrderIsReverse(t *testing.T) {
	var j journal
	file := t.TempDir() + "/order"
	stopped := func(name string) func(context.Context) error {
		return func(context.Context) error { j.note("prestop " + name); return nil }
	}
	// The pods' runtime is not waited for by the API server but needed by it; see Uses.
	etcd := sh("etcd", trap("etcd", file))
	runtime := sh("runtime", trap("runtime", file))
	runtime.PreStop = stopped("runtime")
	api := sh("api", trap("api", file))
	api.Uses = []string{"etcd"}
	kubelet := sh("kubelet", trap("kubelet", file), "runtime", "api")
	kubelet.PreStop = stopped("kubelet")
	r := start(t, etcd, runtime, api, kubelet)
	for _, name := range []string{"etcd", "runtime", "api", "kubelet"} {
		r.awaitState(name, Ready)
		awaitLog(t, r, name, "up")
	}
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	order := strings.Fields(read(t, file))
	before := func(a, b string) bool { return slices.Index(order, a) < slices.Index(order, b) }
	if len(order) != 4 || !before("kubelet", "runtime") || !before("kubelet", "api") || !before("api", "etcd") {
		t.Errorf("they ended in the order %v", order)
	}
	if got, want := j.all(), []string{"prestop kubelet", "prestop runtime"}; !slices.Equal(got, want) {
		t.Errorf("noted %q, want %q", got, want)
	}
}

func TestStubbornProcessIsKilled(t *testing.T) {
	stubborn := sh("stubborn", "trap '' TERM; echo deaf; while :; do sleep 0.01; done")
	stubborn.StopTimeout = 50 * time.Millisecond
	r := start(t, stubborn)
	// It must be deaf before it is asked to end.
	pid := r.awaitState("stubborn", Ready).PID
	awaitLog(t, r, "stubborn", "deaf")
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d is still there: %v", pid, err)
	}
}

func TestEndOfStopContextKillsAtOnce(t *testing.T) {
	stubborn := sh("stubborn", "trap '' TERM; echo deaf; while :; do sleep 0.01; done")
	stubborn.StopTimeout = time.Hour
	hanging := make(chan struct{})
	stubborn.PreStop = func(ctx context.Context) error {
		close(hanging)
		<-ctx.Done()
		return ctx.Err()
	}
	r := start(t, stubborn)
	r.awaitState("stubborn", Ready)
	awaitLog(t, r, "stubborn", "deaf")
	r.stop()
	<-hanging
	r.kill()
	if err := r.end(); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "stubborn") {
		t.Errorf("Run returned %v", err)
	}
}

func TestPreStopErrorIsReported(t *testing.T) {
	a := sh("a", forever)
	a.PreStop = func(context.Context) error { return errors.New("pod web-0 does not end") }
	r := start(t, a)
	r.awaitState("a", Ready)
	if err := r.end(); err == nil || err.Error() != "a: pod web-0 does not end" {
		t.Errorf("Run returned %v", err)
	}
	if s := r.of("a"); s.State != Stopped {
		t.Errorf("it is %s", s.State)
	}
}

// Whatever a process is about when the stop comes, Run ends.
func TestStopAtAnyTime(t *testing.T) {
	never := func(context.Context) error { return errors.New("never") }
	gated, unready, failing := sh("gated", forever), sh("unready", forever), sh("failing", "exit 1")
	gated.Gate, unready.Ready = never, never
	behind := sh("behind", forever, "unready")
	for _, tt := range []struct {
		name  string
		specs []Spec
		of    string
		at    func(Status) bool
	}{
		{"at the gate", []Spec{gated}, "gated", func(s Status) bool { return s.Reason == "never" }},
		{"before it is ready", []Spec{unready, behind}, "unready", func(s Status) bool { return s.Reason == "never" }},
		{"in the backoff", []Spec{failing}, "failing", func(s Status) bool { return s.State == Failed && s.Restarts > 2 }},
		{"at the very start", []Spec{sh("a", forever)}, "a", func(Status) bool { return true }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := start(t, tt.specs...)
			r.await(tt.of, tt.at)
			if err := r.end(); err != nil {
				t.Fatal(err)
			}
			for _, spec := range tt.specs {
				if s := r.of(spec.Name); s.State != Stopped || s.PID != 0 {
					t.Errorf("%+v", s)
				}
			}
		})
	}
}

// awaitLog waits until a line is in the process's log.
func awaitLog(t *testing.T, r *running, name, line string) {
	t.Helper()
	tick, deadline := time.NewTicker(time.Millisecond), time.After(patience)
	defer tick.Stop()
	for !slices.Contains(r.byName[name].log.last(), line) {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s never said %q", name, line)
		}
	}
}
