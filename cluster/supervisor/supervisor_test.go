package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience is what a test waits for what should take moments, before it fails.
const patience = 30 * time.Second

// forever is a shell's way to stay until a signal ends it, without a child that would be left.
const forever = `exec sleep infinity`

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		os.Exit(play(role))
	}
	goleak.VerifyTestMain(m)
}

func sh(name, script string, after ...string) Spec {
	return Spec{Name: name, Path: "/bin/sh", Args: []string{"-c", script}, After: after}
}

// running is a supervisor that runs for the length of a test.
type running struct {
	*Supervisor
	t        *testing.T
	stop     context.CancelFunc // begins the stop
	kill     context.CancelFunc // ends the patience of the stop
	finished chan struct{}
	err      error // of Run, once finished is closed
}

func start(t *testing.T, specs ...Spec) *running {
	t.Helper()
	s, err := New(specs, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stopCtx, kill := context.WithCancel(context.Background())
	r := &running{Supervisor: s, t: t, stop: stop, kill: kill, finished: make(chan struct{})}
	go func() {
		defer close(r.finished)
		r.err = s.Run(ctx, stopCtx)
	}()
	t.Cleanup(func() {
		stop()
		kill()
		<-r.finished
	})
	return r
}

// end stops the supervisor and returns what Run returned.
func (r *running) end() error {
	r.t.Helper()
	r.stop()
	select {
	case <-r.finished:
	case <-time.After(patience):
		statuses, _ := r.Status()
		r.t.Fatalf("the stop does not end: %+v", statuses)
	}
	return r.err
}

func (r *running) of(name string) Status {
	statuses, _ := r.Status()
	return statuses[slices.IndexFunc(statuses, func(s Status) bool { return s.Name == name })]
}

// await waits, woken by changes alone, until the process's status is as wanted.
func (r *running) await(name string, want func(Status) bool) Status {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		_, version := r.Status()
		if s := r.of(name); want(s) {
			return s
		}
		if ctx.Err() != nil {
			r.t.Fatalf("%s does not get there: %+v", name, r.of(name))
		}
		r.Wait(ctx, version)
	}
}

func (r *running) awaitState(name string, state State) Status {
	r.t.Helper()
	return r.await(name, func(s Status) bool { return s.State == state })
}

// journal notes what happens in which order.
type journal struct {
	mu     sync.Mutex
	events []string
}

func (j *journal) note(event string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !slices.Contains(j.events, event) {
		j.events = append(j.events, event)
	}
}

func (j *journal) all() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.events)
}

func TestStartOrderIsThatOfReadiness(t *testing.T) {
	var j journal
	dir := t.TempDir()
	ready := make(chan struct{})
	first := sh("first", "echo first >>"+dir+"/order; echo up; "+forever)
	first.Ready = func(context.Context) error {
		j.note("asked")
		select {
		case <-ready:
			return nil
		default:
			return errors.New("still loading")
		}
	}
	second := sh("second", "echo second >>"+dir+"/order; echo up; "+forever, "first")
	r := start(t, first, second)

	s := r.await("first", func(s Status) bool { return s.Reason != "" })
	if s.State != Starting || s.Reason != "still loading" || s.PID == 0 {
		t.Errorf("while not ready: %+v", s)
	}
	if s := r.of("second"); s.State != Waiting || s.PID != 0 {
		t.Errorf("second did not wait: %+v", s)
	}
	close(ready)
	r.awaitState("second", Ready)
	awaitLog(t, r, "second", "up")
	if s := r.of("first"); s.State != Ready || s.Reason != "" || s.Took <= 0 {
		t.Errorf("once ready: %+v", s)
	}
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	if got := read(t, dir+"/order"); got != "first\nsecond\n" {
		t.Errorf("started in the order %q", got)
	}
	for _, name := range []string{"first", "second"} {
		if s := r.of(name); s.State != Stopped || s.PID != 0 {
			t.Errorf("after the stop: %+v", s)
		}
	}
}

func TestGateHoldsUpTheStart(t *testing.T) {
	var open sync.Map
	gated := sh("gated", forever)
	gated.Gate = func(context.Context) error {
		if _, ok := open.Load("open"); !ok {
			return errors.New("the node has no address")
		}
		return nil
	}
	r := start(t, gated)
	s := r.await("gated", func(s Status) bool { return s.Reason != "" })
	if s.State != Waiting || s.PID != 0 || s.Reason != "the node has no address" {
		t.Errorf("before the gate: %+v", s)
	}
	open.Store("open", true)
	if s := r.awaitState("gated", Ready); s.Reason != "" {
		t.Errorf("behind the gate: %+v", s)
	}
}

func TestProbeIsGivenProbeTimeout(t *testing.T) {
	given := make(chan time.Duration, 1)
	slow := sh("slow", forever)
	slow.ProbeTimeout = time.Hour
	slow.Ready = func(ctx context.Context) error {
		deadline, _ := ctx.Deadline()
		given <- time.Until(deadline)
		<-ctx.Done() // a probe that hangs until it is told to end
		return ctx.Err()
	}
	r := start(t, slow)
	if d := <-given; d < time.Minute {
		t.Errorf("the probe was given %s", d)
	}
	// The stop ends a probe at once, whatever time it has.
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
}

func TestKilledProcessIsStartedAgain(t *testing.T) {
	r := start(t, sh("a", forever), sh("b", forever, "a"))
	a, b := r.awaitState("a", Ready), r.awaitState("b", Ready)
	if err := syscall.Kill(a.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	again := r.await("a", func(s Status) bool { return s.Restarts == 1 && s.State == Ready })
	if again.PID == a.PID || again.PID == 0 {
		t.Errorf("the process that was started again has pid %d", again.PID)
	}
	if now := r.of("b"); now.PID != b.PID || now.Restarts != 0 {
		t.Errorf("b was disturbed: %+v", now)
	}
}

func TestProcessThatCannotStart(t *testing.T) {
	dir := t.TempDir()
	notExecutable := filepath.Join(dir, "file")
	if err := os.WriteFile(notExecutable, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		spec   Spec
		reason string // all of it, or what is in it
		log    []string
	}{
		{"missing binary", Spec{Path: dir + "/missing"}, "cannot be started: fork/exec " + dir + "/missing: no such file", nil},
		{"not executable", Spec{Path: notExecutable}, "permission denied", nil},
		{"exits at once", sh("", "echo reading; echo no such flag >&2; exit 3"), "exited with status 3",
			[]string{"reading", "no such flag"}},
		{"ends well", sh("", "echo done"), "ended by itself with status 0", []string{"done"}},
		{"kills itself", sh("", "kill -SEGV $$"), `was ended by signal "segmentation fault"`, nil},
		{"last line open", sh("", "printf panic; exit 2"), "exited with status 2", []string{"panic"}},
		// Its child keeps the log open; it counts as ended all the same.
		{"leaves a child", sh("", "sleep infinity & echo $! >"+dir+"/child"), "ended by itself with status 0", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.spec.Name = "x"
			r := start(t, tt.spec)
			s := r.awaitState("x", Failed)
			if !strings.Contains(s.Reason, tt.reason) || s.PID != 0 || s.Restarts == 0 {
				t.Errorf("status is %+v, want the reason %q", s, tt.reason)
			}
			if len(tt.log) > 0 && !slices.Equal(s.LastLog[:min(len(tt.log), len(s.LastLog))], tt.log) {
				t.Errorf("last log lines are %q, want %q", s.LastLog, tt.log)
			}
			// And it is tried again.
			r.await("x", func(s Status) bool { return s.Restarts >= 2 })
			if err := r.end(); err != nil {
				t.Fatal(err)
			}
			killLeftOver(t, dir+"/child")
		})
	}
}

// killLeftOver ends the grandchild whose pid is in file, if there is one: the supervisor stops what it started itself.
func killLeftOver(t *testing.T, file string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		return
	}
	var pid int
	if _, err := fmt.Sscan(string(data), &pid); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Error(err)
	}
}

func TestBackoffGrows(t *testing.T) {
	dir := t.TempDir()
	r := start(t, sh("x", "date +%s%N >>"+dir+"/starts; exit 1"))
	r.await("x", func(s Status) bool { return s.Restarts >= 5 })
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	var starts []int64
	for line := range strings.Lines(read(t, dir+"/starts")) {
		var n int64
		if _, err := fmt.Sscan(line, &n); err != nil {
			t.Fatal(err)
		}
		starts = append(starts, n)
	}
	// A lower bound holds on the busiest machine: from start to start at least the wait between the two.
	want := minBackoff
	for i := 1; i < len(starts); i++ {
		if gap := time.Duration(starts[i] - starts[i-1]); gap < want*9/10 {
			t.Errorf("start %d followed after %s, want at least %s", i, gap, want)
		}
		want *= 2
	}
}

func TestNewRefuses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		specs  []Spec
		reason string
	}{
		{"a name twice", []Spec{{Name: "a"}, {Name: "a"}}, "process a is described twice"},
		{"an unknown dependency", []Spec{{Name: "a", After: []string{"b"}}}, "process a needs b, which is not described before it"},
		{"a cycle", []Spec{{Name: "a", Uses: []string{"b"}}, {Name: "b", After: []string{"a"}}}, "a needs b"},
		{"a log that cannot be made", []Spec{{Name: "a"}, {Name: "b/c"}}, "log of b/c"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := New(tt.specs, t.TempDir()); err == nil || !strings.Contains(err.Error(), tt.reason) {
				t.Errorf("got %v, want %q", err, tt.reason)
			}
		})
	}
}

func TestWaitAndVersions(t *testing.T) {
	r := start(t, sh("a", forever))
	r.awaitState("a", Ready)
	_, version := r.Status()

	// A version that is past already is answered at once.
	r.Wait(t.Context(), version-1)

	// The present one is answered by the next change.
	woken := make(chan struct{})
	go func() { r.Wait(context.Background(), version); close(woken) }()
	r.Touch()
	<-woken
	if _, now := r.Status(); now <= version {
		t.Errorf("version went from %d to %d", version, now)
	}

	// One still to come is answered by the end of the context.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r.Wait(ctx, version+1000)

	if err := r.WaitReady(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	if err := r.WaitReady(t.Context(), "b"); err == nil || !strings.Contains(err.Error(), "no process b") {
		t.Errorf("waiting for an unknown process: %v", err)
	}
}
