package cluster

import (
	"strings"
	"testing"
	"time"

	"github.com/orlop-io/orlop/cluster/supervisor"
)

func TestJudgeOfAStart(t *testing.T) {
	begin := time.Now()
	late := begin.Add(startPatience)
	status := func(name string, state supervisor.State, reason string, restarts int) supervisor.Status {
		return supervisor.Status{Name: name, State: state, Reason: reason, Restarts: restarts}
	}
	ready := status("etcd", supervisor.Ready, "", 0)
	for _, tt := range []struct {
		name       string
		now        time.Time
		components []supervisor.Status
		component  string
		reason     string // what is in it; empty for hope
	}{
		{"just begun", begin, []supervisor.Status{status("etcd", supervisor.Starting, "refused", 0)}, "", ""},
		{"a moment before", late.Add(-1), []supervisor.Status{status("etcd", supervisor.Starting, "refused", 0)}, "", ""},
		{"never ready, never ended", late, []supervisor.Status{
			status("etcd", supervisor.Waiting, "", 0), status("kubelet", supervisor.Starting, "node x is not Ready: no CNI", 0)},
			"kubelet", "kubelet is not ready after 2m0s: node x is not Ready: no CNI"},
		{"at its gate", late, []supervisor.Status{
			status("dns", supervisor.Waiting, "", 0), status("kube-proxy", supervisor.Waiting, "no address", 0)},
			"kube-proxy", "no address"},
		{"without a word", late, []supervisor.Status{status("dns", supervisor.Starting, "", 0)}, "dns", "starting"},
		{"ends again and again", begin, []supervisor.Status{ready,
			status("dns", supervisor.Failed, "exited with status 1", startFailures)}, "dns", "dns exited with status 1"},
		{"ended a few times", begin, []supervisor.Status{
			status("dns", supervisor.Failed, "exited with status 1", startFailures-1)}, "", ""},
		{"ends, but was ready once", begin, []supervisor.Status{
			{Name: "dns", State: supervisor.Failed, Restarts: 9, Took: 1}}, "", ""},
		{"all ready, and yet of no use", late, []supervisor.Status{}, "", "the kubelet has not registered"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := startWatch{}
			w.judge(begin, []supervisor.Status{}, 0, "")
			component, reason := w.judge(tt.now, tt.components, 0, "the kubelet has not registered it")
			if component != tt.component || !strings.Contains(reason, tt.reason) || (reason == "") != (tt.reason == "") {
				t.Errorf("blames %q: %q, want %q: %q", component, reason, tt.component, tt.reason)
			}
		})
	}
}

func TestProgressProlongsAStart(t *testing.T) {
	var w startWatch
	now := time.Now()
	starting := []supervisor.Status{{Name: "a", State: supervisor.Starting}, {Name: "b", State: supervisor.Starting}}
	half := []supervisor.Status{{Name: "a", State: supervisor.Ready}, {Name: "b", State: supervisor.Starting}}
	hope := func(components []supervisor.Status, steps int, want bool) {
		t.Helper()
		if _, reason := w.judge(now, components, steps, ""); (reason == "") != want {
			t.Errorf("after %s: %q", now.Sub(w.since), reason)
		}
	}
	hope(starting, 0, true)
	now = now.Add(startPatience - time.Second)
	hope(half, 0, true) // a got ready
	now = now.Add(startPatience - time.Second)
	hope(half, 1, true) // the bootstrap did a step
	now = now.Add(startPatience - time.Second)
	hope(starting, 1, true) // one that falls back is no progress
	now = now.Add(time.Second)
	hope(half, 1, false) // nor is one that comes back
}
