package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/orlop-io/orlop/cluster"
	"github.com/orlop-io/orlop/cluster/supervisor"
)

func statusOf(phase cluster.Phase, components ...supervisor.Status) *cluster.Status {
	return &cluster.Status{Phase: phase, Components: components}
}

func component(name string, state supervisor.State, reason string) supervisor.Status {
	return supervisor.Status{Name: name, State: state, Reason: reason, Took: 0.42}
}

func TestPlainProgress(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out)
	for _, s := range []*cluster.Status{
		statusOf(cluster.PhaseStarting, component("etcd", supervisor.Starting, "refused"), component("dns", supervisor.Waiting, "")),
		statusOf(cluster.PhaseStarting, component("etcd", supervisor.Ready, ""), component("dns", supervisor.Waiting, "")),
		statusOf(cluster.PhaseStarting, component("etcd", supervisor.Ready, ""), component("dns", supervisor.Failed, "exited with status 1")),
		statusOf(cluster.PhaseStarting, component("etcd", supervisor.Ready, ""), component("dns", supervisor.Failed, "exited with status 1")),
		statusOf(cluster.PhaseStopping, component("etcd", supervisor.Stopping, ""), component("dns", supervisor.Stopped, "")),
	} {
		p.show(s)
	}
	want := []string{"etcd ready after 0.4 s", "dns exited with status 1; starting it again", "dns stopped"}
	var got []string
	for line := range strings.Lines(out.String()) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("printed %q, want %q", got, want)
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Error("an escape sequence where there is no terminal")
	}
}

func TestTerminalProgress(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out)
	p.terminal = true
	starting := statusOf(cluster.PhaseStarting, component("etcd", supervisor.Ready, ""), component("dns", supervisor.Waiting, ""))
	p.show(starting)
	if got := out.String(); strings.Count(got, "\n") != 2 || strings.Contains(got, "A\x1b") || !strings.Contains(got, "waiting") {
		t.Errorf("painted %q", got)
	}
	out.Reset()
	p.show(starting)
	if got := out.String(); !strings.HasPrefix(got, "\x1b[2A\x1b[2K") {
		t.Errorf("not painted over the two lines: %q", got)
	}
	// Once settled, what was printed below must not be painted over.
	ready := statusOf(cluster.PhaseReady, component("etcd", supervisor.Ready, ""), component("dns", supervisor.Ready, ""))
	p.settle(ready)
	out.Reset()
	p.show(ready)
	if got := out.String(); got != "" {
		t.Errorf("printed %q although nothing changed", got)
	}
	p.show(statusOf(cluster.PhaseReady, component("etcd", supervisor.Failed, "was killed"), component("dns", supervisor.Ready, "")))
	if got := strings.Join(strings.Fields(out.String()), " "); got != "etcd was killed; starting it again" {
		t.Errorf("printed %q", got)
	}
}

func TestStartFailureNamesTheComponent(t *testing.T) {
	s := statusOf(cluster.PhaseFailed,
		supervisor.Status{Name: "etcd", State: supervisor.Failed, Log: "/d/logs/etcd.log", LastLog: []string{"panic: no space", strings.Repeat("x", 5000)}},
		supervisor.Status{Name: "kube-apiserver", State: supervisor.Starting, LastLog: []string{"etcd does not answer"}})
	s.Error, s.FailedComponent = "etcd exited with status 2", "etcd"
	got := startFailure(s).Error()
	for _, want := range []string{"the cluster did not start: etcd exited with status 2\n", "last lines of etcd (all of it: /d/logs/etcd.log):\n",
		"\n  panic: no space\n", "x…"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in: %s", want, got)
		}
	}
	if strings.Contains(got, "kube-apiserver") || len(got) > 1000 {
		t.Errorf("more than was asked for: %s", got)
	}
}

// played is a cluster that goes through a list of statuses.
type played struct {
	statuses []*cluster.Status
	at       int
	done     func()
}

func (p *played) Status() cluster.Status { return *p.statuses[min(p.at, len(p.statuses)-1)] }

func (p *played) Wait(context.Context, uint64) {
	if p.at++; p.at >= len(p.statuses) {
		p.done()
	}
}

func TestForegroundSaysWhatToTypeOnce(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	etcd := component("etcd", supervisor.Ready, "")
	p := &played{done: cancel, statuses: []*cluster.Status{statusOf(cluster.PhaseStarting), statusOf(cluster.PhaseReady, etcd),
		statusOf(cluster.PhaseReady, etcd), statusOf(cluster.PhaseStopping, component("etcd", supervisor.Stopped, ""))}}
	var out bytes.Buffer
	if err := watch(ctx, &out, cluster.Layout{DataDir: "/d"}, p, func() { t.Error("stopped") }); err != nil {
		t.Error(err)
	}
	if got := out.String(); strings.Count(got, "orlop --data-dir /d down") != 1 || !strings.HasSuffix(got, "stopped\n") {
		t.Errorf("printed:\n%s", got)
	}
}

func TestForegroundStopsWhatCannotStart(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	failed := statusOf(cluster.PhaseFailed, supervisor.Status{Name: "etcd", State: supervisor.Failed, LastLog: []string{"no space"}})
	failed.Error, failed.FailedComponent = "etcd exited with status 2", "etcd"
	p := &played{done: cancel, statuses: []*cluster.Status{failed, failed, statusOf(cluster.PhaseStopping)}}
	stops := 0
	err := watch(ctx, &bytes.Buffer{}, cluster.Layout{DataDir: "/d"}, p, func() { stops++ })
	if err == nil || !strings.Contains(err.Error(), "no space") || stops != 1 {
		t.Errorf("stopped %d times: %v", stops, err)
	}
}

func TestPrintNextQuotes(t *testing.T) {
	var out bytes.Buffer
	printNext(&out, cluster.Layout{DataDir: "/srv/with a space"}, &cluster.Status{})
	for _, want := range []string{"--data-dir '/srv/with a space' down", "KUBECONFIG='/srv/with a space/kubeconfig'"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in:\n%s", want, out.String())
		}
	}
}

func TestExitErrorSaysItsStatus(t *testing.T) {
	var exit exitError
	if err := error(statusNotRunning); !errors.As(err, &exit) || err.Error() != "exit status 3" {
		t.Errorf("got %v", err)
	}
}
