package config

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/orlop-io/orlop/configsync/action"
	csivolume "github.com/orlop-io/orlop/csi/volume"
)

// fakeRuntime has one container, which mounts what it is told, and notes what is done to it.
type fakeRuntime struct {
	mu     sync.Mutex
	mounts []string
	calls  []string
	fail   error
}

func (f *fakeRuntime) Containers(context.Context, string) ([]action.Container, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return []action.Container{{ID: "1", Name: "c", Mounts: slices.Clone(f.mounts)}}, nil
}

func (f *fakeRuntime) Address(context.Context, string) (string, error) { return "", nil }

func (f *fakeRuntime) Exec(_ context.Context, _ string, command []string, _ time.Duration) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, strings.Join(command, " "))
	return 0, f.fail
}

func (f *fakeRuntime) Signal(context.Context, string, action.Signal) error { return nil }

func (f *fakeRuntime) Stop(context.Context, string, time.Duration) error { return nil }

func (f *fakeRuntime) set(fail error, mounts ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail, f.mounts = fail, mounts
}

// acted waits until the command ran so often.
func (f *fakeRuntime) acted(t *testing.T, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("the command ran %d times", n), func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		if len(f.calls) != n {
			return fmt.Errorf("it ran %d times", len(f.calls))
		}
		return nil
	})
}

// act has the next driver act through f.
func (w *world) act(f *fakeRuntime) (end func()) {
	runner := action.NewRunner(action.Options{Runtime: f, Recorder: w.events})
	w.actions = runner
	return runner.Close
}

// marked waits until nothing of the volume is left to be acted on.
func (p *pod) marked() {
	p.w.t.Helper()
	v := p.w.driver.lookup(p.id)
	eventually(p.w.t, "the change was acted on", func() error {
		current, err := os.Readlink(p.target + "/..data")
		acted, actedErr := os.ReadFile(v.marker())
		if err := errors.Join(err, actedErr); err != nil || string(acted) != current+"\n" {
			return fmt.Errorf("acted on %q, visible %q, %w", acted, current, err)
		}
		return nil
	})
}

// A change is acted on once, and by the next driver where one ends before it could; the first files are none.
func TestActsOnChange(t *testing.T) {
	w := newWorld(t)
	w.grant(w.ns, account1)
	w.set("ConfigMap", w.ns, "cm", "1")
	f := &fakeRuntime{}
	w.stop()
	end := w.act(f)
	w.start()
	p := w.pod("p", account1, map[string]string{"kind": "ConfigMap", "name": "cm", "onChange": "exec=reload", "onChangeDebounce": "10ms",
		"onChangeRetries": "20"})
	must(t, p.publish())
	f.set(nil, p.target)
	p.marked()
	w.set("ConfigMap", w.ns, "cm", "2")
	f.acted(t, 1)
	p.marked()
	w.eventSays("ConfigChangeApplied", `Volume conf changed: "reload" in container c`)
	must(t, p.publish())

	// The command fails, and the driver ends before it was tried again.
	f.set(errors.New("broken"), p.target)
	w.set("ConfigMap", w.ns, "cm", "3")
	f.acted(t, 2)
	w.eventSays("ConfigChangeFailed", "broken; trying again")
	w.stop()
	end()
	f.set(nil, p.target)
	f.mu.Lock()
	f.calls = nil
	f.mu.Unlock()
	end = w.act(f)
	w.start()
	f.acted(t, 1)
	p.marked()
	w.stop()
	end()
	end = w.act(f)
	defer func() { end() }()
	w.start()
	must(t, p.publish())
	p.shows("k", "3")
	p.marked()
	w.set("ConfigMap", w.ns, "cm", "4")
	f.acted(t, 2)
	p.marked()

	marker := w.driver.lookup(p.id).marker()
	must(t, p.unpublish())
	p.gone()
	if _, err := os.Stat(marker); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the marker is left: %v", err)
	}
	w.stop()
}

// Where no action can be taken, the volume is published and its user told.
func TestActionUnheeded(t *testing.T) {
	w := newWorld(t)
	w.grant(w.ns, account1)
	w.set("ConfigMap", w.ns, "cm", "1")
	p := w.pod("p", account1, map[string]string{"kind": "ConfigMap", "name": "cm", "onChange": "signal=SIGHUP"})
	must(t, p.publish())
	w.eventSays("attribute onChange has no effect", "--cri-endpoint")
	w.set("ConfigMap", w.ns, "cm", "2")
	p.shows("k", "2")
	must(t, p.unpublish())
}

func TestActionAttributes(t *testing.T) {
	for name, tt := range map[string]struct {
		attributes map[string]string
		says       string
	}{
		"wrong":      {map[string]string{"onChange": "signal=SIGKILL"}, "volume attribute onChange: "},
		"option":     {map[string]string{"onChange": "signal=SIGHUP", "onChangeDebounce": "1h"}, "volume attribute onChangeDebounce: "},
		"no action":  {map[string]string{"onChangeRetries": "1"}, "has no effect without onChange"},
		"restart":    {map[string]string{"onChange": "restart-container"}, "is not offered here"},
		"misspelt":   {map[string]string{"onChange": "signal=SIGHUP", "onChangeDebonce": "1s"}, "there is no such attribute"},
		"of its pod": {map[string]string{"onChange": "signal=SIGHUP", "onChangeVolumes": "v"}, "there is no such attribute"},
	} {
		tt.attributes["kind"], tt.attributes["name"] = "ConfigMap", "cm"
		if _, err := ParseAttributes(tt.attributes, "ns"); !errors.Is(err, csivolume.ErrInvalid) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v; want an error with %q", name, err, tt.says)
		}
	}
	spec, err := ParseAttributes(map[string]string{"kind": "ConfigMap", "name": "cm", "onChange": "http=:80/x", "onChangeTimeout": "2s"}, "ns")
	if err != nil || spec.OnChange == nil || spec.OnChange.Timeout != 2*time.Second {
		t.Errorf("%+v, %v", spec, err)
	}
}
