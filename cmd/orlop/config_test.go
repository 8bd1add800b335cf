package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/orlop-io/orlop/cluster/configstatus"
	"github.com/orlop-io/orlop/configsync/payload"
)

func TestConfigStatusRefuses(t *testing.T) {
	dir := t.TempDir()
	for _, x := range []struct {
		args []string
		says string
	}{
		{[]string{"-o", "yaml"}, "choose json, wide or table"},
		{[]string{"-A", "-n", "x"}, "none of the others can be"},
		{[]string{"a", "b"}, "at most 1 arg"},
		{nil, "is not running: start it with 'orlop up'"},
	} {
		if x.args == nil && os.Geteuid() != 0 {
			continue // root is asked for first
		}
		_, err := run(t, append([]string{"--data-dir", dir, "config", "status"}, x.args...)...)
		if err == nil || !strings.Contains(err.Error(), x.says) {
			t.Errorf("%q: %v, want %q", x.args, err, x.says)
		}
	}
}

func TestPrintConfigStatus(t *testing.T) {
	now := time.Date(2026, 11, 20, 10, 1, 0, 0, time.UTC)
	object := configstatus.Object{Version: payload.Version{Kind: payload.Secret, Namespace: "ns", Name: "s", ResourceVersion: "5"}}
	foreign := object
	foreign.Namespace = "other"
	volume := func(name string, state configstatus.State, message string) configstatus.Volume {
		return configstatus.Volume{Namespace: "ns", Pod: "p", PodUID: "u", Name: name, Kind: "secret", Path: "/path", Generation: "..g",
			Since: now.Add(-time.Minute), Objects: []configstatus.Object{object, foreign}, State: state, Message: message}
	}
	nameless := configstatus.Volume{PodUID: "uid", Name: "v", Kind: "configMap", State: configstatus.Unknown}
	r := &configstatus.Report{Compared: true, Volumes: []configstatus.Volume{
		volume("s", configstatus.Behind, "Secret s is at version 7"), volume("kube-api-access-x", configstatus.Current, ""), nameless},
		Fixed: []configstatus.Fixed{{Namespace: "ns", Pod: "p", Container: "c", What: "env A", Kind: payload.Secret, Name: "s", Message: "restart it"}}}
	for _, x := range []struct {
		output     string
		namespaces bool
		report     *configstatus.Report
		want       string
	}{
		{"", false, r, `
POD   VOLUME   KIND        OBJECTS                      SINCE   STATE
p     s        secret      Secret/s@5,Secret/other/s@5  60s     behind: Secret s is at version 7
uid   v        configMap   -                            -       unknown

Does not follow while the container runs:
POD   CONTAINER   WHAT    OBJECT     NOTE
p     c           env A   Secret/s   restart it
`},
		{"wide", true, &configstatus.Report{Volumes: r.Volumes[1:2], Failure: "connection refused"}, `
The API server could not be asked, so this is what is on the node, compared with nothing:
connection refused

NAMESPACE   POD   VOLUME              KIND     OBJECTS                      SINCE   STATE     GENERATION   PATH
ns          p     kube-api-access-x   secret   Secret/s@5,Secret/other/s@5  60s     current   ..g          /path
`},
		{"", false, &configstatus.Report{Compared: true, Volumes: r.Volumes[1:2]}, "\nNo configuration volumes.\n"},
	} {
		var b strings.Builder
		if err := printConfigStatus(&b, x.report, x.output, x.namespaces, now); err != nil {
			t.Fatal(err)
		}
		// Of the columns' width only the order matters here.
		if got, want := strings.Fields(b.String()), strings.Fields(x.want); strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("-o %s prints\n%s, want\n%s", x.output, b.String(), x.want)
		}
	}
}
