package preflight

import (
	"context"
	"slices"
	"strings"
	"testing"
)

func TestPorts(t *testing.T) {
	const listening = `   0: 00000000:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0
   1: 0100007F:094B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4712 1 0
   2: 0100007F:280A 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4713 1 0
garbage
`
	h := newFake(t)
	h.write("proc/net/tcp", tcpHeader+listening)
	h.write("proc/net/tcp6", tcpHeader+"   0: 00000000000000000000000000000000:2809 0:0 0A 0:0 0:0 0 0 0 4714 1 0\n")
	h.symlink("socket:[4711]", "proc/100/fd/5")
	h.symlink("/dev/null", "proc/100/fd/1")
	h.write("proc/100/cmdline", "/opt/bin/orlop\x00kube-apiserver\x00--token=secret\x00")
	h.symlink("socket:[4714]", "proc/200/fd/9")
	h.write("proc/200/cmdline", "")
	h.write("proc/200/comm", "kworker\n")

	// 10250, in hexadecimal 280A, is connected and not listened on.
	_, problems := h.run(t.Context(), Options{Ports: []int{10250, 6443, 2379, 10249, 10257}})
	var got []string
	for _, p := range problems {
		got = append(got, p.Error())
		if !p.Fatal || strings.Contains(p.Error(), "secret") {
			t.Errorf("%+v", p)
		}
	}
	want := []string{
		"port 2379: in use by a process that cannot be seen, perhaps of another container; stop it, or start with --netns, " +
			"which needs no port of the host",
		"port 6443: in use by process 100 (/opt/bin/orlop kube-apiserver); a host runs one cluster without --netns: stop the " +
			"other with 'orlop down', or start with --netns",
		"port 10249: in use by process 200 (kworker); stop it, or start with --netns, which needs no port of the host",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestPortsOfTheLastRun has a component of the same cluster hold a port: until it ends, or for good.
func TestPortsOfTheLastRun(t *testing.T) {
	h := newFake(t)
	const row = "   0: 00000000:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0\n"
	h.write("proc/net/tcp", tcpHeader+row)
	h.symlink("socket:[4711]", "proc/100/fd/5")
	h.write("proc/100/cmdline", "orlop\x00kube-apiserver\x00--cert-dir=/data/pki\x00")
	opts := Options{DataDir: "/data", Ports: []int{6443}, MinFree: 1}
	looks := 0
	h.pause = func(context.Context) error { looks++; return nil }
	problems := checkPorts(t.Context(), h.machine, opts, &Facts{})
	if len(problems) != 1 || looks != leftoverLooks-1 || !strings.Contains(problems[0].Next, "does not end: kill it") {
		t.Errorf("after %d looks: %v", looks, problems)
	}
	h.pause = func(context.Context) error { h.write("proc/net/tcp", tcpHeader); return nil }
	if problems := checkPorts(t.Context(), h.machine, opts, &Facts{}); len(problems) != 0 {
		t.Errorf("once it has ended: %v", problems)
	}
	h.write("proc/net/tcp", tcpHeader+row)
	opts.DataDir = "/dat"
	h.pause = func(context.Context) error {
		t.Error("another cluster's process was waited for")
		return context.Canceled
	}
	if problems := checkPorts(t.Context(), h.machine, opts, &Facts{}); len(problems) != 1 ||
		!strings.Contains(problems[0].Next, "orlop down") {
		t.Errorf("of another cluster: %v", problems)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	opts.DataDir, h.pause = "/data", pause
	if problems := checkPorts(ctx, h.machine, opts, &Facts{}); len(problems) != 1 {
		t.Errorf("with the context done: %v", problems)
	}
}
