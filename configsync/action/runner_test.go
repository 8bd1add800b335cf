package action

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
)

// fakeRuntime has the containers app, which mounts the volume "v", side, which mounts a part of it, and other.
type fakeRuntime struct {
	mu         sync.Mutex
	containers []Container
	calls      []string
	// fail, when not nil, decides what a call returns.
	fail func(call string) error
	// began is told of each call, which then waits for the test.
	began, goOn chan struct{}
}

func newFake() *fakeRuntime {
	return &fakeRuntime{containers: []Container{
		{ID: "1", Name: "app", Mounts: []string{"/vols/v", "/x"}, Grace: 7 * time.Second,
			Ports: []corev1.ContainerPort{{Name: "admin", ContainerPort: 1}}},
		{ID: "2", Name: "side", Mounts: []string{"/subpaths/v/side/0"}, Ports: []corev1.ContainerPort{{Name: "admin", ContainerPort: 2}}},
		{ID: "3", Name: "other", Mounts: []string{"/vols/v2"}},
	}}
}

func (f *fakeRuntime) call(ctx context.Context, call string) error {
	f.mu.Lock()
	f.calls = append(f.calls, call)
	fail := f.fail
	f.mu.Unlock()
	if f.began != nil {
		f.began <- struct{}{}
		select {
		case <-f.goOn:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if fail != nil {
		return fail(call)
	}
	return nil
}

func (f *fakeRuntime) made() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

func (f *fakeRuntime) Containers(_ context.Context, podUID string) ([]Container, error) {
	if podUID != "uid" {
		return nil, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		if err := f.fail("containers"); errors.Is(err, ErrUnavailable) {
			return nil, err
		}
	}
	return slices.Clone(f.containers), nil
}

func (f *fakeRuntime) Address(context.Context, string) (string, error) { return "", nil }

func (f *fakeRuntime) Exec(ctx context.Context, id string, command []string, timeout time.Duration) (int, error) {
	err := f.call(ctx, fmt.Sprintf("exec %s %s %v", id, strings.Join(command, " "), timeout))
	if code := (exitCode{}); errors.As(err, &code) {
		return code.code, nil
	}
	return 0, err
}

type exitCode struct{ code int }

func (e exitCode) Error() string { return "exit" }

func (f *fakeRuntime) Signal(ctx context.Context, id string, s Signal) error {
	return f.call(ctx, fmt.Sprintf("%s %s", s, id))
}

func (f *fakeRuntime) Stop(ctx context.Context, id string, grace time.Duration) error {
	return f.call(ctx, fmt.Sprintf("stop %s %v", id, grace))
}

// bench is a Runner on a fake runtime, in a bubble of synctest: its time passes as soon as everybody waits.
type bench struct {
	*Runner

	t       *testing.T
	runtime *fakeRuntime
	events  *record.FakeRecorder
	done    int
	mu      sync.Mutex
}

func run(t *testing.T, test func(b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{t: t, runtime: newFake(), events: record.NewFakeRecorder(1000)}
		b.Runner = NewRunner(Options{Runtime: b.runtime, Recorder: b.events, HostIP: "127.0.0.1"})
		defer b.Close()
		test(b)
	})
}

var pod = Pod{Namespace: "ns", Name: "p", UID: "uid", Containers: map[string]bool{"app": true, "side": true, "other": true}}

func volumeOf(name string) Volume {
	return Volume{Name: name, Dirs: []string{"/vols/" + name, "/subpaths/" + name}}
}

// change reports a change of a volume to a pod with the annotation's value and options.
func (b *bench) change(volume, value string, options ...string) {
	b.t.Helper()
	annotations := map[string]string{onChange: value}
	for i := 0; i < len(options); i += 2 {
		annotations[onChange+options[i]] = options[i+1]
	}
	s, err := Parse(annotations)
	if err != nil {
		b.t.Fatal(err)
	}
	b.Changed(Change{Pod: pod, Volume: volumeOf(volume), Spec: s, Done: func() {
		b.mu.Lock()
		b.done++
		b.mu.Unlock()
	}})
}

func (b *bench) want(calls ...string) {
	b.t.Helper()
	if got := b.runtime.made(); !slices.Equal(got, calls) {
		b.t.Errorf("the runtime was asked for %q, want %q", got, calls)
	}
}

func (b *bench) wantDone(n int) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.done != n {
		b.t.Errorf("%d changes are done, want %d", b.done, n)
	}
}

func (b *bench) said() []string {
	var events []string
	for {
		select {
		case e := <-b.events.Events:
			events = append(events, e)
		default:
			return events
		}
	}
}

func (b *bench) wantSaid(events ...string) {
	b.t.Helper()
	if got := b.said(); !slices.Equal(got, events) {
		b.t.Errorf("events are\n%q\nwant\n%q", got, events)
	}
}

// later lets time pass, and what is to be done in it.
func later(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestTargets(t *testing.T) {
	for value, want := range map[string][]string{
		"signal=SIGHUP":                         {"SIGHUP 1", "SIGHUP 2"},
		"signal=SIGHUP,container=side":          {"SIGHUP 2"},
		"signal=SIGHUP,container=other":         {"SIGHUP 3"},
		"exec=reload now,container=app":         {"exec 1 reload now 30s"},
		"restart-container,container=app":       {"stop 1 7s"},
		"signal=SIGHUP,container=none":          nil,
		`exec=["a b","c"],container=other`:      {"exec 3 a b c 30s"},
		"restart-container,container=side":      {"stop 2 0s"},
		"http=:nonesuch/":                       nil,
		"http=:admin/,container=other":          nil,
		"http=:admin/":                          nil,
		"https=GET :nonesuch/x,container=other": nil,
	} {
		t.Run(value, func(t *testing.T) {
			run(t, func(b *bench) {
				b.change("v", value, "-retries", "0")
				later(time.Minute)
				b.want(want...)
				b.wantDone(1)
				events := b.said()
				if kind := "Normal ConfigChangeApplied Volume v changed: "; want != nil && (len(events) != 1 || !strings.HasPrefix(events[0], kind)) {
					t.Errorf("events are %q", events)
				}
				if kind := "Warning ConfigChangeFailed Volume v changed: "; want == nil && (len(events) != 1 || !strings.HasPrefix(events[0], kind)) {
					t.Errorf("events are %q", events)
				}
			})
		})
	}
	// Nobody mounts the volume, or runs: nothing is to be done, and nothing to be said.
	run(t, func(b *bench) {
		b.change("v3", "signal=SIGHUP")
		later(time.Minute)
		b.runtime.containers = nil
		b.change("v", "http=:80/")
		b.change("v", "signal=SIGHUP")
		later(time.Minute)
		b.want()
		b.wantDone(3)
		b.wantSaid()
	})
}

func TestDebounce(t *testing.T) {
	run(t, func(b *bench) {
		// Several volumes changed by one edit are one action.
		b.change("v", "signal=SIGHUP,container=app")
		b.change("w", "signal=SIGHUP,container=app")
		later(DefaultDebounce - time.Millisecond)
		b.want()
		later(time.Millisecond)
		b.want("SIGHUP 1")
		b.wantDone(2)
		b.wantSaid("Normal ConfigChangeApplied Volumes v, w changed: SIGHUP to container app")
		if len(b.entries) != 0 {
			t.Errorf("%d entries are left", len(b.entries))
		}
		// Each edit puts the action off, but not for ever.
		for range 100 {
			b.change("v", "signal=SIGHUP,container=app", "-debounce", "1s")
			later(900 * time.Millisecond)
		}
		if n := len(b.runtime.made()) - 1; n < 8 || n > 10 {
			t.Errorf("100 edits in 90 s were %d actions", n)
		}
		later(time.Minute)
		b.wantDone(102)
		// Different actions of a pod do not wait for one another.
		b.runtime.calls = nil
		b.change("v", "signal=SIGHUP,container=app", "-debounce", "1m")
		b.change("w", "signal=SIGUSR1,container=app")
		later(time.Second)
		b.want("SIGUSR1 1")
		later(time.Minute)
		b.want("SIGUSR1 1", "SIGHUP 1")
	})
}

// However many edits arrive while an action runs, exactly one more follows.
func TestEditWhileRunning(t *testing.T) {
	run(t, func(b *bench) {
		b.runtime.began, b.runtime.goOn = make(chan struct{}), make(chan struct{})
		b.change("v", "exec=a,container=app")
		<-b.runtime.began
		for range 5 {
			b.change("v", "exec=a,container=app")
			later(time.Second)
		}
		b.wantDone(0)
		b.runtime.goOn <- struct{}{}
		<-b.runtime.began
		b.wantDone(1)
		b.runtime.goOn <- struct{}{}
		later(time.Hour)
		b.want("exec 1 a 30s", "exec 1 a 30s")
		b.wantDone(6)
	})
}

func TestRetries(t *testing.T) {
	run(t, func(b *bench) {
		b.runtime.fail = func(string) error { return exitCode{3} }
		b.change("v", "exec=a,container=app", "-retries", "3")
		later(time.Hour)
		b.want("exec 1 a 30s", "exec 1 a 30s", "exec 1 a 30s", "exec 1 a 30s")
		b.wantDone(1)
		b.wantSaid(`Warning ConfigChangeFailed Volume v changed: "a" in container app: exit code 3; trying again`,
			`Warning ConfigChangeFailed Volume v changed: "a" in container app: exit code 3; given up after attempt 4, until the next change`)
	})
	// What succeeded is not done again for another container that failed.
	run(t, func(b *bench) {
		failures := 2
		b.runtime.fail = func(call string) error {
			if call == "SIGHUP 2" && failures > 0 {
				failures--
				return ErrUnhandled
			}
			return nil
		}
		b.change("v", "signal=SIGHUP")
		later(time.Hour)
		b.want("SIGHUP 1", "SIGHUP 2", "SIGHUP 2", "SIGHUP 2")
		b.wantDone(1)
	})
	// A container that ended, and one that cannot be restarted, are not tried again.
	run(t, func(b *bench) {
		pod.Containers["side"] = false
		defer func() { pod.Containers["side"] = true }()
		b.runtime.fail = func(string) error { return fmt.Errorf("stop: %w", ErrNotRunning) }
		b.change("v", "restart-container")
		later(time.Hour)
		b.want("stop 1 7s")
		b.wantDone(1)
		b.wantSaid("Warning ConfigChangeFailed Volume v changed: restart of container side: it needs restartPolicy Always: " +
			"with another the container might not be started again; given up after attempt 1, until the next change")
	})
	// An edit while a failed action waits to be tried again begins anew, with all that changed.
	run(t, func(b *bench) {
		b.runtime.fail = func(string) error { return exitCode{1} }
		b.change("v", "exec=a,container=app", "-retries", "20")
		later(10 * time.Second)
		b.runtime.fail = nil
		b.change("w", "exec=a,container=app", "-retries", "20")
		n := len(b.runtime.made())
		later(DefaultDebounce)
		if got := len(b.runtime.made()) - n; got != 1 {
			t.Errorf("%d more actions, want 1", got)
		}
		b.wantDone(2)
	})
}

// A runtime that is away is waited for, however long.
func TestRuntimeAway(t *testing.T) {
	run(t, func(b *bench) {
		b.runtime.fail = func(call string) error {
			if call == "containers" {
				return fmt.Errorf("list: %w", ErrUnavailable)
			}
			return nil
		}
		b.change("v", "signal=SIGHUP,container=app", "-retries", "0")
		later(time.Hour)
		b.wantDone(0)
		b.wantSaid("Warning ConfigChangeFailed Volume v changed: list: the container runtime cannot be reached; trying again")
		b.runtime.mu.Lock()
		b.runtime.fail = nil
		b.runtime.mu.Unlock()
		later(time.Minute)
		b.want("SIGHUP 1")
		b.wantDone(1)
	})
}

// What is cancelled is not done: a Tracker would have it done after a restart.
func TestForgetAndClose(t *testing.T) {
	for name, end := range map[string]func(*bench){"forget": func(b *bench) { b.Forget("uid") }, "close": func(b *bench) { b.Close() }} {
		t.Run(name, func(t *testing.T) {
			run(t, func(b *bench) {
				b.change("v", "signal=SIGHUP,container=app")
				end(b)
				later(time.Hour)
				b.want()
				b.wantDone(0)
			})
			run(t, func(b *bench) {
				b.runtime.began, b.runtime.goOn = make(chan struct{}), make(chan struct{})
				b.change("v", "exec=a,container=app")
				<-b.runtime.began
				end(b)
				later(time.Hour)
				b.want("exec 1 a 30s")
				b.wantDone(0)
				b.wantSaid()
				if name == "forget" {
					b.runtime.began = nil
					b.change("v", "exec=a,container=app")
					later(time.Second)
					b.wantDone(1)
				}
			})
			run(t, func(b *bench) {
				b.runtime.fail = func(string) error { return exitCode{1} }
				b.change("v", "exec=a,container=app")
				later(time.Second)
				end(b)
				n := len(b.runtime.made())
				later(time.Hour)
				if got := len(b.runtime.made()); got != n {
					t.Errorf("%d attempts after the end", got-n)
				}
				b.wantDone(0)
			})
		})
	}
	run(t, func(b *bench) {
		b.Close()
		b.change("v", "signal=SIGHUP")
		later(time.Hour)
		b.want()
	})
}

// Not more than so many actions run at the same time.
func TestConcurrency(t *testing.T) {
	run(t, func(b *bench) {
		b.runtime.began, b.runtime.goOn = make(chan struct{}, 100), make(chan struct{})
		for i := range 3 * DefaultConcurrency {
			b.change("v", fmt.Sprintf("exec=%d,container=app", i))
		}
		later(time.Minute)
		if n := len(b.runtime.made()); n != DefaultConcurrency {
			t.Errorf("%d actions run", n)
		}
		close(b.runtime.goOn)
		later(time.Minute)
		b.wantDone(3 * DefaultConcurrency)
	})
}

// An edit storm is not one of events, and the pod's other events are heard after it.
func TestEventStorm(t *testing.T) {
	run(t, func(b *bench) {
		for range 1000 {
			b.change("v", "signal=SIGHUP,container=app")
			later(time.Second)
		}
		if n := len(b.runtime.made()); n != 1000 {
			t.Errorf("%d actions", n)
		}
		if n := len(b.said()); n < burst || n > burst+int(1000*time.Second/interval)+1 {
			t.Errorf("%d events", n)
		}
		later(time.Hour)
		b.Runner.events.allow(bucketKey{"another", "x"})
		if n := len(b.Runner.events.buckets); n != 1 {
			t.Errorf("%d counts of events are kept", n)
		}
	})
}

func TestPreStop(t *testing.T) {
	run(t, func(b *bench) {
		b.runtime.containers[0].PreStop = &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"bye"}}}
		b.change("v", "restart-container,container=app")
		later(time.Minute)
		b.want("exec 1 bye 7s", "stop 1 7s")
	})
	// The time of the hook is of the grace period; two seconds are always left.
	for seconds, left := range map[int64]string{3: "4s", 6: "2s", 60: "2s"} {
		run(t, func(b *bench) {
			b.runtime.containers[0].PreStop = &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: seconds}}
			b.change("v", "restart-container,container=app")
			later(time.Hour)
			b.want("stop 1 " + left)
		})
	}
}
